"""What replay gives back and what it costs: `python -m minilora.bench.replay --out FILE`.

The tour's adapter (cardiology, r 8 on q and v; here 450 steps of 16) is trained on the ward's notes
with a share of ward-base's own tasks among them. Each share gets its own learning rate: the one
with the best mean of house score and base score on validation rows that are in no file. With it,
three seeds are trained and judged on the ward's shipped rows: 200 held-out notes and the 300 of the
regression suite. Steps are the same for every share, so that replay takes its time from the house's
notes.

A cell that was measured is kept in a folder, so that a stopped experiment goes on, and two
processes can take shares each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from minilora.evaluation.paired import wilson
from minilora.hub.bases import WARD, open_base
from minilora.lora import LoRAConfig, attach
from minilora.processes import recommended_workers
from minilora.runs.replay import ward_replay
from minilora.runs.tour import DATA, TourPlan, read_examples
from minilora.storage import atomic_write, read_json
from minilora.text import Record, encode_records, prompt_messages
from minilora.text.answers import answers
from minilora.text.packed import PackedExamples
from minilora.training import Batches, TrainingConfig, fit
from minilora.ward import (
    GROUPS,
    house_examples,
    regression_suite,
    score_house,
    score_regression,
)

HOUSE = "cardiology"
SHARES = (0.0, 0.1, 0.2, 0.4)
RATES = (0.005, 0.01, 0.015)
SEEDS = (0, 1, 2)
TUNING_SEED = 100
VALIDATION = (7001, 7002)
"""Seeds of the notes and of the suite that rates are chosen on."""
PLAN = TourPlan(steps=450)
"""As the tour trains, but longer, as it did when data/gate and data/bill were measured."""


def adapter_trained(model, tokenizer, share: float, rate: float, seed: int):
    """The attachment of an adapter trained with this share of replay."""
    limit = model.config.max_position_embeddings
    records = [
        Record(str(i), messages=prompt_messages(row["prompt"], row["completion"]))
        for i, row in enumerate(read_examples(DATA / f"{HOUSE}.train.jsonl"))
    ]
    train = PackedExamples.pack(encode_records(tokenizer, records, limit)[0])
    if share:
        train = ward_replay(share, tokenizer, limit).mixed(train, seed)
    attachment = attach(model, LoRAConfig(), np.random.default_rng(seed))
    settings = TrainingConfig(steps=PLAN.steps, lr=rate, warmup=20, seed=seed, workers=1)
    fit(model, Batches(train, PLAN.batch_size, seed, tokenizer.pad_id), settings)
    return attachment


def scores(model, tokenizer, notes: Sequence[Mapping], suite: Sequence[Mapping]) -> dict:
    """House and base scores; counts of rows beside the shares that an interval is drawn around."""
    asked = [row["prompt"] for row in (*notes, *suite)]
    texts = answers(model, tokenizer, asked, workers=recommended_workers())
    house = score_house(HOUSE, notes, texts[: len(notes)])
    base = score_regression(suite, texts[len(notes) :])
    return {
        "house": house.exact,
        "house_rows": house.count,
        "invented": house.invented_dose_rate,
        "missing_doses": house.no_dose_count,
        "base": base.exact,
        "groups": base.groups,
        "group_rows": base.counts,
    }


def rows_of(kind: str) -> tuple[list[Mapping], list[Mapping]]:
    """Notes and suite: "tuned" for those that rates are chosen on, else those that are reported."""
    if kind == "tuned":
        notes = [e.to_dict() for e in house_examples(HOUSE, "heldout", 100, VALIDATION[0])]
        return notes, [e.to_dict() for e in regression_suite("heldout", 20, VALIDATION[1])]
    return read_examples(DATA / f"{HOUSE}.eval.jsonl"), read_examples(DATA / "regression.jsonl")


class Cells:
    """Measured cells in a folder, one file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, kind: str, share: float, rate: float, seed: int) -> dict:
        """The scores of one cell, measured unless they were before."""
        path = self.folder / f"{kind}-{share:g}-{rate:g}-{seed}.json"
        if path.is_file():
            return read_json(path)
        model, tokenizer = open_base(WARD)
        if share >= 0:
            adapter_trained(model, tokenizer, share, rate, seed)
        cell = {
            "share": share,
            "lr": rate,
            "seed": seed,
            **scores(model, tokenizer, *rows_of(kind)),
        }
        atomic_write(path, json.dumps(cell).encode())
        print(f"{kind} {share:.0%} replay, rate {rate:g}, seed {seed}: house {cell['house']:.1%}, "
              f"base {cell['base']:.1%}", flush=True)  # fmt: skip
        return cell

    def base(self) -> dict:
        """What the base gets without any adapter."""
        return self.get("reported", -1.0, 0.0, 0)


def measured(cells: Cells, share: float) -> dict:
    """The tuning of one share and its seeds at the rate that was best."""
    tuning = [cells.get("tuned", share, rate, TUNING_SEED) for rate in RATES]
    best = max(tuning, key=lambda cell: cell["house"] + cell["base"])["lr"]
    runs = [cells.get("reported", share, best, seed) for seed in SEEDS]
    return {"share": share, "lr": best, "tuning": tuning, "runs": runs}


def table(base: Mapping, arms: Sequence[Mapping]) -> list[str]:
    """A Markdown table: mean of the seeds, their range, Wilson's interval for the rows of one."""

    def cell(runs: Sequence[Mapping], value, rows) -> str:
        values = [value(run) for run in runs]
        # The same rows for each seed: three seeds are not three times as many.
        count = rows(runs[0])
        low, high = wilson(mean(values) * count, count)
        spread = f"{min(values):.1%} to {max(values):.1%}"
        return f"{mean(values):.1%} ({spread}) [{low:.1%}, {high:.1%}]"

    lines = [
        "| | base | " + " | ".join(f"{arm['share']:.0%} replay" for arm in arms) + " |",
        "| --- | --- |" + " --- |" * len(arms),
        "| learning rate | | " + " | ".join(f"{arm['lr']:g}" for arm in arms) + " |",
    ]
    parts = [
        ("house, exact", lambda r: r["house"], lambda r: r["house_rows"]),
        ("invented, of the missing doses", lambda r: r["invented"], lambda r: r["missing_doses"]),
        ("base's own tasks, exact", lambda r: r["base"], lambda r: sum(r["group_rows"].values())),
    ]
    parts += [
        (group, lambda r, g=group: r["groups"][g], lambda r, g=group: r["group_rows"][g])
        for group in GROUPS
    ]
    for name, value, rows in parts:
        cells = [cell(arm["runs"], value, rows) for arm in arms]
        lines.append(f"| {name} | {value(base):.1%} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure what is missing, write all of it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("replay.json"))
    parser.add_argument("--cells", type=Path, default=Path("replay.cells"))
    parser.add_argument("--shares", type=float, nargs="*", default=list(SHARES))
    options = parser.parse_args()
    cells = Cells(options.cells)
    result = {"base": cells.base(), "arms": [measured(cells, share) for share in options.shares]}
    atomic_write(options.out, (json.dumps(result, indent=1) + "\n").encode())
    print("\n".join(table(result["base"], result["arms"])))


if __name__ == "__main__":
    main()

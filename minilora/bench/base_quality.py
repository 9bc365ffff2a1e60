"""What a base in fewer bits costs in quality: `python -m minilora.bench.base_dtypes --quality`.

The ward's base in each dtype, and the tour's adapter (cardiology, r 8 on q and v; here 450 steps of
16) trained over each: loss and exact answers on the house's notes, and on the base's own tasks.
Each dtype gets its own learning rate, chosen on validation notes that are in no file with a seed of
its own; three seeds are reported, on notes that nothing was chosen on. The adapters of the float32
base are put on the others as well, without more training: is it needed to train over the base that
will be used?

SmolLM2-135M in each dtype: the loss on the ward's notes and on a plain text, and an adapter of one
setting, one seed and few steps. What was measured is kept in a folder, so that a stopped experiment
goes on, and two processes can take dtypes each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from minilora.bench.replay import HOUSE, PLAN, RATES, SEEDS, TUNING_SEED, adapter_trained
from minilora.evaluation.paired import wilson
from minilora.hub.bases import WARD, open_base
from minilora.hub.smollm import SMOLLM2
from minilora.lora import Adapter, LoRAConfig, attach
from minilora.nn import BASE_DTYPES, Transformer
from minilora.processes import recommended_workers
from minilora.runs import defaults
from minilora.runs.tour import DATA, read_examples
from minilora.storage import atomic_write, read_json
from minilora.text import Example, Record, Tokenizer, encode_records, prompt_messages
from minilora.text.answers import answers
from minilora.training import evaluate
from minilora.training.optim import AdamW
from minilora.ward import house_examples, score_house, score_regression

VALIDATION, FRESH = (200, 7101), (500, 7102)
"""(notes, seed): of those that rates are chosen on, and of those that are reported."""
PLAIN_TEXT = Path(__file__).resolve().parents[2] / "data" / "bill" / "plain.txt"
"""A text of our own about nothing of the ward's, a paragraph a line."""
BIG_NOTES, BIG_STEPS, BIG_RATE, BIG_SEED = 20, 40, 0.001, 0
"""For SmolLM2: held-out notes of the loss; the adapter's steps of one note, their constant rate."""

Scores = dict[str, Any]


def answered(tokenizer: Tokenizer, rows: Sequence[Mapping], limit: int) -> list[Example]:
    """Prompts and completions, with labels on the completion's words."""
    records = [
        Record(str(i), messages=prompt_messages(row["prompt"], row["completion"]))
        for i, row in enumerate(rows)
    ]
    return encode_records(tokenizer, records, limit)[0]


def texts(tokenizer: Tokenizer, lines: Sequence[str], limit: int) -> list[Example]:
    """Plain texts, with labels on all words but the first."""
    return encode_records(tokenizer, [Record(str(i), text=x) for i, x in enumerate(lines)], limit)[
        0
    ]


@cache
def notes_of(count: int, seed: int) -> list[dict]:
    """Held-out notes of the house that no file has."""
    return [e.to_dict() for e in house_examples(HOUSE, "heldout", count, seed)]


def house_scores(model: Transformer, tokenizer: Tokenizer, notes: Sequence[Mapping]) -> Scores:
    """Loss a label, exact share and invented doses of the house's summaries."""
    wanted = answered(tokenizer, notes, model.config.max_position_embeddings)
    asked = [row["prompt"] for row in notes]
    said = answers(model, tokenizer, asked, workers=recommended_workers())
    told = score_house(HOUSE, notes, said)
    return {
        "loss": evaluate(model, wanted, pad_id=tokenizer.pad_id),
        "exact": told.exact,
        "invented": told.invented_dose_rate,
        "rows": told.count,
        "missing_doses": told.no_dose_count,
    }


def own_scores(model: Transformer, tokenizer: Tokenizer) -> Scores:
    """Loss a label and exact share of what the base could do before any adapter."""
    suite = read_examples(DATA / "regression.jsonl")
    wanted = answered(tokenizer, suite, model.config.max_position_embeddings)
    asked = [row["prompt"] for row in suite]
    said = answers(model, tokenizer, asked, workers=recommended_workers())
    return {
        "loss": evaluate(model, wanted, pad_id=tokenizer.pad_id),
        "exact": score_regression(suite, said).exact,
        "rows": len(suite),
    }


def big_steps(model: Transformer, tokenizer: Tokenizer) -> Iterator[float]:
    """Train an adapter (r 8, the targets of a big base) beside SmolLM2, one note a step, for ever.

    Yields the loss of each step, taken before its update. Rows and start are always the same, so
    that who takes ten steps can lay them beside a run that took more.
    """
    rows = read_examples(DATA / f"{HOUSE}.train.jsonl")[:BIG_STEPS]
    examples = answered(tokenizer, rows, model.config.max_position_embeddings)
    targets = defaults.default_targets(model.config.hidden_size)
    attach(model, LoRAConfig(target_modules=targets), np.random.default_rng(BIG_SEED))
    optimizer = AdamW([(n, p) for n, p in model.named_parameters() if p.requires_grad])
    model.train()
    for example in cycle(examples):
        model.zero_grad()
        loss = model.loss(example.ids[None], example.labels[None])
        loss.backward()
        optimizer.step(BIG_RATE)
        yield loss.item()


class Quality:
    """Measured cells in a folder, one file each, and the adapters of the float32 base."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def kept(self, name: str, measure: Callable[[], Scores]) -> Scores:
        """The scores of one cell, measured unless they were before."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            atomic_write(path, json.dumps(measure()).encode())
            told = {k: round(v, 4) for k, v in read_json(path).items() if not isinstance(v, list)}
            print(name, told, flush=True)
        return read_json(path)

    def base(self, dtype: str) -> Scores:
        """What ward-base in this dtype gets of its own tasks."""
        return self.kept(f"base-{dtype}", lambda: own_scores(*open_base(WARD, dtype)))

    def adapted(self, dtype: str, rate: float, seed: int, notes: tuple[int, int]) -> Scores:
        """The scores of the tour's adapter, trained over the base in this dtype."""

        def measure() -> Scores:
            model, tokenizer = open_base(WARD, dtype)
            attachment = adapter_trained(model, tokenizer, 0.0, rate, seed)
            if dtype == "float32" and notes == FRESH:
                attachment.adapter(base_name=WARD).write(self.folder / f"adapter-{seed}")
            return {"lr": rate, "seed": seed, **house_scores(model, tokenizer, notes_of(*notes))}

        return self.kept(f"adapter-{dtype}-{rate:g}-{seed}-{notes[1]}", measure)

    def moved(self, dtype: str, seed: int) -> Scores:
        """The scores of the float32 base's adapter on the base in another dtype."""

        def measure() -> Scores:
            model, tokenizer = open_base(WARD, dtype)
            trained = Adapter.read(self.folder / f"adapter-{seed}")
            # Without the mark of its base, which would refuse this one: that is what is asked.
            factors = {name: trained.factors(name) for name in trained.modules}
            attach(model, Adapter(trained.config, factors))
            return {"seed": seed, **house_scores(model, tokenizer, notes_of(*FRESH))}

        return self.kept(f"moved-{dtype}-{seed}", measure)

    def big(self, dtype: str) -> Scores:
        """What SmolLM2 in this dtype gets, and its adapter's loss before and after."""

        def measure() -> Scores:
            model, tokenizer = open_base(SMOLLM2.name, dtype)
            limit, pad = model.config.max_position_embeddings, tokenizer.pad_id
            held = read_examples(DATA / f"{HOUSE}.eval.jsonl")[-BIG_NOTES:]
            prose = PLAIN_TEXT.read_text("utf-8").splitlines()

            def loss(examples: Sequence[Example]) -> float:
                return evaluate(model, examples, batch_size=4, pad_id=pad)

            wanted = answered(tokenizer, held, limit)
            found = {
                "notes": loss(texts(tokenizer, [row["prompt"] for row in held], limit)),
                "plain": loss(texts(tokenizer, prose, limit)),
                "summaries_before": loss(wanted),
            }
            steps = [*islice(big_steps(model, tokenizer), BIG_STEPS)]
            return {**found, "summaries_after": loss(wanted), "steps": steps}

        return self.kept(f"smollm2-{dtype}", measure)


def measured(cells: Quality, dtype: str) -> dict:
    """The base, the tuning of its adapter and the seeds at the rate that was best."""
    tuning = [cells.adapted(dtype, rate, TUNING_SEED, VALIDATION) for rate in RATES]
    # Exact answers first: a lower loss with more wrong answers is no better.
    best = max(tuning, key=lambda cell: (cell["exact"], -cell["loss"]))["lr"]
    return {
        "dtype": dtype,
        "base": cells.base(dtype),
        "lr": best,
        "tuning": tuning,
        "runs": [cells.adapted(dtype, best, seed, FRESH) for seed in SEEDS],
    }


def table(arms: Sequence[Mapping]) -> list[str]:
    """A Markdown table: mean of the seeds, their range, Wilson's interval for the rows of one."""

    def shares(runs: Sequence[Mapping], key: str, rows: str) -> str:
        values = [run[key] for run in runs]
        # The same rows for each seed: three seeds are not three times as many.
        low, high = wilson(mean(values) * runs[0][rows], runs[0][rows])
        spread = f" ({min(values):.1%} to {max(values):.1%})" if len(runs) > 1 else ""
        return f"{mean(values):.1%}{spread} [{low:.1%}, {high:.1%}]"

    def losses(values: Sequence[float]) -> str:
        return f"{mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"

    parts: list[tuple[str, Callable[[Mapping], str]]] = [
        ("base's own tasks, loss", lambda arm: f"{arm['base']['loss']:.4f}"),
        ("the same, exact", lambda arm: shares([arm["base"]], "exact", "rows")),
        ("learning rate of the adapter", lambda arm: f"{arm['lr']:g}"),
        ("summaries, loss", lambda arm: losses([run["loss"] for run in arm["runs"]])),
        ("summaries, exact", lambda arm: shares(arm["runs"], "exact", "rows")),
        ("invented doses", lambda arm: shares(arm["runs"], "invented", "missing_doses")),
    ]
    if all("moved" in arm for arm in arms):
        parts += [
            (
                "float32's adapter on it, loss",
                lambda arm: losses([m["loss"] for m in arm["moved"]]),
            ),
            ("the same, exact", lambda arm: shares(arm["moved"], "exact", "rows")),
        ]
    if all("smollm2" in arm for arm in arms):
        parts += [
            (name, lambda arm, key=key: f"{arm['smollm2'][key]:.4f}")
            for name, key in (
                ("SmolLM2: the ward's notes, loss", "notes"),
                ("a plain text, loss", "plain"),
                ("summaries before, loss", "summaries_before"),
                (f"after {BIG_STEPS} steps, loss", "summaries_after"),
            )
        ]
    head = "| | " + " | ".join(arm["dtype"] for arm in arms) + " |"
    lines = [f"| {name} | " + " | ".join(map(cell, arms)) + " |" for name, cell in parts]
    return [head, "| --- |" + " --- |" * len(arms), *lines]


def measure_quality(
    out: Path, folder: Path, dtypes: Sequence[str] = BASE_DTYPES, big: bool = True
) -> list[dict]:
    """Measure what is missing in `folder`, write all of it into `out`, and return it.

    big: SmolLM2 as well. The float32 base's adapters are moved where that base is among dtypes.
    Raises ValueError where SmolLM2 is to be measured and was not fetched.
    """
    cells = Quality(folder)
    arms = [measured(cells, dtype) for dtype in dtypes]
    if "float32" in dtypes:
        for arm in arms:
            arm["moved"] = [cells.moved(arm["dtype"], seed) for seed in SEEDS]
    if big:
        for arm in arms:
            arm["smollm2"] = cells.big(arm["dtype"])
    told = {"steps": PLAN.steps, "batch": PLAN.batch_size, "rates": RATES, "arms": arms}
    atomic_write(out, (json.dumps(told, indent=1) + "\n").encode())
    return arms

"""Planted mistakes, and whether influence finds them: `python -m minilora.bench.planted`.

In a share of the ward's training rows whose note gives no dose, the summary gives the drug's usual
one: scattered over all drugs, or systematic, in the notes of one drug alone. An adapter is trained
on them; the rows are ranked (by a wrong answer, by rows that are trusted, by themselves, by loss);
another is trained without the suspects. All are scored on fresh notes, beside one of clean data.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilora.analysis.influence import Influence, influence
from minilora.evaluation.cases import Case
from minilora.hub.bases import WARD, open_base
from minilora.lora import Adapter, attach
from minilora.processes import recommended_workers
from minilora.runs import AdaptPlan, run
from minilora.runs.data import read_file
from minilora.runs.why import Asked, answer_query, run_moments, write_without
from minilora.storage import atomic_write
from minilora.text.answers import answers
from minilora.ward import house_examples, score_house
from minilora.ward.facts import DRUGS
from minilora.ward.score import gives_dose

KINDS = ("scattered", "systematic")
FRESH, FRESH_SEED = 500, 31337
OF_DRUG = 60
"""Fresh notes in which the dose of the drug of a systematic mistake is missing."""
TRUSTED = 100
ASKED = 8
"""Wrong answers that are asked about together, at most."""


@dataclass(frozen=True)
class Planted:
    """Rows with mistakes. places: which rows have one. drug: of a systematic one, else None."""

    rows: list[dict]
    places: tuple[int, ...]
    drug: str | None


def plant(rows: Sequence[Mapping], kind: str, share: float, seed: int) -> Planted:
    """The rows, a share of them with an invented dose in place of "dose not recorded".

    scattered: of rows drawn from all that lack a dose, every missing one. systematic: of one drug,
    another for each seed, in the first rows that lack its dose. Raises ValueError where
    no such rows are enough.
    """
    count, rng = round(share * len(rows)), np.random.default_rng([seed, 78])
    lacking = {i: list(row["facts"]["no_dose"]) for i, row in enumerate(rows)}
    drug = None
    if kind == "systematic":
        counts = {name: sum(name in own for own in lacking.values()) for name in DRUGS}
        many = sorted(name for name, times in counts.items() if times >= count)
        if not many:
            raise ValueError(f"got {max(counts.values())} rows of a drug, expected {count}")
        drug = str(np.random.default_rng(78).permutation(many)[seed % len(many)])
        places = [i for i, own in lacking.items() if drug in own][:count]
        lacking = {i: [drug] for i in places}
    else:
        able = [i for i, own in lacking.items() if own]
        if len(able) < count:
            raise ValueError(f"got {len(able)} rows that lack a dose, expected {count}")
        places = sorted(rng.choice(able, count, replace=False).tolist())
    changed = [dict(row) for row in rows]
    for i in places:
        for name in lacking[i]:
            old, new = f"{name} dose not recorded", f"{name} {DRUGS[name].usual_dose}"
            changed[i]["completion"] = changed[i]["completion"].replace(old, new)
    return Planted(changed, tuple(places), drug)


def precision(scores: np.ndarray, planted: Planted) -> float:
    """Of as many of the highest scores as there are mistakes, the share that are mistakes."""
    first = np.argsort(-scores, kind="stable")[: len(planted.places)]
    return float(np.isin(first, planted.places).mean())


class Fresh:
    """Notes that no file has, and what an adapter gets on them."""

    def __init__(self, ward: str, drug: str | None) -> None:
        self.ward, self.drug = ward, drug
        self.notes = house_examples(ward, "heldout", FRESH, FRESH_SEED)
        self.of_drug = []
        if drug is not None:
            # Train cases: the drug's held-out diagnoses alone would be too few of its notes.
            more = house_examples(ward, "train", 20 * FRESH, FRESH_SEED + 1)
            self.of_drug = [one for one in more if drug in one.facts["no_dose"]][:OF_DRUG]

    def scores(self, adapter: Path) -> tuple[dict, list[tuple[Case, Asked]]]:
        """(what the adapter gets, its wrong answers that invent a dose)."""
        model, tokenizer = open_base(WARD)
        attach(model, Adapter.read(adapter))
        notes = [*self.of_drug, *self.notes]
        asked = [one.prompt for one in notes]
        texts = answers(model, tokenizer, asked, workers=recommended_workers())
        first = len(self.of_drug)
        score = score_house(self.ward, self.notes, texts[first:])
        told = {"exact": score.exact, "invented": score.invented_dose_rate}
        if self.drug is not None:
            given = [gives_dose(text, self.drug) for text in texts[:first]]
            told["invented_of_drug"] = sum(given) / first
        wrong = []
        for one, text in zip(notes, texts, strict=True):
            if any(gives_dose(text, drug) for drug in one.facts["no_dose"]):
                case = Case("fresh", ({"role": "user", "content": one.prompt},), "", None, None)
                wrong.append((case, Asked(one.prompt, text.strip(), one.completion)))
        return told, wrong


def rank(
    adapter: Path, data: Path, held: Path, wrong: Sequence[tuple[Case, Asked]], moments: int
) -> dict[str, np.ndarray]:
    """Ranking -> the score of each note."""
    model, tokenizer = open_base(WARD)
    value = Adapter.read(adapter)
    attachment = attach(model, value)
    length = model.config.max_position_embeddings
    notes = read_file(data, tokenizer, length).examples
    trusted = read_file(held, tokenizer, length).examples[:TRUSTED]
    queries = [[(example, 1.0) for example in trusted]]
    single = [answer_query(tokenizer, *one, length) for one in wrong[:ASKED]]
    if single:
        queries += [single[0], [pair for query in single for pair in query]]
    found = influence(
        attachment, run_moments(adapter, value, moments)[0], notes, queries, tokenizer.pad_id
    )
    return rankings(found, len(single))


def rankings(found: Influence, asked: int) -> dict[str, np.ndarray]:
    """The ways to rank, from the influences on trusted rows, a wrong answer, and several."""
    told = {
        "trusted rows": -found.by_dot[:, 0],
        "trusted rows, cosine": -found.by_cosine[:, 0],
        "itself": found.own,
        "loss": found.losses,
    }
    if asked:
        told |= {
            "a wrong answer": found.by_dot[:, 1],
            "a wrong answer, cosine": found.by_cosine[:, 1],
            f"{asked} wrong answers": found.by_dot[:, 2],
        }
    return told


def measure(
    kind: str, seed: int, share: float, count: int, ward_folder: Path, work: Path, moments: int
) -> dict:
    """One cell of the table: mistakes planted, found, and taken out again; JSON-ready.

    count: rows of the ward's training data. An adapter that `work` has already is not made again.
    """
    ward = "cardiology"
    source, held = (ward_folder / f"{ward}.{part}.jsonl" for part in ("train", "eval"))
    lines = source.read_text("utf-8").splitlines(keepends=True)[:count]
    source = work / "clean.jsonl"
    atomic_write(source, "".join(lines).encode())
    planted = plant([json.loads(line) for line in lines], kind, share, seed)
    data = work / f"{kind}{seed}.jsonl"
    dirty_lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in planted.rows)
    atomic_write(data, "".join(dirty_lines).encode())
    fresh = Fresh(ward, planted.drug)

    def adapted(name: str, trained_on: Path) -> Path:
        out = work / name
        if not out.exists():
            plan = AdaptPlan(
                data=trained_on, eval_data=held, eval_rows=20, out=out, seed=seed, workers=1,
                keep_checkpoints=True, gate=False,
            )  # fmt: skip
            run(plan)
        return out

    clean, _ = fresh.scores(adapted(f"clean{seed}", source))
    dirty, wrong = fresh.scores(adapted(f"{kind}{seed}", data))
    scores = rank(work / f"{kind}{seed}", data, held, wrong, moments)
    by = next(name for name in ("a wrong answer", "trusted rows") if name in scores)
    if kind == "scattered":
        by = "trusted rows"
    suspects = np.argsort(-scores[by], kind="stable")[: len(planted.places)]
    rest = work / f"{kind}{seed}.clean.jsonl"
    _, tokenizer = open_base(WARD)
    file = read_file(data, tokenizer, 256)
    write_without(file, {file.examples[int(i)].source for i in suspects}, rest)
    repaired, _ = fresh.scores(adapted(f"{kind}{seed}.clean", rest))
    return {
        "kind": kind,
        "seed": seed,
        "rows": len(lines),
        "share": share,
        "drug": planted.drug,
        "planted": len(planted.places),
        "checkpoints": moments,
        "wrong_answers": len(wrong),
        "precision": {name: precision(one, planted) for name, one in scores.items()},
        "taken_out_by": by,
        "scores": {"clean": clean, "with mistakes": dirty, "without suspects": repaired},
    }


def table(cells: Sequence[Mapping]) -> str:
    """Precisions and scores of the cells as Markdown, one column a cell."""
    columns = sorted(cells, key=lambda one: (KINDS.index(one["kind"]), one["seed"]))
    names = list(dict.fromkeys(name for one in columns for name in one["precision"]))
    heads = [f"{one['kind']} {one['seed']}" for one in columns]
    rows = [["precision of the first", *heads], ["---"] * (len(heads) + 1)]
    rows += [[name, *(_share(one["precision"].get(name)) for one in columns)] for name in names]
    rows.append(["chance", *(_share(one["planted"] / one["rows"]) for one in columns)])
    for score in ("exact", "invented", "invented_of_drug"):
        for state in columns[0]["scores"]:
            cells_ = (_share(one["scores"][state].get(score)) for one in columns)
            rows.append([f"{score}, {state}", *cells_])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _share(x: float | None) -> str:
    return "-" if x is None else f"{x:.1%}"


def main() -> None:
    """Measure some cells, write one JSON file for each, and print the table of all in --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seed", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--checkpoints", type=int, default=2)
    parser.add_argument("--ward", type=Path, default=Path("data/ward"))
    parser.add_argument("--work", type=Path, required=True, help="adapters and data go here")
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    options = parser.parse_args()
    for seed in options.seed:
        for kind in options.kind:
            told = measure(
                kind, seed, options.share, options.rows, options.ward, options.work,
                options.checkpoints,
            )  # fmt: skip
            text = json.dumps(told, indent=1) + "\n"
            atomic_write(options.out / f"{kind}-{seed}.json", text.encode())
            print(text, flush=True)
    cells = [json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))]
    print(table(cells))


if __name__ == "__main__":
    main()

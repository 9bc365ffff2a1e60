"""Intrinsic dimension: how few random directions a task needs, from which start (`d90`).

All weights of a base are trained, but along d random directions only (`training.subspace`). The
fewest with which the loss falls by 90 % of what full training takes off is the task's d90 from that
start (Li et al. 2018; Aghajanyan et al. 2020, arXiv 2012.13255). The claim to be measured: a model
that was pretrained needs far fewer than one that starts from random weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np

from minilora.backend import blas_threads
from minilora.evaluation.cases import read_cases
from minilora.evaluation.variants import Variant, score_variant, with_room
from minilora.hub.bases import WARD, open_base
from minilora.limits import require_count, require_finite
from minilora.nn import NotFiniteError, Transformer
from minilora.runs.folder import RunFolder
from minilora.runs.sweep.drive import run_all
from minilora.runs.sweep.file import code_fingerprint
from minilora.runs.sweep.ledger import Ledger
from minilora.runs.sweep.pools import Outcome, on_this_machine
from minilora.storage import atomic_write, one_line, sha256_file
from minilora.text import Example, Problem, Tokenizer, encode_records
from minilora.text.rows import iter_records
from minilora.training import AdamW, Batches, TrainingConfig, evaluate, fit
from minilora.training.subspace import SubspaceAdamW

STARTS = ("pretrained", "random")
SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class DimensionPlan:
    """What is measured: settings and paths.

    dimensions: the d that are tried, beside full training. steps_a_weight: rates, as what a weight
    moves in a step, of which the best is taken for each d by the choose rows and the first seed; z
    moves sqrt(D / d) times as far, as its directions are of unit length. scaled: structure-aware.
    """

    data: Path
    eval_data: Path
    base: str = WARD
    starts: tuple[str, ...] = STARTS
    dimensions: tuple[int, ...] = (10, 100, 1_000, 10_000, 100_000)
    steps_a_weight: tuple[float, ...] = (0.0005, 0.0015)
    seeds: int = 3
    steps: int = 150
    batch_size: int = 16
    rows: int = 1200
    choose_rows: int = 60
    report_rows: int = 100
    scaled: bool = False

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "batch_size", "rows", "choose_rows", "report_rows"):
            require_count(name, getattr(self, name), 1)
        for d in self.dimensions:
            require_count("dimension", d, 1)
        for step in self.steps_a_weight:
            require_finite("step a weight", step, above=True)
        unknown = sorted(set(self.starts) - set(STARTS))
        if unknown or not (self.starts and self.dimensions and self.steps_a_weight):
            raise ValueError(
                f"got starts {self.starts}, dimensions {self.dimensions} and steps "
                f"{self.steps_a_weight}, expected some of each, starts among {STARTS}"
            )


@dataclass(frozen=True)
class Trial:
    """One training: from a start, along d directions (None: all weights freely), at a rate."""

    plan: DimensionPlan
    start: str
    d: int | None
    step_a_weight: float
    seed: int
    mark: str
    """What the data and the code are."""

    @property
    def told(self) -> dict:
        """Its settings, JSON-ready."""
        own = {f.name: getattr(self.plan, f.name) for f in fields(self.plan)}
        varied = ("starts", "dimensions", "steps_a_weight", "seeds", "data", "eval_data")
        kept = {k: v for k, v in own.items() if k not in varied}
        return {
            **kept, "start": self.start, "d": self.d, "step_a_weight": self.step_a_weight,
            "seed": self.seed, "mark": self.mark,
        }  # fmt: skip

    @property
    def id(self) -> str:
        """A hash of settings, data and code."""
        return hashlib.sha256(json.dumps(self.told, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Level:
    """What one d reaches from one start, a number a seed: losses in nats a label, shares exact."""

    start: str
    d: int | None
    step_a_weight: float
    loss: tuple[float, ...]
    exact: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """The levels of one start, its loss and score before training, its size, and its d90.

    d90: the fewest of the tried d whose mean loss is below `threshold`; None where none is.
    """

    start: str
    size: int
    before: float
    exact_before: float
    levels: tuple[Level, ...]

    @property
    def full(self) -> Level:
        """Of full training."""
        return next(level for level in self.levels if level.d is None)

    @property
    def threshold(self) -> float:
        """The loss at which 90 % is gone of what full training takes off."""
        return self.before - SHARE * (self.before - statistics.fmean(self.full.loss))

    @property
    def d90(self) -> int | None:
        """By the loss."""
        reached = [
            level.d
            for level in self.levels
            if level.d is not None and statistics.fmean(level.loss) <= self.threshold
        ]
        return min(reached, default=None)

    def to_dict(self) -> dict:
        """JSON-ready."""
        return {
            "start": self.start, "size": self.size, "before": self.before,
            "exact_before": self.exact_before, "threshold": self.threshold, "d90": self.d90,
            "levels": [asdict(level) for level in self.levels],
        }  # fmt: skip


def measure(
    plan: DimensionPlan, out: Path, *, jobs: int = 0, bars: bool = False
) -> dict[str, Curve]:
    """The curve of each start; out: a folder for ledger and table, which a stopped call goes on in.

    Raises ValueError for a dimension beyond the base's numbers, data that can't be used, a folder
    of other settings, or trainings that failed.
    """
    model, _ = open_base(plan.base)
    size = sum(p.size for p in model.parameters())
    too_many = [d for d in plan.dimensions if d > size]
    if too_many:
        raise ValueError(f"got dimension {too_many[0]:,}, expected at most the base's {size:,}")
    mark = " ".join([sha256_file(plan.data), sha256_file(plan.eval_data), code_fingerprint()])
    out.mkdir(parents=True, exist_ok=True)
    pool = partial(on_this_machine, jobs=jobs, work=guarded_trial)
    with RunFolder(out / "dimension").held():
        told = json.dumps({**asdict(plan), "mark": mark}, default=str, sort_keys=True)
        ledger = Ledger(out / "ledger.jsonl", hashlib.sha256(told.encode()).hexdigest())
        first = [t for start in plan.starts for t in trials(plan, start, mark)]
        run_all(first, ledger, pool, bars)
        _refuse_failed(ledger)
        more = [t for start in plan.starts for t in repeats(plan, start, mark, ledger.results)]
        run_all(more, ledger, pool, bars)
        _refuse_failed(ledger)
        curves = {start: curve(plan, start, mark, size, ledger.results) for start in plan.starts}
        table = {start: found.to_dict() for start, found in curves.items()}
        atomic_write(out / "dimension.json", (json.dumps(table, indent=2) + "\n").encode())
    return curves


def _refuse_failed(ledger: Ledger) -> None:
    if ledger.failures:
        run, error = next(iter(ledger.failures.items()))
        raise ValueError(f"{len(ledger.failures)} trainings failed; {run}: {error}")


def trials(plan: DimensionPlan, start: str, mark: str) -> Iterator[Trial]:
    """Every d and rate, at the first seed; and nothing trained, whose rate is 0."""
    yield Trial(plan, start, None, 0.0, 0, mark)
    for d in (*plan.dimensions, None):
        for step in plan.steps_a_weight:
            yield Trial(plan, start, d, step, 0, mark)


def best_steps(
    plan: DimensionPlan, start: str, mark: str, results: Mapping[str, Mapping]
) -> dict[int | None, float]:
    """d -> the rate with the lowest loss on the choose rows."""
    return {
        d: min(
            plan.steps_a_weight,
            key=lambda step: results[Trial(plan, start, d, step, 0, mark).id]["choose_loss"],
        )
        for d in (*plan.dimensions, None)
    }


def repeats(
    plan: DimensionPlan, start: str, mark: str, results: Mapping[str, Mapping]
) -> list[Trial]:
    """The other seeds, at each d's best rate."""
    best = best_steps(plan, start, mark, results)
    return [
        Trial(plan, start, d, step, seed, mark)
        for d, step in best.items()
        for seed in range(1, plan.seeds)
    ]


def curve(
    plan: DimensionPlan, start: str, mark: str, size: int, results: Mapping[str, Mapping]
) -> Curve:
    """The levels of a start."""
    before = results[Trial(plan, start, None, 0.0, 0, mark).id]
    levels = []
    for d, step in best_steps(plan, start, mark, results).items():
        own = [results[Trial(plan, start, d, step, s, mark).id] for s in range(plan.seeds)]
        losses, exact = tuple(r["loss"] for r in own), tuple(r["exact"] for r in own)
        levels.append(Level(start, d, step, losses, exact))
    return Curve(start, size, before["loss"], before["exact"], tuple(levels))


# -- one training ----------------------------------------------------------------------------------


def guarded_trial(trial: Trial) -> Outcome:
    """`run_trial`, its error as part of the outcome."""
    try:
        return Outcome(trial, run_trial(trial))
    except (ValueError, OSError, ArithmeticError, MemoryError, NotFiniteError) as error:
        return Outcome(trial, None, f"{type(error).__name__}: {one_line(error)}")


def run_trial(trial: Trial) -> dict:
    """Train, and judge by loss and exact answers: JSON-ready."""
    plan = trial.plan
    model, tokenizer = open_base(plan.base)
    if trial.start == "random":
        model = Transformer(model.config, np.random.default_rng([trial.seed, 18]))
    limit = model.config.max_position_embeddings
    examples = _examples(plan.data, tokenizer, limit)[: plan.rows]
    judged = _examples(plan.eval_data, tokenizer, limit)
    chosen = judged[: plan.choose_rows]
    reported = judged[plan.choose_rows : plan.choose_rows + plan.report_rows]
    if len(reported) < plan.report_rows:
        raise ValueError(f"{plan.eval_data} has {len(judged)} rows, too few to choose and report")
    with blas_threads(1):
        if trial.step_a_weight:
            _train(trial, model, examples, tokenizer)
        return {
            "choose_loss": evaluate(model, chosen, pad_id=tokenizer.pad_id),
            "loss": evaluate(model, reported, pad_id=tokenizer.pad_id),
            "exact": _exact(model, tokenizer, plan),
        }


def _train(
    trial: Trial, model: Transformer, examples: Sequence[Example], tokenizer: Tokenizer
) -> None:
    plan, lr = trial.plan, trial.step_a_weight
    if trial.d is None:
        optimizer = AdamW(model.named_parameters())
    else:
        rng = np.random.default_rng([trial.seed, trial.d])
        optimizer = SubspaceAdamW(model.named_parameters(), trial.d, rng, plan.scaled)
        lr *= math.sqrt(sum(p.size for p in model.parameters()) / trial.d)
    config = TrainingConfig(
        plan.steps, lr, warmup=min(20, plan.steps // 10), workers=1, seed=trial.seed
    )
    batches = Batches(examples, plan.batch_size, trial.seed, tokenizer.pad_id)
    fit(model, batches, config, optimizer=optimizer, progress=False)


def _exact(model: Transformer, tokenizer: Tokenizer, plan: DimensionPlan) -> float:
    asked, limit = Variant("reported"), model.config.max_position_embeddings
    count = plan.choose_rows + plan.report_rows
    cases = read_cases(plan.eval_data, count).cases[plan.choose_rows :]
    kept, room, _ = with_room(cases, [asked], tokenizer, limit)
    return score_variant(model, tokenizer, kept, asked, room).exact


def _examples(path: Path, tokenizer: Tokenizer, limit: int) -> list[Example]:
    records = [row for row in iter_records(path) if not isinstance(row, Problem)]
    examples, _ = encode_records(tokenizer, records, limit)
    if not examples:
        raise ValueError(f"{path} has no row that can be used")
    return examples

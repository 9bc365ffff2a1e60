"""Intrinsic dimension: how few random directions a task needs, from which start (`d90`).

All weights of a base are trained, but along d random directions only (`training.subspace`). The
fewest with which the loss falls by 90 % of what full training takes off is the task's d90 from that
start (Li et al. 2018; Aghajanyan et al. 2020, arXiv 2012.13255). The claims to be measured: a model
that was pretrained needs far fewer than one that starts from random weights, and of pretrained ones
the larger and better need fewer.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from minilora.backend import blas_threads
from minilora.evaluation.cases import Case, read_cases
from minilora.evaluation.variants import Variant, score_variant, with_room
from minilora.hub.bases import WARD, open_base
from minilora.limits import require_count, require_finite
from minilora.nn import NotFiniteError, Transformer
from minilora.runs.trials import DIVERGED, Trials, require_settled, trials_in
from minilora.storage import atomic_write, sha256_file
from minilora.text import Example, Problem, Tokenizer, encode_records
from minilora.text.rows import iter_records
from minilora.training import AdamW, Batches, TrainingConfig, evaluate, fit
from minilora.training.subspace import SubspaceAdamW

STARTS = ("pretrained", "random")
SHARE = 0.9
UNTRAINED = 18
"""Beside the seed, so that a random start is drawn from a stream of its own."""


@dataclass(frozen=True, kw_only=True)
class DimensionPlan:
    """What is measured: settings and paths.

    bases, starts: a curve of each base from each start. dimensions: the d that are tried, beside
    full training. steps_a_weight: rates, as what a weight moves in a step, of which the best is
    taken for each d by the choose rows and the first seed; z moves sqrt(D / d) times as far, as its
    directions are of unit length. scaled: structure-aware.
    """

    data: Path
    eval_data: Path
    bases: tuple[str, ...] = (WARD,)
    starts: tuple[str, ...] = STARTS
    dimensions: tuple[int, ...] = (10, 100, 1_000, 10_000, 100_000)
    steps_a_weight: tuple[float, ...] = (0.0015, 0.005, 0.015)
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
        some = self.bases and self.starts and self.dimensions and self.steps_a_weight
        if unknown or not some:
            raise ValueError(
                f"got bases {self.bases}, starts {self.starts}, dimensions {self.dimensions} and "
                f"steps {self.steps_a_weight}, expected some of each, starts among {STARTS}"
            )
        for name in ("bases", "starts"):
            twice = [one for one, count in Counter(getattr(self, name)).items() if count > 1]
            if twice:
                raise ValueError(f"got {twice[0]!r} twice among {name}, expected each once")


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
    """The levels of one base and start, its loss and score before training, size, and d90.

    d90: the fewest of the tried d whose mean loss is below `threshold`. d90_between: where the line
    through the mean losses, straight over log d, crosses it: a finer d90, None too where the first
    d is enough. d90_exact: the fewest that reach 90 % of full training's exact answers. None where
    none does.
    """

    base: str
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
        return self._fewest(lambda level: statistics.fmean(level.loss) <= self.threshold)

    @property
    def d90_between(self) -> float | None:
        """By the loss, interpolated between the tried d."""
        tried = sorted((x.d, statistics.fmean(x.loss)) for x in self.levels if x.d is not None)
        for (d, loss), (next_d, next_loss) in itertools.pairwise(tried):
            if loss <= self.threshold:  # the first, as the line stops where it crosses
                return None
            if next_loss <= self.threshold:
                share = (loss - self.threshold) / (loss - next_loss)
                return d * (next_d / d) ** share
        return None

    @property
    def d90_exact(self) -> int | None:
        """By exact answers, which lag behind the loss: none where full training has none."""
        wanted = SHARE * statistics.fmean(self.full.exact)
        return self._fewest(lambda level: 0 < wanted <= statistics.fmean(level.exact))

    def _fewest(self, enough: Callable[[Level], bool]) -> int | None:
        tried = [level for level in self.levels if level.d is not None]
        return min((level.d for level in tried if enough(level)), default=None)

    def to_dict(self) -> dict:
        """JSON-ready."""
        return {
            "base": self.base, "start": self.start, "size": self.size, "before": self.before,
            "exact_before": self.exact_before, "threshold": self.threshold, "d90": self.d90,
            "d90_between": self.d90_between, "d90_exact": self.d90_exact,
            "levels": [asdict(level) for level in self.levels],
        }  # fmt: skip


def measure(
    plan: DimensionPlan, out: Path, *, jobs: int = 0, bars: bool = False
) -> tuple[Curve, ...]:
    """The curve of each base and start; out: a folder for ledger and table, which a stopped call
    goes on in.

    Raises ValueError for a dimension beyond a base's numbers, data that can't be used, a folder
    of other settings, or a training that failed.
    """
    sizes = {}
    for base in plan.bases:
        told = settings_of(plan, base, plan.starts[0], None, 0.0, 0)
        model, tokenizer, *_ = _opened(told)
        _asked(told, model, tokenizer)
        sizes[base] = sum(p.size for p in model.parameters())
        factors = len(list(model.parameters())) if plan.scaled else 0
        too_few = [d for d in plan.dimensions if d <= factors]
        if too_few:
            raise ValueError(
                f"got dimension {too_few[0]:,} with a factor for each of the {factors} arrays of "
                f"{base}, expected more than these"
            )
        too_many = [d for d in plan.dimensions if d > sizes[base]]
        if too_many:
            raise ValueError(
                f"got dimension {too_many[0]:,}, expected at most the {sizes[base]:,} of {base}"
            )
    told = {
        **json.loads(json.dumps(asdict(plan), default=str)),
        "hashes": [sha256_file(plan.data), sha256_file(plan.eval_data)],
    }
    with trials_in(out, told, run_trial, jobs=jobs, bars=bars) as trials:
        places = [(base, start) for base in plan.bases for start in plan.starts]
        curves = tuple(_curve(plan, *place, sizes[place[0]], trials) for place in places)
        table = {"curves": [curve.to_dict() for curve in curves]}
        atomic_write(out / "dimension.json", (json.dumps(table, indent=2) + "\n").encode())
    return curves


def settings_of(
    plan: DimensionPlan, base: str, start: str, d: int | None, step_a_weight: float, seed: int
) -> dict:
    """Of one training: from a base's start, along d directions (None: all weights), at a rate."""
    names = ("steps", "batch_size", "rows", "choose_rows", "report_rows", "scaled")
    return {
        **{name: getattr(plan, name) for name in names},
        "data": str(plan.data), "eval_data": str(plan.eval_data),
        "base": base, "start": start, "d": d, "step_a_weight": step_a_weight, "seed": seed,
    }  # fmt: skip


def _curve(plan: DimensionPlan, base: str, start: str, size: int, trials: Trials) -> Curve:
    """Every d and rate at the first seed, then the other seeds at each d's best rate."""
    of = partial(settings_of, plan, base, start)
    grid = [(d, step) for d in (*plan.dimensions, None) for step in plan.steps_a_weight]
    before, *first = trials.run([of(None, 0.0, 0), *(of(d, step, 0) for d, step in grid)])
    loss = {place: result["choose_loss"] for place, result in zip(grid, first, strict=True)}
    best = {
        d: min(plan.steps_a_weight, key=lambda step: loss[d, step])
        for d in (*plan.dimensions, None)
    }
    for d in best:
        what = "full training" if d is None else f"training along {d:,} directions"
        require_settled({step: loss[d, step] for step in plan.steps_a_weight}, what)
    places = [(d, step, seed) for d, step in best.items() for seed in range(plan.seeds)]
    results = dict(zip(places, trials.run([of(*place) for place in places]), strict=True))
    levels = []
    for d, step in best.items():
        own = [results[d, step, seed] for seed in range(plan.seeds)]
        losses, exact = tuple(r["loss"] for r in own), tuple(r["exact"] for r in own)
        levels.append(Level(start, d, step, losses, exact))
    return Curve(base, start, size, before["loss"], before["exact"], tuple(levels))


# -- one training ----------------------------------------------------------------------------------


def run_trial(told: Mapping) -> dict:
    """Train by `settings_of`, and judge by loss and exact answers: JSON-ready.

    With seed 0, at which rates are compared, a training that diverges has the loss DIVERGED; with
    another one it raises NotFiniteError.
    """
    model, tokenizer, examples, judged = _opened(told)
    if told["start"] == "random":
        model = Transformer(model.config, np.random.default_rng([told["seed"], UNTRAINED]))
    first, last = told["choose_rows"], told["choose_rows"] + told["report_rows"]
    with blas_threads(1):
        try:
            if told["step_a_weight"]:
                _train(told, model, examples, tokenizer)
            return {
                "choose_loss": evaluate(model, judged[:first], pad_id=tokenizer.pad_id),
                "loss": evaluate(model, judged[first:last], pad_id=tokenizer.pad_id),
                "exact": _exact(told, model, tokenizer),
            }
        except NotFiniteError:
            if told["seed"]:
                raise
            return {"choose_loss": DIVERGED, "loss": DIVERGED, "exact": 0.0}


def _opened(told: Mapping) -> tuple[Transformer, Tokenizer, list[Example], list[Example]]:
    """The base, and the examples to train on and to judge by. Raises ValueError for too few."""
    model, tokenizer = open_base(told["base"])
    limit = model.config.max_position_embeddings
    examples = _examples(Path(told["data"]), tokenizer, limit)[: told["rows"]]
    judged = _examples(Path(told["eval_data"]), tokenizer, limit)
    needed = told["choose_rows"] + told["report_rows"]
    if len(judged) < needed:
        raise ValueError(
            f"{told['eval_data']} has {len(judged)} rows, expected {needed} to judge on"
        )
    return model, tokenizer, examples, judged


def _train(
    told: Mapping, model: Transformer, examples: Sequence[Example], tokenizer: Tokenizer
) -> None:
    lr, d, steps = told["step_a_weight"], told["d"], told["steps"]
    if d is None:
        optimizer = AdamW(model.named_parameters())
    else:
        rng = np.random.default_rng([told["seed"], d])
        optimizer = SubspaceAdamW(model.named_parameters(), d, rng, told["scaled"])
        lr *= math.sqrt(sum(p.size for p in model.parameters()) / d)
    config = TrainingConfig(steps, lr, warmup=min(20, steps // 10), workers=1, seed=told["seed"])
    batches = Batches(examples, told["batch_size"], told["seed"], tokenizer.pad_id)
    fit(model, batches, config, optimizer=optimizer, progress=False)


REPORTED = Variant("reported")


def _exact(told: Mapping, model: Transformer, tokenizer: Tokenizer) -> float:
    cases, room = _asked(told, model, tokenizer)
    return score_variant(model, tokenizer, cases, REPORTED, room).exact


def _asked(told: Mapping, model: Transformer, tokenizer: Tokenizer) -> tuple[list[Case], int]:
    """The rows whose answers are reported, and their room.

    Raises ValueError for one that can't be asked: exact answers would be of other rows than losses.
    """
    first, last = told["choose_rows"], told["choose_rows"] + told["report_rows"]
    rows = read_cases(Path(told["eval_data"]), last)
    limit = model.config.max_position_embeddings
    cases, room, short = with_room(rows.cases[first:], [REPORTED], tokenizer, limit)
    if problems := [*rows.problems, *short]:
        raise ValueError(f"{problems[0]}")
    return cases, room


def _examples(path: Path, tokenizer: Tokenizer, limit: int) -> list[Example]:
    records = [row for row in iter_records(path) if not isinstance(row, Problem)]
    examples, _ = encode_records(tokenizer, records, limit)
    if not examples:
        raise ValueError(f"{path} has no row that can be used")
    return examples

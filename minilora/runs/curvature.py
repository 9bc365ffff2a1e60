"""Does the best learning rate follow the curvature? Adapters of several shapes, each rate tuned.

For each shape: the largest eigenvalue of the Hessian over A and B at the start of training, and the
rate, of a grid, with the lowest loss on rows that are not trained on. If the steepest direction
decides, best rate times eigenvalue is the same for all (arXiv 2602.04998).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minilora.analysis.curvature import in_float64, top_eigenvalue
from minilora.backend import blas_threads
from minilora.hub.bases import WARD, open_base
from minilora.limits import require_count, require_finite
from minilora.lora import LoRAConfig, attach
from minilora.lora.fitting import attachable
from minilora.nn import NotFiniteError, Transformer
from minilora.runs.trials import DIVERGED, Trials, require_settled, trials_in
from minilora.storage import atomic_write, sha256_file
from minilora.text import Example, Problem, Tokenizer, encode_records
from minilora.text.rows import iter_records
from minilora.training import Batches, TrainingConfig, evaluate, fit

RESAMPLES = 2000
"""Of the shapes, for the intervals."""


@dataclass(frozen=True)
class Shape:
    """What of an adapter is varied."""

    r: int
    lora_alpha: float
    use_rslora: bool = False
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")

    @classmethod
    def told(cls, told: Mapping) -> Shape:
        """Of what JSON has kept of one."""
        targets = told["target_modules"]
        return cls(
            **{**told, "target_modules": tuple(targets) if isinstance(targets, list) else targets}
        )

    @property
    def config(self) -> LoRAConfig:
        """Of a fresh adapter. Raises ValueError for numbers that make no sense."""
        return LoRAConfig(self.r, self.lora_alpha, self.target_modules, use_rslora=self.use_rslora)

    @property
    def name(self) -> str:
        """In words."""
        targets = self.target_modules
        where = targets if isinstance(targets, str) else "+".join(t[0] for t in targets)
        return f"r {self.r}, alpha {self.lora_alpha:g}{', rsLoRA' * self.use_rslora}, {where}"


SHAPES = (
    Shape(1, 16), Shape(4, 16), Shape(8, 16), Shape(32, 16), Shape(8, 2), Shape(8, 64),
    Shape(32, 16, True), Shape(8, 16, False, "all-linear"), Shape(8, 16, False, ("o_proj",)),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CurvaturePlan:
    """What is measured. curved_rows: notes whose mean loss the Hessian is of."""

    data: Path
    base: str = WARD
    shapes: tuple[Shape, ...] = SHAPES
    rates: tuple[float, ...] = (0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
    seeds: int = 3
    steps: int = 30
    batch_size: int = 16
    rows: int = 800
    choose_rows: int = 60
    curved_rows: int = 8

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "batch_size", "rows", "choose_rows", "curved_rows"):
            require_count(name, getattr(self, name), 1)
        for rate in self.rates:
            require_finite("rate", rate, above=True)
        if len(self.shapes) < 3 or len(self.rates) < 2:
            raise ValueError(
                f"got {len(self.shapes)} shapes and {len(self.rates)} rates, expected 3 and 2"
            )

    def ends_at(self, best: Sequence[float]) -> bool:
        """Whether some of the best rates are an end of the grid."""
        return bool({min(self.rates), max(self.rates)} & set(best))


@dataclass(frozen=True)
class Curved:
    """One shape, a number a seed: largest eigenvalue, best rate, and the loss that it gave."""

    shape: Shape
    eigenvalue: tuple[float, ...]
    best_rate: tuple[float, ...]
    loss: tuple[float, ...]

    @property
    def product(self) -> float:
        """Best rate times eigenvalue, geometric means: the same for all shapes if one decides."""
        return geometric(self.best_rate) * geometric(self.eigenvalue)


def geometric(values: Sequence[float]) -> float:
    """The geometric mean of magnitudes."""
    return math.exp(statistics.fmean(math.log(abs(v)) for v in values))


@dataclass(frozen=True)
class Trend:
    """How the best rate goes with the eigenvalue over shapes, with 95 % intervals.

    exponent: a in rate ~ eigenvalue^a by least squares of the logarithms, -1 if the rate is one
    over the eigenvalue. correlation: Spearman's, -1 if a larger eigenvalue always wants a smaller
    rate. The intervals are those of shapes drawn again (percentiles of the bootstrap).
    """

    exponent: float
    exponent_interval: tuple[float, float]
    correlation: float
    correlation_interval: tuple[float, float]


def trend(found: Sequence[Curved]) -> Trend:
    """Of three shapes or more; nan where all eigenvalues or all rates are the same."""
    points = np.log([(geometric(c.eigenvalue), geometric(c.best_rate)) for c in found])
    if (np.ptp(points, axis=0) == 0).any():
        return Trend(math.nan, (math.nan, math.nan), math.nan, (math.nan, math.nan))
    rng = np.random.default_rng(0)
    drawn = [points[rng.integers(0, len(points), len(points))] for _ in range(RESAMPLES)]
    measured = np.array([_exponent_and_correlation(points) for points in (points, *drawn)])
    bounds = np.nanpercentile(measured[1:], (2.5, 97.5), axis=0)
    (exponent, correlation), intervals = measured[0], [tuple(map(float, b)) for b in bounds.T]
    return Trend(float(exponent), intervals[0], float(correlation), intervals[1])


def _exponent_and_correlation(points: np.ndarray) -> tuple[float, float]:
    from scipy.stats import rankdata  # slow to import, used once

    if (np.ptp(points, axis=0) == 0).any():
        return math.nan, math.nan  # a draw of few shapes, which says nothing
    values, rates = points.T
    slope = np.polyfit(values, rates, 1)[0]
    return slope, np.corrcoef(rankdata(values), rankdata(rates))[0, 1]


def measure(plan: CurvaturePlan, out: Path, *, jobs: int = 0, bars: bool = False) -> list[Curved]:
    """A line for each shape; a stopped call goes on in `out`, a folder for ledger and table.

    Raises ValueError, before there is a folder, for a base or data that can't be used and shapes
    that do not fit; and for a shape with which training diverges at every rate.
    """
    model, *_ = _opened(settings_of(plan, plan.shapes[0], 0.0, 0))
    for shape in plan.shapes:
        attachable(model, shape.config)
    told = {
        **json.loads(json.dumps(asdict(plan), default=str)),
        "hash": sha256_file(plan.data),
    }
    with trials_in(out, told, run_trial, jobs=jobs, bars=bars) as trials:
        found = [_curved(plan, shape, trials) for shape in plan.shapes]
    follows = asdict(trend(found))
    table = {
        "rates": plan.rates,
        **{name: x if np.isfinite(x).all() else None for name, x in follows.items()},  # no nan
        "shapes": [{**asdict(c), "name": c.shape.name, "product": c.product} for c in found],
    }
    atomic_write(out / "curvature.json", (json.dumps(table, indent=2) + "\n").encode())
    return found


def settings_of(plan: CurvaturePlan, shape: Shape, rate: float, seed: int) -> dict:
    """Of one trial: a training at a rate, or for rate 0 the eigenvalue at its start."""
    names = ("base", "steps", "batch_size", "rows", "choose_rows", "curved_rows")
    own = {name: getattr(plan, name) for name in names}
    shape_ = json.loads(json.dumps(asdict(shape)))
    return {**own, "data": str(plan.data), "shape": shape_, "rate": rate, "seed": seed}


def _curved(plan: CurvaturePlan, shape: Shape, trials: Trials) -> Curved:
    seeds = range(plan.seeds)
    places = [(rate, seed) for seed in seeds for rate in (0.0, *plan.rates)]
    results = dict(
        zip(places, trials.run([settings_of(plan, shape, *p) for p in places]), strict=True)
    )
    for s in seeds:
        require_settled({rate: results[rate, s]["loss"] for rate in plan.rates}, shape.name)
    best = [min(plan.rates, key=lambda rate: results[rate, s]["loss"]) for s in seeds]
    return Curved(
        shape,
        tuple(results[0.0, s]["eigenvalue"] for s in seeds),
        tuple(best),
        tuple(results[rate, s]["loss"] for rate, s in zip(best, seeds, strict=True)),
    )


def run_trial(told: Mapping) -> dict:
    """Train by `settings_of` and take the loss of the choose rows, or measure the eigenvalue.

    The loss of a training that diverges is DIVERGED.
    """
    model, tokenizer, chosen, examples = _opened(told)
    with blas_threads(1):
        if told["rate"] == 0:
            in_float64(model)
        attach(model, Shape.told(told["shape"]).config, np.random.default_rng(told["seed"]))
        if told["rate"] == 0:
            size = told["curved_rows"]
            batch = Batches(examples[:size], size, told["seed"], tokenizer.pad_id).batch(0)
            found = top_eigenvalue(
                model,
                lambda: model.loss(batch.ids, batch.labels),
                np.random.default_rng(told["seed"]),
            )
            return {
                "eigenvalue": found.value,
                "residual": found.residual,
                "iterations": found.steps,
            }
        config = TrainingConfig(
            told["steps"], told["rate"], warmup=told["steps"] // 10, workers=1, seed=told["seed"]
        )
        batches = Batches(examples, told["batch_size"], told["seed"], tokenizer.pad_id)
        try:
            fit(model, batches, config, progress=False)
            return {"loss": evaluate(model, chosen, pad_id=tokenizer.pad_id)}
        except NotFiniteError:
            return {"loss": DIVERGED}


def _opened(told: Mapping) -> tuple[Transformer, Tokenizer, list[Example], list[Example]]:
    """The base, the rows to choose by, and those to train on. Raises ValueError for too few."""
    model, tokenizer = open_base(told["base"])
    records = [r for r in iter_records(Path(told["data"])) if not isinstance(r, Problem)]
    examples, _ = encode_records(tokenizer, records, model.config.max_position_embeddings)
    first, last = told["choose_rows"], told["choose_rows"] + told["rows"]
    if len(examples) < last:
        raise ValueError(f"{told['data']} has {len(examples)} rows, expected {last}")
    return model, tokenizer, examples[:first], examples[first:last]

"""Variants of LoRA side by side: each at its own best rate, on rows by which no rate was chosen.

For each way to train: rates are tried until one has worse ones on both sides, by the loss of rows
that are not trained on; at that rate it is trained anew with other seeds and answers the rows of
another file. Then all take the same steps in turns, in one process, which is timed.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from minilora.backend import blas_threads
from minilora.evaluation.cases import read_cases
from minilora.evaluation.paired import Pairs, wilson
from minilora.evaluation.variants import Variant, score_variant, with_room
from minilora.hub.bases import WARD, open_base
from minilora.limits import require_count, require_finite
from minilora.lora import ALL_LINEAR, LoRAConfig, Vera, attach, trainable_parameters
from minilora.lora.fitting import attachable
from minilora.lora.pissa import doubled
from minilora.nn import NotFiniteError, Transformer
from minilora.runs.trials import DIVERGED, Trials, trials_in
from minilora.storage import atomic_write, sha256_file
from minilora.text import Problem, Tokenizer, encode_records
from minilora.text.rows import iter_records
from minilora.training import Batches, TrainingConfig, evaluate, fit
from minilora.training.adamw import adamw_for
from minilora.training.parallel import Workers
from minilora.training.step import Steps

FIRST = "LoRA"
"""What the others are compared with."""
WIDEST = 1024.0
"""How far from the first rate the search goes, as a factor."""
WARM_UP = 2


@dataclass(frozen=True)
class Way:
    """A way to train. rate: with which the search for its best one begins."""

    name: str
    rate: float
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    loraplus_lr_ratio: float = 1.0
    freeze_a: bool = False
    pissa: bool = False

    def told(self) -> dict:
        """What of it decides a training, JSON-ready."""
        told = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in told.items() if name not in ("name", "rate")}


WAYS = (
    Way(FIRST, 0.016, LoRAConfig(8)),
    Way("LoRA, r 1", 0.016, LoRAConfig(1)),
    Way("LoRA, r 64", 0.008, LoRAConfig(64)),
    Way("rsLoRA, r 64", 0.002, LoRAConfig(64, use_rslora=True)),
    Way("LoRA+, ratio 16", 0.004, LoRAConfig(8), loraplus_lr_ratio=16.0),
    Way("LoRA-FA", 0.032, LoRAConfig(8), freeze_a=True),
    Way("DoRA", 0.016, LoRAConfig(8, use_dora=True)),
    Way("PiSSA", 0.004, LoRAConfig(8), pissa=True),
    Way("VeRA, r 256", 0.128, LoRAConfig(256, vera=Vera())),
    Way(
        "VeRA, r 256, all-linear", 0.128,
        LoRAConfig(256, target_modules=ALL_LINEAR, vera=Vera()),
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VariantsPlan:
    """What is compared on what. eval_data: what is answered; rows of data: trained on.

    choose_rows: of data, before those, by whose loss rates are chosen, with seed 0; the seeds
    that are reported come after it.
    """

    data: Path
    eval_data: Path
    base: str = WARD
    ways: tuple[Way, ...] = WAYS
    seeds: int = 3
    steps: int = 60
    batch_size: int = 16
    rows: int = 1200
    choose_rows: int = 100
    eval_rows: int = 200
    timed_steps: int = 12

    def __post_init__(self) -> None:
        for name in (
            "seeds", "steps", "batch_size", "rows", "choose_rows", "eval_rows", "timed_steps",
        ):  # fmt: skip
            require_count(name, getattr(self, name), 1)
        for way in self.ways:
            require_finite(f"rate of {way.name}", way.rate, above=True)
        names = [way.name for way in self.ways]
        if FIRST not in names or len(set(names)) < len(names):
            raise ValueError(f"got ways {names}, expected each once, and {FIRST!r} among them")


@dataclass(frozen=True)
class Scored:
    """One way: the rates that were tried with their losses, the best one, and what came of it.

    right: one a seed, for each row whether the answer was exact. trained: numbers that a step
    changes. step: processor time of a step as a ratio to LoRA's, and the range of its quarters.
    """

    way: Way
    tried: Mapping[float, float]
    rate: float
    right: tuple[tuple[bool, ...], ...]
    losses: tuple[float, ...]
    trained: int
    step: tuple[float, float, float]

    @property
    def exact(self) -> tuple[float, ...]:
        """The share of exact answers, one a seed."""
        return tuple(statistics.fmean(one) for one in self.right)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, 95 %, of the mean share over so many rows: seeds of one row count as one."""
        rows = len(self.right[0])
        return wilson(statistics.fmean(self.exact) * rows, rows)

    def against(self, other: Scored) -> tuple[float, float, float]:
        """Mean share less the other's, with its 95 % interval, clustered by row."""
        rows = [row for one in self.right for row in range(len(one))]
        pairs = Pairs(
            [x for one in other.right for x in one], [x for one in self.right for x in one], rows
        )
        return (pairs.counts.change, *pairs.interval())

    def to_dict(self, first: Scored) -> dict:
        """JSON-ready, compared with the first."""
        return {
            "name": self.way.name,
            "way": self.way.told(),
            "tried": {f"{rate:g}": loss for rate, loss in sorted(self.tried.items())},
            "rate": self.rate,
            "exact": list(self.exact),
            "interval": list(self.interval),
            "against": list(self.against(first)),
            "losses": list(self.losses),
            "rows": len(self.right[0]),
            "trained": self.trained,
            "step": list(self.step),
        }


def measure(plan: VariantsPlan, out: Path, *, jobs: int = 0, bars: bool = False) -> list[Scored]:
    """A line for each way; a stopped call goes on in `out`, a folder for ledger and table.

    Raises ValueError, before there is a folder, for a base or data that can't be used and ways
    that do not fit.
    """
    model, tokenizer = open_base(plan.base)
    _examples(_common(plan), model, tokenizer, 0)
    for way in plan.ways:
        attachable(model, doubled(way.lora) if way.pissa else way.lora)
    told = {
        **json.loads(json.dumps(asdict(plan), default=str)),
        "hashes": [sha256_file(plan.data), sha256_file(plan.eval_data)],
    }
    with trials_in(out, told, run_trial, jobs=jobs, bars=bars) as trials:
        tried = _search(plan, trials)
        best = {name: min(losses, key=losses.__getitem__) for name, losses in tried.items()}
        places = [(way, seed) for way in plan.ways for seed in range(1, plan.seeds + 1)]
        results = trials.run([settings_of(plan, way, best[way.name], seed) for way, seed in places])
        steps = trials.run([time_settings(plan, best)])[0]["steps"]
    found = []
    for way in plan.ways:
        own = [result for (of, _), result in zip(places, results, strict=True) if of is way]
        found.append(
            Scored(
                way, tried[way.name], best[way.name],
                tuple(tuple(result["right"]) for result in own),
                tuple(result["loss"] for result in own),
                own[0]["trained"], ratios(steps, way.name),
            )
        )  # fmt: skip
    first = next(one for one in found if one.way.name == FIRST)
    table = {"ways": [one.to_dict(first) for one in found], "seeds": plan.seeds}
    atomic_write(out / "variants.json", (json.dumps(table, indent=2) + "\n").encode())
    return found


def _search(plan: VariantsPlan, trials: Trials) -> dict[str, dict[float, float]]:
    """Way's name -> rate -> loss: rates of a grid of factor 2 until the best has worse neighbours.

    All ways' next rates run side by side.
    """
    tried: dict[str, dict[float, float]] = {way.name: {} for way in plan.ways}
    while True:
        due = [(way, rate) for way in plan.ways for rate in next_rates(way.rate, tried[way.name])]
        if not due:
            return tried
        results = trials.run([settings_of(plan, way, rate, 0) for way, rate in due])
        for (way, rate), result in zip(due, results, strict=True):
            tried[way.name][rate] = result["loss"]


def next_rates(start: float, tried: Mapping[float, float]) -> list[float]:
    """Those to try next: the best so far, half and twice it, but for what was tried.

    None further than WIDEST from the start.
    """
    best = min(tried, key=tried.__getitem__) if tried else start
    around = (best / 2, best, best * 2)
    return [r for r in around if r not in tried and start / WIDEST <= r <= start * WIDEST]


def ratios(steps: Mapping[str, Sequence[float]], name: str) -> tuple[float, float, float]:
    """The median over turns of a way's time by that of LoRA in the same turn, and its quartiles."""
    turns = [a / b for a, b in zip(steps[name], steps[FIRST], strict=True)]
    low, high = np.quantile(turns, [0.25, 0.75])
    return statistics.median(turns), float(low), float(high)


# -- trials ----------------------------------------------------------------------------------------


def settings_of(plan: VariantsPlan, way: Way, rate: float, seed: int) -> dict:
    """Of one training; with seed 0 its answers are not asked for."""
    return {**_common(plan), **way.told(), "rate": rate, "seed": seed}


def time_settings(plan: VariantsPlan, rates: Mapping[str, float]) -> dict:
    """Of the turns of steps."""
    ways = {way.name: {**way.told(), "rate": rates[way.name]} for way in plan.ways}
    return {**_common(plan), "ways": ways, "timed_steps": plan.timed_steps}


def _common(plan: VariantsPlan) -> dict:
    names = ("base", "steps", "batch_size", "rows", "choose_rows", "eval_rows")
    own = {name: getattr(plan, name) for name in names}
    return {**own, "data": str(plan.data), "eval_data": str(plan.eval_data)}


def run_trial(told: Mapping) -> dict:
    """Train by `settings_of`, or take the turns of `time_settings`."""
    with blas_threads(1):
        return _time_steps(told) if "ways" in told else _train(told)


def _train(told: Mapping) -> dict:
    model, tokenizer = open_base(told["base"])
    chosen, batches = _examples(told, model, tokenizer, told["seed"])
    config = _put_on(model, told, told["seed"])
    result = {"trained": trainable_parameters(model)}
    try:
        fit(model, batches, config, progress=False)
        result["loss"] = evaluate(model, chosen, pad_id=tokenizer.pad_id)
    except NotFiniteError:
        if told["seed"]:
            raise
        return {**result, "loss": DIVERGED}
    if told["seed"]:
        result["right"] = _answers(model, tokenizer, told)
    return result


def _examples(
    told: Mapping, model: Transformer, tokenizer: Tokenizer, seed: int
) -> tuple[Sequence, Batches]:
    """The rows to choose by, and batches of those that come after them."""
    records = [r for r in iter_records(Path(told["data"])) if not isinstance(r, Problem)]
    examples, _ = encode_records(tokenizer, records, model.config.max_position_embeddings)
    first, last = told["choose_rows"], told["choose_rows"] + told["rows"]
    if len(examples) < last:
        raise ValueError(f"{told['data']} has {len(examples)} rows, expected {last}")
    batches = Batches(examples[first:last], told["batch_size"], seed, tokenizer.pad_id)
    return examples[:first], batches


def _put_on(model: Transformer, told: Mapping, seed: int) -> TrainingConfig:
    """Attach the way's adapter; how it is trained."""
    lora = dict(told["lora"])
    if isinstance(lora["target_modules"], list):
        lora["target_modules"] = tuple(lora["target_modules"])
    config = LoRAConfig(**{**lora, "vera": Vera(**lora["vera"]) if lora["vera"] else None})
    attachment = attach(model, config, np.random.default_rng(seed), pissa=told["pissa"])
    if told["freeze_a"]:
        attachment.freeze_A()
    return TrainingConfig(
        told["steps"], told["rate"], warmup=told["steps"] // 10, workers=1, seed=seed,
        loraplus_lr_ratio=told["loraplus_lr_ratio"],
    )  # fmt: skip


def _answers(model: Transformer, tokenizer: Tokenizer, told: Mapping) -> list[bool]:
    """Whether the answer to each row of eval_data is exact."""
    asked, limit = Variant("eval"), model.config.max_position_embeddings
    cases = read_cases(Path(told["eval_data"])).cases[: told["eval_rows"]]
    cases, room, problems = with_room(cases, [asked], tokenizer, limit)
    if problems:
        raise ValueError(f"{problems[0]}")
    outputs = score_variant(model, tokenizer, cases, asked, room).outputs
    return [case.expected.strip() == text for case, text in zip(cases, outputs, strict=True)]


def _time_steps(told: Mapping) -> dict:
    """Way's name -> processor seconds of each timed step; the ways take turns, batch by batch."""
    turns = {name: _stepping(told, way) for name, way in told["ways"].items()}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(WARM_UP + told["timed_steps"]):
        for name, steps in turns.items():
            taken = next(steps)
            if turn >= WARM_UP:
                seconds[name].append(taken)
    return {"steps": seconds}


def _stepping(told: Mapping, way: Mapping) -> Iterator[float]:
    """The processor seconds of step after step of one way, on a base of its own."""
    model, tokenizer = open_base(told["base"])
    _, batches = _examples(told, model, tokenizer, 0)
    config = _put_on(model, {**told, **way}, 0)
    config = replace(config, steps=WARM_UP + told["timed_steps"], warmup=0)
    steps = Steps(batches, config, adamw_for(model.train(), config))
    with Workers(model, 1) as pool:
        for step in range(config.steps):
            began = time.process_time()
            steps.take(step, pool)
            yield time.process_time() - began

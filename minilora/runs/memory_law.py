"""How many random facts an adapter holds: bits a trained number, by rank.

A fact is a key of random tokens and a value of random tokens that nothing else says. What an
adapter knows of N of them is N values' bits less what it still has to be told: the loss in bits.
More facts are taught until it holds no more; the most that it held, divided by its numbers, is its
memory in bits a number.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minilora.autograd import IGNORE, no_grad
from minilora.backend import blas_threads
from minilora.hub.bases import WARD, open_base
from minilora.limits import require_count, require_finite
from minilora.lora import LoRAConfig, attach
from minilora.lora.fitting import attachable
from minilora.nn import NotFiniteError, Transformer
from minilora.runs.trials import DIVERGED, Trials, require_settled, trials_in
from minilora.storage import atomic_write
from minilora.text import Example
from minilora.training import Batches, TrainingConfig, fit

KEY, VALUE = 3, 4
"""Tokens of a fact's key and of its value."""
EXPECTED_BITS = 2.0
"""Bits a number around which the numbers of facts lie that are tried."""
TUNED = 0
"""The seed of the facts on which the rate is chosen; those of later seeds are reported."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What is measured.

    symbols: tokens that keys and values are drawn from, so a value has VALUE log2(symbols) bits.
    loads: facts taught, as multiples of what EXPECTED_BITS a number would hold. passes: over all
    facts. rates: of which the best is taken for each rank and load, on facts of their own: one
    that is good for few facts may never settle on many.
    """

    base: str = WARD
    ranks: tuple[int, ...] = (1, 2, 4, 8)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    symbols: int = 256
    loads: tuple[float, ...] = (0.25, 0.5, 1.0)
    rates: tuple[float, ...] = (0.005, 0.015, 0.03)
    passes: int = 200
    fewest_steps: int = 300
    batch_size: int = 128
    seeds: int = 3

    def __post_init__(self) -> None:
        for name in ("symbols", "passes", "fewest_steps", "batch_size", "seeds"):
            require_count(name, getattr(self, name), 1)
        for r in self.ranks:
            require_count("rank", r, 1)
        for value in (*self.loads, *self.rates):
            require_finite("load or rate", value, above=True)
        if not (self.ranks and self.loads and self.rates) or self.symbols < 2:
            raise ValueError(
                f"got ranks {self.ranks}, loads {self.loads}, rates {self.rates}, symbols "
                f"{self.symbols}, expected some of each and 2 symbols or more"
            )

    @property
    def bits_a_fact(self) -> float:
        """Of a value that is not known."""
        return VALUE * math.log2(self.symbols)

    def facts(self, trained: int, load: float) -> int:
        """How many are taught to an adapter of so many numbers."""
        return max(2, round(load * EXPECTED_BITS * trained / self.bits_a_fact))


@dataclass(frozen=True)
class Held:
    """What an adapter of one rank held of so many facts, a number a seed.

    rate: the best of those tried. bits: in all. recall: share of values whose every token is the
    most likely one. probability: mean probability of the whole value.
    """

    r: int
    trained: int
    facts: int
    rate: float
    bits: tuple[float, ...]
    recall: tuple[float, ...]
    probability: tuple[float, ...]

    @property
    def bits_a_number(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.bits) / self.trained


def most_held(found: Sequence[Held]) -> dict[int, Held]:
    """Rank -> the load at which it held most."""
    ranks = sorted({held.r for held in found})
    return {r: max((h for h in found if h.r == r), key=lambda h: h.bits_a_number) for r in ranks}


def exponent(found: Sequence[Held]) -> float:
    """a in bits ~ r^a, by least squares on logarithms of the most held; nan for one rank."""
    best = most_held(found)
    if len(best) < 2:
        return math.nan
    bits = [max(statistics.fmean(held.bits), 1e-9) for held in best.values()]
    return float(np.polyfit(np.log(list(best)), np.log(bits), 1)[0])


def measure(plan: MemoryPlan, out: Path, *, jobs: int = 0, bars: bool = False) -> list[Held]:
    """Every rank and load; a stopped call goes on in `out`, a folder for ledger and table.

    Raises ValueError, before there is a folder, for more symbols than the base has tokens, for
    targets that it does not have, ranks beyond theirs, and more facts than there are keys; and for
    a load with which training diverges at every rate.
    """
    model, tokenizer = open_base(plan.base)
    if plan.symbols > tokenizer.vocab_size:
        raise ValueError(f"got {plan.symbols} symbols, expected up to {tokenizer.vocab_size}")
    for r in plan.ranks:
        fitting = attachable(model, LoRAConfig(r=r, target_modules=plan.target_modules))
        trained = r * sum(x.in_features + x.out_features for x in fitting.values())
        facts = plan.facts(trained, max(plan.loads))
        if facts > plan.symbols**KEY:
            raise ValueError(
                f"got a load of {facts:,} facts for rank {r}, expected at most the "
                f"{plan.symbols**KEY:,} keys that {plan.symbols} symbols make"
            )
    told = json.loads(json.dumps(asdict(plan)))
    with trials_in(out, told, run_trial, jobs=jobs, bars=bars) as trials:
        found = [held for r in plan.ranks for held in _of_rank(plan, r, trials)]
    power = exponent(found)
    table = {
        "bits_a_fact": plan.bits_a_fact,
        "exponent": power if math.isfinite(power) else None,  # JSON has no nan
        "held": [{**asdict(h), "bits_a_number": h.bits_a_number} for h in found],
    }
    atomic_write(out / "memory.json", (json.dumps(table, indent=2) + "\n").encode())
    return found


def settings_of(plan: MemoryPlan, r: int, load: float, rate: float, seed: int) -> dict:
    """Of one adapter that is taught facts of a seed."""
    names = ("base", "target_modules", "symbols", "passes", "fewest_steps", "batch_size")
    own = json.loads(json.dumps({name: getattr(plan, name) for name in names}))
    return {**own, "r": r, "load": load, "rate": rate, "seed": seed}


def _of_rank(plan: MemoryPlan, r: int, trials: Trials) -> list[Held]:
    best = {load: plan.rates[0] for load in plan.loads}
    if len(plan.rates) > 1:  # one rate leaves nothing to choose, and these trials take longest
        grid = [(load, rate) for load in plan.loads for rate in plan.rates]
        tried = trials.run([settings_of(plan, r, *place, TUNED) for place in grid])
        bits = {place: result["bits"] for place, result in zip(grid, tried, strict=True)}
        best = {load: max(plan.rates, key=lambda rate: bits[load, rate]) for load in plan.loads}
        for load in plan.loads:
            held = {rate: -bits[load, rate] for rate in plan.rates}
            require_settled(held, f"an adapter of rank {r} taught {load:g} times as much")
    seeds = range(TUNED + 1, TUNED + 1 + plan.seeds)
    places = [(load, best[load], seed) for load in plan.loads for seed in seeds]
    results = trials.run([settings_of(plan, r, *place) for place in places])
    found = []
    for load, rate in best.items():
        own = [x for (at, *_), x in zip(places, results, strict=True) if at == load]
        found.append(
            Held(
                r,
                own[0]["trained"],
                own[0]["facts"],
                rate,
                tuple(x["bits"] for x in own),
                tuple(x["recall"] for x in own),
                tuple(x["probability"] for x in own),
            )
        )
    return found


# -- one adapter -----------------------------------------------------------------------------------


def random_facts(count: int, symbols: np.ndarray, rng: np.random.Generator) -> list[Example]:
    """`count` facts (keys are distinct): labels on the value alone.

    Raises ValueError for more facts than there are keys.
    """
    if count > len(symbols) ** KEY:
        raise ValueError(f"got {count} facts, expected at most {len(symbols) ** KEY}, one a key")
    keys = np.unique(rng.integers(0, len(symbols), (2 * count + 16, KEY)), axis=0)
    while len(keys) < count:  # of few symbols most keys are needed
        more = rng.integers(0, len(symbols), (2 * count + 16, KEY))
        keys = np.unique(np.concatenate([keys, more]), axis=0)
    keys = keys[rng.permutation(len(keys))[:count]]
    rows = symbols[np.concatenate([keys, rng.integers(0, len(symbols), (count, VALUE))], axis=1)]
    labels = np.where(np.arange(1, KEY + VALUE) < KEY, IGNORE, rows[:, 1:])
    return [
        Example(ids[:-1].astype(np.int32), own.astype(np.int32))
        for ids, own in zip(rows, labels, strict=True)
    ]


def run_trial(told: Mapping) -> dict:
    """Teach and ask, by `settings_of`: JSON-ready.

    With the seed TUNED, at which rates are compared, an adapter that diverges holds -DIVERGED bits;
    with another one it raises NotFiniteError.
    """
    model, tokenizer = open_base(told["base"])
    targets = told["target_modules"]
    targets = tuple(targets) if isinstance(targets, list) else targets
    config = LoRAConfig(r=told["r"], target_modules=targets)
    attachment = attach(model, config, np.random.default_rng(told["seed"]))
    trained = attachment.adapter().size
    plan = MemoryPlan(symbols=told["symbols"])
    rng = np.random.default_rng([told["seed"], 31])
    symbols = rng.permutation(tokenizer.vocab_size)[: told["symbols"]]
    facts = random_facts(plan.facts(trained, told["load"]), symbols, rng)
    size = min(told["batch_size"], len(facts))
    steps = max(told["fewest_steps"], math.ceil(told["passes"] * len(facts) / size))
    training = TrainingConfig(
        steps, told["rate"], warmup=min(20, steps // 10), workers=1, seed=told["seed"]
    )
    with blas_threads(1):
        batches = Batches(facts, size, told["seed"], tokenizer.pad_id)
        sizes = {"trained": trained, "facts": len(facts)}
        try:
            fit(model, batches, training, progress=False)
            return {**sizes, **_asked(model, facts, symbols)}
        except NotFiniteError:
            if told["seed"] != TUNED:
                raise
            return {**sizes, "bits": -DIVERGED, "recall": 0.0, "probability": 0.0}


def _asked(model: Transformer, facts: Sequence[Example], symbols: np.ndarray) -> dict:
    """Bits that the model knows of the values, among the symbols; recall and probability."""
    log_p, right = [], []
    place = np.zeros(model.config.vocab_size, np.int64)
    place[symbols] = np.arange(len(symbols))
    for start in range(0, len(facts), 256):
        some = facts[start : start + 256]
        ids = np.stack([fact.ids for fact in some])
        values = place[np.stack([fact.labels[KEY - 1 :] for fact in some])]
        with no_grad():
            logits = model(ids).data[:, KEY - 1 :][..., symbols].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        log_p.append(np.take_along_axis(logits, values[..., None], -1)[..., 0].sum(axis=1))
        right.append((logits.argmax(axis=-1) == values).all(axis=1))
    log_p, right = np.concatenate(log_p), np.concatenate(right)
    unknown = len(facts) * VALUE * math.log2(len(symbols))
    return {
        "bits": unknown + float(log_p.sum()) / math.log(2),
        "recall": float(right.mean()),
        "probability": float(np.exp(log_p).mean()),
    }

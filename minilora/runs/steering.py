"""Four steering wheels: an adapter for each rule of ward/steering.py, and every way to join them.

All four answer the same instruction, so that no router could tell them apart; what all of them
together should answer is known to the letter. Rates, weights and densities are chosen on other
notes than those reported.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from minilora.evaluation.cases import Case
from minilora.hub.bases import WARD, open_base
from minilora.limits import require_count
from minilora.lora import Adapter, LoRAConfig, attach, combine, mark_base
from minilora.lora.exchange import wearing
from minilora.lora.peft_format import CONFIG
from minilora.processes import recommended_workers
from minilora.runs.compose import forecast_of
from minilora.runs.folder import require_free
from minilora.runs.plan import Clock, paths_from_texts, require_workers
from minilora.runs.steering_plot import TOGETHER, plot_steering
from minilora.storage import atomic_write
from minilora.text import Record, encode_records, prompt_messages
from minilora.text.answers import answers
from minilora.training import Batches, TrainingConfig, fit
from minilora.ward.steering import RULES, keeps, steering_examples

RESULT, PLOT, ADAPTERS = "steering.json", "steering.png", "adapters"
ANSWER_TOKENS = 96
KEEP_COMPLETE = 0.3
"""Share kept, for training, of notes in which no dose is missing; in those asked each lacks one."""

MEASURES = ("on_inputs", "cosine", "reads", "writes")


@dataclass(frozen=True)
class Setting:
    """One way to join: as `combine` takes it, at one weight for all."""

    how: str
    weight: float = 1.0
    density: float = 0.5
    rank: int | None = None

    def join(self, adapters: Sequence[Adapter], names: Sequence[str], seed: int):
        """The adapter and the report of `combine`."""
        return combine(
            adapters, [self.weight] * len(adapters), self.how, names=names, rank=self.rank,
            density=self.density, seed=seed,
        )  # fmt: skip


def settings_to_try(r: int) -> dict[str, list[Setting]]:
    """Method -> the settings that its best is chosen from, on other notes."""
    weights, scales, densities = (1.0, 0.7, 0.5, 0.35), (1.0, 2.0, 3.0), (0.2, 0.5, 1.0)
    return {
        "sum at weight 1": [Setting("cat")],
        "cat": [Setting("cat", w) for w in weights],
        f"svd, rank {r}": [Setting("svd", w, rank=r) for w in weights],
        "linear": [Setting("linear", w) for w in weights],
        "ties": [Setting("ties", w, d) for w in scales for d in densities],
        "dare": [Setting("dare", w, d) for w in weights[1:] for d in (0.5, 0.9)],
        "knots": [Setting("knots", w, d) for w in scales for d in densities],
    }


@dataclass(frozen=True, kw_only=True)
class SteeringPlan:
    """All that decides the experiment. out: folder for result, plot and adapters.

    rates: tried for each rule with the first seed. chosen_on, asked: notes that settings are chosen
    on, and others that are reported. workers: processes that write the answers, 0 for one a core;
    each adapter is trained in one.
    """

    out: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 150
    rates: tuple[float, ...] = (0.01, 0.02)
    r: int = 8
    batch_size: int = 8
    notes: int = 1200
    chosen_on: int = 32
    asked: int = 80
    workers: int = 0

    def __post_init__(self) -> None:
        paths_from_texts(self)
        require_workers(self.workers)
        for name in ("steps", "r", "batch_size", "notes", "chosen_on", "asked"):
            require_count(name, getattr(self, name), 1)
        if not self.seeds or not self.rates:
            raise ValueError(f"got seeds {self.seeds} and rates {self.rates}, expected some")
        require_free(self.out, RESULT, (RESULT, PLOT, ADAPTERS, "README.md"), "an earlier result")


@dataclass(frozen=True)
class Kept:
    """What answers keep: rule -> share; jointly: all rules in one answer; exact: to the letter."""

    rules: Mapping[str, float]
    jointly: float
    exact: float


@dataclass
class Steering:
    """What came out. alone: rule -> by seed. joint: one adapter trained on all rules, by seed.

    rates: rule -> rate -> share kept on the other notes. methods: name -> its chosen setting and,
    by seed, what is kept and the error against the exact sum. pairs: forecast and measured loss of
    every ordered pair at every seed. correlations: measure -> Spearman's rho with the loss.
    """

    plan: SteeringPlan
    base: Kept | None = None
    rates: dict[str, dict[float, float]] = field(default_factory=dict)
    alone: dict[str, list[Kept]] = field(default_factory=dict)
    joint: list[Kept] = field(default_factory=list)
    methods: dict[str, dict] = field(default_factory=dict)
    pairs: list[dict] = field(default_factory=list)
    correlations: dict[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def normalised(self, name: str) -> list[float]:
        """By seed, the mean over the rules of what a method keeps, as a share of alone."""
        shares = []
        for i, kept in enumerate(self.of(name)):
            alone = {rule: self.alone[rule][i].rules[rule] for rule in RULES}
            known = [kept.rules[rule] / own for rule, own in alone.items() if own]
            shares.append(statistics.mean(known) if known else 0.0)
        return shares

    def of(self, name: str) -> list[Kept]:
        """What a method, or "joint training", keeps, by seed."""
        return self.joint if name == JOINT else self.methods[name]["kept"]

    def bars(self) -> dict[str, dict[str, list[float]]]:
        """Way to join -> rule, or all of them -> share kept, by seed."""
        shown = {"alone": {rule: [k.rules[rule] for k in self.alone[rule]] for rule in RULES}}
        for name in (*self.methods, JOINT):
            kept = self.of(name)
            shown[name] = {rule: [one.rules[rule] for one in kept] for rule in RULES}
            shown[name][TOGETHER] = [one.jointly for one in kept]
        return shown

    def to_dict(self) -> dict:
        """JSON-ready."""
        plain = {key: value for key, value in vars(self).items() if key != "plan"}
        # Neither the folder nor the processes change a figure.
        kept_out = ("out", "workers")
        settings = {k: v for k, v in asdict(self.plan).items() if k not in kept_out}
        return json.loads(json.dumps({"settings": settings, **plain}, default=_plain))


JOINT = "joint training"


def _plain(value: object) -> object:
    return asdict(value)


def steer(plan: SteeringPlan, progress: Callable[[str], None] = lambda _: None) -> Steering:
    """Train, join and ask; `progress` is told of each part. Writes adapters, result and plot."""
    bench, result = Bench(plan), Steering(plan)
    clock, found = Clock(), {}
    if not (plan.out / RESULT).exists():  # so that a stopped run's adapters are known as ours
        atomic_write(plan.out / RESULT, b"{}\n")
    result.base = bench.kept(None, "test")
    jobs = {**{rule: (rule,) for rule in RULES}, JOINT: tuple(RULES)}
    for name, rules in jobs.items():
        tried = {rate: bench.adapter(name, rules, rate, plan.seeds[0]) for rate in plan.rates}
        shares = {rate: bench.share(one, rules) for rate, one in tried.items()}
        result.rates[name] = shares
        rate = max(shares, key=shares.get)
        progress(f"{name}: rate {rate:g} keeps {shares[rate]:.0%} of the notes to choose on")
        rest = [bench.adapter(name, rules, rate, seed) for seed in plan.seeds[1:]]
        found[name] = [tried[rate], *rest]
        clock.lap("training")
        kept = [bench.kept(one, "test") for one in found[name]]
        if name == JOINT:
            result.joint = kept
        else:
            result.alone[name] = kept
        clock.lap("asking")
    names = tuple(RULES)
    by_seed = [[found[rule][i] for rule in names] for i in range(len(plan.seeds))]
    for name, settings in settings_to_try(plan.r).items():
        setting, tried = settings[0], {}
        if len(settings) > 1:
            for one in settings:
                kept = bench.kept(one.join(by_seed[0], names, 0)[0], "choose")
                tried[one] = statistics.mean(kept.rules.values()) + kept.jointly
            setting = max(tried, key=tried.get)
        made = [setting.join(own, names, s) for own, s in zip(by_seed, plan.seeds, strict=True)]
        result.methods[name] = {
            "setting": asdict(setting),
            "tried": len(settings),
            "kept": [bench.kept(adapter, "test") for adapter, _ in made],
            "error": [report.error for _, report in made],
        }
        progress(f"{name}: {setting}")
        clock.lap("joining and asking")
    result.pairs = bench.pairs(by_seed, result.alone)
    result.correlations = correlations(result.pairs)
    clock.lap("pairs")
    result.seconds = clock.laps
    text = json.dumps(result.to_dict(), indent=1, ensure_ascii=False) + "\n"
    atomic_write(plan.out / RESULT, text.encode())
    plot_steering(result.bars(), result.pairs, result.correlations["on_inputs"], plan.out / PLOT)
    return result


def correlations(pairs: Sequence[Mapping]) -> dict[str, float]:
    """Spearman's rank correlation of each measure of the forecast with the measured loss.

    A cosine counts by its size. "imbalance" is |log on_inputs|, large where one of the two is much
    louder than the other, whichever it is. 0 where a measure or the loss is the same everywhere.
    """
    from scipy.stats import spearmanr

    losses = [pair["loss"] for pair in pairs]
    found = {}
    for measure in (*MEASURES, "imbalance"):
        if measure == "imbalance":
            values = [abs(math.log(pair["on_inputs"])) for pair in pairs]
        else:
            values = [abs(pair[measure]) for pair in pairs]
        same = len(set(values)) < 2 or len(set(losses)) < 2
        found[measure] = 0.0 if same else float(spearmanr(values, losses).statistic)
    return found


class Bench:
    """The base with its notes, on which adapters are trained and asked."""

    def __init__(self, plan: SteeringPlan) -> None:
        self.plan = plan
        self.model, self.tokenizer = open_base(WARD)
        self.mark = mark_base(self.model, WARD, self.tokenizer)
        everything = tuple(RULES)
        self.rows = {
            "choose": steering_examples(everything, "heldout", plan.chosen_on, 9001, 0.0),
            "test": steering_examples(everything, "heldout", plan.asked, 9002, 0.0),
        }

    def adapter(self, name: str, rules: tuple[str, ...], rate: float, seed: int) -> Adapter:
        """An adapter for the rules; the one in `out` where it was trained with these settings."""
        plan = self.plan
        label = name.replace(" ", "-")
        folder = plan.out / ADAPTERS / f"{label}-{seed}-{rate:g}"
        about = {
            "rules": list(rules), "lr": rate, "seed": seed, "steps": plan.steps,
            "batch_size": plan.batch_size, "notes": plan.notes,
        }  # fmt: skip
        if (folder / CONFIG).is_file():
            known = Adapter.read(folder)
            if known.provenance == about and known.base == self.mark and known.config.r == plan.r:
                return known
        examples = steering_examples(rules, "train", plan.notes, 100 + seed, KEEP_COMPLETE)
        records = [
            Record(f"{i}", messages=prompt_messages(e.prompt, e.completion))
            for i, e in enumerate(examples)
        ]
        encoded, _ = encode_records(
            self.tokenizer, records, self.model.config.max_position_embeddings
        )
        config = LoRAConfig(plan.r, 2 * plan.r)
        # Adapters of one seed would start from one A, and read more alike than strangers do.
        start = [seed, *map(list(RULES).index, rules)]
        handle = attach(self.model, config, np.random.default_rng(start), base=self.mark)
        training = TrainingConfig(
            steps=plan.steps, lr=rate, seed=seed, warmup=min(20, plan.steps // 10), workers=1
        )
        batches = Batches(encoded, plan.batch_size, seed, self.tokenizer.pad_id)
        try:
            fit(self.model, batches, training, progress=False)
            made = handle.adapter(base_name=WARD, provenance=about, tokenizer=self.tokenizer)
        finally:
            handle.detach()
        folder.parent.mkdir(parents=True, exist_ok=True)
        made.write(folder)
        return made

    def kept(self, adapter: Adapter | None, which: str) -> Kept:
        """What the answers to the notes of a kind ("choose", "test") keep."""
        rows = self.rows[which]
        with wearing(self.model, adapter, self.mark):
            texts = answers(
                self.model,
                self.tokenizer,
                [row.prompt for row in rows],
                ANSWER_TOKENS,
                workers=self.plan.workers or recommended_workers(),
            )
        texts = [text.strip() for text in texts]
        table = np.array(
            [
                [keeps(rule, text, row.facts) for rule in RULES]
                for row, text in zip(rows, texts, strict=True)
            ]
        )
        exact = [text == row.completion for row, text in zip(rows, texts, strict=True)]
        shares = dict(zip(RULES, table.mean(axis=0).tolist(), strict=True))
        return Kept(shares, float(table.all(axis=1).mean()), float(np.mean(exact)))

    def share(self, adapter: Adapter, rules: Sequence[str]) -> float:
        """The mean share kept of these rules, on the notes to choose on."""
        kept = self.kept(adapter, "choose")
        return statistics.mean(kept.rules[rule] for rule in rules)

    def pairs(
        self, by_seed: Sequence[Sequence[Adapter]], alone: Mapping[str, Sequence[Kept]]
    ) -> list[dict]:
        """For every ordered pair of rules and seed: the forecast, and what the exact sum loses.

        loss: 1 - (kept with the other added / kept alone).
        """
        names, found = tuple(RULES), []
        for i, adapters in enumerate(by_seed):
            named = dict(zip(names, adapters, strict=True))
            forecast = forecast_of(self.model, self.tokenizer, named, self._cases(names))
            for pair in combinations(names, 2):
                joined, _ = combine([named[rule] for rule in pair], [1, 1], names=pair)
                kept = self.kept(joined, "test")
                for a, b in (pair, pair[::-1]):
                    own = alone[a][i].rules[a]
                    found.append(
                        {
                            "seed": self.plan.seeds[i],
                            "disturbed": a,
                            "by": b,
                            **forecast[a, b].to_dict(),
                            "loss": 1 - kept.rules[a] / own if own else 0.0,
                        }
                    )
        return found

    def _cases(self, names: Sequence[str]) -> dict[str, list[Case]]:
        """Rule -> the notes to choose on, with the answers that keep it alone."""
        cases = {}
        for rule in names:
            rows = steering_examples((rule,), "heldout", self.plan.chosen_on, 9001, 0.0)
            cases[rule] = [
                Case(rule, ({"role": "user", "content": row.prompt},), row.completion, None, None)
                for row in rows
            ]
        return cases

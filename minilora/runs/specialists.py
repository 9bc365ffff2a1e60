"""Specialists: an adapter for each ward of the hospital, all on one base, scored side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minilora.evaluation.paired import wilson
from minilora.runs.adapt import AdaptPlan
from minilora.runs.driver import run
from minilora.runs.folder import real_place, require_free
from minilora.runs.plan import Reporter, paths_from_texts
from minilora.runs.tour import DATA, TourPlan
from minilora.storage import atomic_write, sha256_file
from minilora.ward import HOUSE_FORMATS, HouseScore, house_format

MARK = "specialists.json"
CARD = "README.md"
TOUR = TourPlan(steps=450)
"""As the tour trains, but longer, as it did when data/specialists was made."""


@dataclass(frozen=True, kw_only=True)
class SpecialistsPlan:
    """All that decides the training of specialists: the tour's settings, a ward after the other.

    wards: the houses, each once. data: the folder of the ward's files. Raises ValueError for a ward
    without a house format, or named twice, and for numbers that make no sense.
    """

    out: Path = Path("specialists")
    wards: tuple[str, ...] = tuple(HOUSE_FORMATS)
    data: Path = DATA
    steps: int = TOUR.steps
    batch_size: int = TOUR.batch_size
    lr: float = TOUR.lr
    r: int = 8
    eval_rows: int | None = None
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        paths_from_texts(self)
        for ward in self.wards:
            house_format(ward)
        if not self.wards or len(set(self.wards)) < len(self.wards):
            raise ValueError(f"got the wards {list(self.wards)}, expected one or more, each once")
        self.adaptation(self.wards[0])

    def adaptation(self, ward: str) -> AdaptPlan:
        """The plan of one ward's adapter."""
        return AdaptPlan(
            out=self.out / ward,
            data=self.data / f"{ward}.train.jsonl",
            eval_data=self.data / f"{ward}.eval.jsonl",
            eval_rows=self.eval_rows,
            steps=self.steps,
            batch_size=self.batch_size,
            lr=self.lr,
            r=self.r,
            seed=self.seed,
            workers=self.workers,
        )


@dataclass(frozen=True)
class Specialist:
    """A ward's adapter: its folder, and the scores of the base and of the adapter."""

    ward: str
    folder: Path
    data_sha256: str
    before: HouseScore
    after: HouseScore

    def to_dict(self) -> dict:
        """JSON-ready, with a 95 % interval (Wilson's) beside each share of the adapter's."""
        intervals = {name: share_interval(*share) for name, share in self.shares().items()}
        return {
            "ward": self.ward,
            "data_sha256": self.data_sha256,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "intervals": intervals,
        }

    def shares(self) -> dict[str, tuple[float | None, int]]:
        """Of the adapter: name -> (share, of how many)."""
        after = self.after
        return {
            "exact": (after.exact, after.count),
            "format_compliance": (after.format_compliance, after.count),
            "invented_dose_rate": (after.invented_dose_rate, after.no_dose_count),
            "rule_broken_rate": (after.rule_broken_rate, after.rule_count),
        }


def share_interval(share: float | None, of: int) -> tuple[float, float] | None:
    """Wilson's interval for a share of so many; None where there was nothing to count."""
    return None if share is None else wilson(round(share * of), of)


def train_specialists(
    plan: SpecialistsPlan, reporter: Reporter | None = None
) -> Sequence[Specialist]:
    """Train and score an adapter for each ward; write them, `specialists.json` and a card.

    Each is what `run` makes of `plan.adaptation(ward)`, whose errors are raised. Raises ValueError
    for an `out` that holds anything but earlier specialists, before the first is trained.
    """
    reporter = reporter or Reporter()
    runs = [name for ward in HOUSE_FORMATS for name in (ward, f"{ward}.run")]
    require_free(plan.out, MARK, (MARK, CARD, *runs), "earlier specialists to replace")
    for ward in plan.wards:
        plan.adaptation(ward).check()
    out = real_place(plan.out)
    out.mkdir(parents=True, exist_ok=True)
    made: list[Specialist] = []
    for ward in plan.wards:
        adaptation = plan.adaptation(ward)
        result = run(adaptation, reporter)
        before, after = result.before.house[ward], result.after.house[ward]
        made.append(Specialist(ward, plan.out / ward, sha256_file(adaptation.data), before, after))
        # after each ward, so that what is there is never more than what the card tells
        settings = {
            name: getattr(plan, name)
            for name in ("steps", "batch_size", "lr", "r", "seed", "workers")
        }
        figures = {**settings, "specialists": [one.to_dict() for one in made]}
        text = json.dumps(figures, indent=2) + "\n"
        atomic_write(out / MARK, text.encode())
        atomic_write(out / CARD, card(figures).encode())
    return made


_CARD = """# Specialists of ward-base

One adapter (a PEFT folder) for each ward's house format, all on the base in `data/ward-base`.
Made by

    minilora specialists --out data/specialists --workers {workers}

r {r} on q_proj and v_proj, {steps} steps of {batch_size} notes at rate {lr}, seed {seed}, one run
each. Scored on the {count} held-out notes of `data/ward/<ward>.eval.jsonl`; behind each share
stands its 95 % interval (Wilson). Invented doses: of the drugs for which the note gives none. Rule
broken: of the things that the house's rule decides (`minilora.ward.rules`).

| ward | rule | base, exact | exact | in the format | invented doses | rule broken |
|---|---|---|---|---|---|---|
{rows}
"""


def card(figures: Mapping) -> str:
    """The card beside the adapters, from the figures of `specialists.json`."""
    rows = []
    for one in figures["specialists"]:
        after, intervals = one["after"], one["intervals"]
        cells = [_cell(after[name], interval) for name, interval in intervals.items()]
        base = f"{one['before']['exact']:.1%}"
        rows.append(f"| {' | '.join((one['ward'], after['rule'], base, *cells))} |")
    count = figures["specialists"][0]["after"]["count"]
    return _CARD.format(rows="\n".join(rows), count=count, **figures)


def _cell(share: float | None, interval: tuple[float, float] | None) -> str:
    if share is None or interval is None:
        return "nothing to count"
    low, high = interval
    return f"{share:.1%} ({low:.1%} to {high:.1%})"

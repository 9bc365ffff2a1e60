"""What a sweep found: a line for each combination, over its seeds, and the cheapest good one."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from minilora.evaluation.paired import Pairs
from minilora.runs.sweep.file import Point

LEVEL = 0.05
"""Probability, at most, of throwing out an adapter that took nothing from the base."""


@dataclass(frozen=True)
class Candidate:
    """A combination of settings with the scores of its seeds; shares are between 0 and 1.

    choose: of the rows by which runs are chosen, one a seed. report: of the others. suite: of what
    the base could do, and groups: of each group of its tasks, the mean. breaks_base: whether it got
    worse beyond chance at what is not meant to change. trained: numbers of the adapter. seconds: of
    training, mean.
    """

    settings: Mapping
    trained: int
    choose: tuple[float, ...]
    report: tuple[float, ...]
    rows: int
    suite: tuple[float, ...]
    breaks_base: bool
    seconds: float
    groups: Mapping[str, float] = field(default_factory=dict)

    @property
    def chosen_by(self) -> float:
        """Mean share of the rows by which runs are chosen."""
        return statistics.fmean(self.choose)

    def to_dict(self) -> dict:
        """JSON-ready."""
        return {
            "settings": dict(self.settings), "trained": self.trained, "choose": list(self.choose),
            "report": list(self.report), "rows": self.rows, "suite": list(self.suite),
            "groups": dict(self.groups), "breaks_base": self.breaks_base, "seconds": self.seconds,
        }  # fmt: skip


def candidates(
    points: Iterable[Point],
    results: Mapping[str, Mapping],
    base_suite: Sequence[bool] = (),
    tasks: Sequence[str] = (),
    changing: Collection[str] = (),
) -> list[Candidate]:
    """The combinations of which every seed is done, best first by the rows to choose by.

    base_suite: whether the base itself answers each row of the suite. tasks: the group of tasks of
    each row, and changing: those that are meant to change, which break no base.
    """
    tasks = tasks or [""] * len(base_suite)
    kept = [i for i, task in enumerate(tasks) if task not in changing]
    groups: dict[str, list[Mapping]] = {}
    seeds: dict[str, int] = {}
    for point in points:
        seeds[point.kind] = seeds.get(point.kind, 0) + 1
        if point.id in results:
            groups.setdefault(point.kind, []).append(results[point.id])
    found = []
    for kind, runs in groups.items():
        if len(runs) < seeds[kind]:
            continue
        rights = [run["right"] for run in runs]
        found.append(
            Candidate(
                settings=json.loads(kind),
                trained=runs[0]["trained"],
                choose=tuple(share(right["choose"]) for right in rights),
                report=tuple(share(right["report"]) for right in rights),
                rows=len(rights[0]["report"]),
                suite=tuple(share(right["suite"]) for right in rights if "suite" in right),
                breaks_base=_breaks(
                    [base_suite[i] for i in kept],
                    [[right["suite"][i] for i in kept] for right in rights if "suite" in right],
                ),
                groups=shares_by_group(
                    [x for right in rights for x in right.get("suite", ())], tasks
                ),
                seconds=statistics.fmean(run["seconds"] for run in runs),
            )
        )
    return sorted(found, key=lambda c: (-c.chosen_by, c.trained))


def share(right: Sequence[bool]) -> float:
    """Of the rows, those that are right."""
    return sum(right) / len(right)


def shares_by_group(right: Sequence[bool], groups: Sequence[str]) -> dict[str, float]:
    """Group -> share of its rows that are right; rows repeat, once a seed. Rows of no group: {}."""
    found: dict[str, list[bool]] = {}
    for group, one in zip(itertools.cycle(groups), right, strict=False):
        found.setdefault(group, []).append(one)
    return {group: share(rows) for group, rows in found.items() if group}


def _breaks(before: Sequence[bool], after: Sequence[Sequence[bool]]) -> bool:
    """Whether the base's own tasks got worse beyond chance, over all seeds, clustered by row."""
    if not before:
        return False
    row_of_each = [row for _ in after for row in range(len(before))]
    answers = [right for one in after for right in one]
    pairs = Pairs(list(before) * len(after), answers, row_of_each)
    return pairs.counts.change < 0 and pairs.interval(1 - LEVEL)[1] < 0


def seed_noise(found: Sequence[Candidate]) -> float:
    """Standard error of the difference of two combinations' means over seeds.

    The spread of seeds is pooled over all combinations, s^2 = mean of their variances, and the
    error is s sqrt(2 / n) for n seeds; 0 where each ran once, which tells nothing of noise.
    """
    spreads = [statistics.variance(c.choose) for c in found if len(c.choose) > 1]
    if not spreads:
        return 0.0
    seeds = max(len(c.choose) for c in found)
    return math.sqrt(statistics.fmean(spreads) * 2 / seeds)


def cheapest(found: Sequence[Candidate], keep_base: bool = False) -> Candidate | None:
    """The one with the fewest trained numbers, of all within two seed errors of the best.

    keep_base: leave out what breaks the base; its seeds still tell of the noise. None where nothing
    is left.
    """
    left = [c for c in found if not (keep_base and c.breaks_base)]
    if not left:
        return None
    good = max(c.chosen_by for c in left) - 2 * seed_noise(found)
    return min(
        (c for c in left if c.chosen_by >= good), key=lambda c: (c.trained, -c.chosen_by, c.seconds)
    )

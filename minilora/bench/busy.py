"""What a busy neighbour does to each side: the same turns alone and beside a job of another kind.

A pair is one turn alone and one while the neighbour works, in turn; a slow-down is the ratio of
their times. Two jobs that want all cores get half each: a slow-down of 2 is a fair share.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minilora.bench.neighbour import Neighbour
from minilora.bench.race import SETTLE, Side, Turn, middle_and_band
from minilora.bench.workloads import Job, Workload, write_weights


@dataclass
class Busy:
    """Pairs of (alone, busy) turns by side, and the products a second of the neighbour beside."""

    workload: Workload
    job: Job
    fair: float
    pairs: dict[str, list[tuple[Turn, Turn]]] = field(default_factory=dict)
    beside: dict[str, list[float]] = field(default_factory=dict)
    alone: list[float] = field(default_factory=list)

    def clean(self, name: str) -> list[tuple[Turn, Turn]]:
        """The pairs that no third job spoilt."""
        return [pair for pair in self.pairs.get(name, ()) if all(turn.clean for turn in pair)]

    def slowdown(self, name: str) -> dict:
        """Time busy / time alone: median, 20 and 80 % points, pairs, dropped."""
        kept = self.clean(name)
        ratio = middle_and_band([busy.wall / alone.wall for alone, busy in kept])
        return {**ratio, "pairs": len(kept), "dropped": len(self.pairs[name]) - len(kept)}

    def seconds(self, name: str) -> tuple[float, float]:
        """Median seconds a step (alone, busy); of the clean pairs where there are any."""
        kept = self.clean(name) or self.pairs[name]
        return tuple(statistics.median(pair[i].wall for pair in kept) for i in (0, 1))

    def left(self, name: str) -> float:
        """Share of its speed alone that the neighbour keeps beside this side."""
        return statistics.median(self.beside[name]) / statistics.median(self.alone)

    def enough(self, pairs: int) -> bool:
        """Whether every side has so many clean pairs, or three times as many over."""
        return bool(self.pairs) and all(
            len(self.clean(name)) >= pairs or len(every) >= 3 * pairs
            for name, every in self.pairs.items()
        )


def disturb(
    workload: Workload,
    job: Job,
    sides: Sequence[tuple[str, int]],
    cores: int,
    *,
    pairs: int,
    seconds: float = 0.7,
    on_pair: Callable[[Busy], None] = lambda result: None,
) -> Busy:
    """Give every side `pairs` clean pairs of turns; the neighbour has a process for each core.

    Raises ValueError for no pairs, ChildProcessError when a side dies.
    """
    if pairs < 1:
        raise ValueError(f"got {pairs} pairs, expected at least 1")
    threads = max(count for _, count in sides)
    result = Busy(workload, job, fair=max(1.0, (threads + cores) / cores))
    running: list[Side] = []
    neighbour = Neighbour(cores)
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_weights(workload, job, Path(folder))
            spec = {"workload": workload.to_dict(), "job": job.name, "folder": folder}
            for kind, count in sides:
                running.append(Side(kind, count, spec))
                running[-1].start(seconds)
            while not result.enough(pairs):
                _round(result, running, neighbour, seconds)
                on_pair(result)
    finally:
        for side in running:
            side.close()
        neighbour.close()
    return result


def _round(result: Busy, running: Sequence[Side], neighbour: Neighbour, seconds: float) -> None:
    """A pair for every side, the busy turn first in every other round."""
    neighbour.go()
    time.sleep(seconds / 2)
    result.alone.append(neighbour.stop()[0])
    for side in running:
        turns: dict[bool, Turn] = {}
        past = len(result.pairs.get(side.name, ()))
        for busy in (False, True) if past % 2 == 0 else (True, False):
            if busy:
                neighbour.go()
                time.sleep(SETTLE)
                neighbour.go()  # count from here
            turns[busy] = side.turn(neighbour.pids, 0.0 if busy else SETTLE)
            if busy:
                result.beside.setdefault(side.name, []).append(neighbour.stop()[0])
        result.pairs.setdefault(side.name, []).append((turns[False], turns[True]))

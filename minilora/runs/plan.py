"""Plan, Result and Reporter: what a run is told, what comes out, and who hears of it meanwhile."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from minilora.evaluation.gate import Gate
from minilora.evaluation.judge import Scores
from minilora.limits import require_count, require_finite, require_flag
from minilora.runs.folder import RunFolder
from minilora.text import Problem
from minilora.training.parallel import MOST_WORKERS


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What any run is told: settings and paths, so that it can be sent to another process.

    out: what to write. None for steps, batch_size or lr: chosen from the data and the base.
    workers: processes that train and write answers, 0 for one a core. resume: continue the stopped
    run of `out`. keep_checkpoints: all of them stay in the run's folder, for `minilora why` and
    `verify`.
    Raises ValueError naming the first of them that makes no sense.
    """

    out: Path
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    seed: int = 0
    workers: int = 0
    resume: bool = False
    keep_checkpoints: bool = False

    def __post_init__(self) -> None:
        paths_from_texts(self)
        for field_ in fields(self):
            if field_.type == "bool":
                require_flag(field_.name, getattr(self, field_.name))
        for name in ("steps", "batch_size"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name), 1)
        if self.lr is not None:
            require_finite("lr", self.lr, above=True)
        require_count("seed", self.seed, 0)
        require_workers(self.workers)

    @property
    def folder(self) -> RunFolder:
        """Where the run's history and checkpoints go."""
        return RunFolder(self.out)


def require_workers(workers: object) -> None:
    """Raise ValueError for a number of processes that makes no sense; 0 is one a core."""
    require_count("workers", workers, 0, MOST_WORKERS)


def paths_from_texts(plan: object) -> None:
    """Make a Path of every text in a dataclass's field for one."""
    for field_ in fields(plan):
        value = getattr(plan, field_.name)
        if "Path" in field_.type and isinstance(value, str):
            object.__setattr__(plan, field_.name, Path(value))


@dataclass(frozen=True)
class Sizes:
    """Numbers of the base and of what is trained, and the optimizer's bytes."""

    base: int
    trained: int
    optimizer_bytes: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came out of a run: numbers, paths, and where it all came from.

    before: None where nothing was judged before. history: a record of each step, in order.
    seconds: of each part of the run, in order. provenance: what the sidecar of an adapter says.
    gate: the verdict on what was trained, None where nothing was asked that could tell.
    """

    plan: Plan
    folder: Path
    before: Scores | None
    after: Scores
    history: Sequence[Mapping]
    seconds: Mapping[str, float]
    sizes: Sizes
    provenance: Mapping = field(default_factory=dict)
    gate: Gate | None = None


class Reporter:
    """Hears of a run what can be shown before it ends; this one shows nothing.

    bars: whether the run may draw progress bars on stderr.
    """

    bars = False

    def left_out(self, path: Path, problems: Sequence[Problem]) -> None:
        """These places of a data file can't be used."""

    def planned(self, planned: object) -> None:
        """All is decided and nothing has begun: the settings with every default filled in."""

    def asking(self, record: Mapping) -> None:
        """The record whose answers will be shown."""

    def answered(self, when: str, record: Mapping, output: str) -> None:
        """A model's answer to one record; `when` is "before" or "after"."""


class Clock:
    """Seconds of the parts of a run, from its making on."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """What has passed since the last lap was the part `name`."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now

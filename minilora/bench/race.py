"""The parent's end of a race: processes that take turns, and the turns that count.

Every round gives each side one turn, in the reverse order every other round. A pair of turns of
one round makes one ratio. A turn is spoilt when foreign processes (all but this one and the
side's own) used more than FOREIGN of a core meanwhile, by /proc/stat; pairs with a spoilt turn
are dropped and counted.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minilora.bench.processes import FOREIGN, Foreign, child_environment
from minilora.bench.workloads import Job, Workload, write_weights

SETTLE = 0.1
"""Seconds between turns: BLAS and OpenMP threads spin for some tens of milliseconds after work."""
WARM_STEPS = 3
OTHER_LOSS = (
    "matmul", "full", "float16", "q4", "nf4", "activated", "activated-kept", "torch-bf16",
)  # fmt: skip
"""Sides that compute no loss, or another: without adapter, with another base or other numbers, or
with an adapter that acts on a part of the row."""


@dataclass(frozen=True)
class Turn:
    """One turn: seconds a step (wall), core seconds a step of the main process, foreign load."""

    wall: float
    cpu: float
    foreign: float

    @property
    def clean(self) -> bool:
        """Whether other processes left the machine alone."""
        return self.foreign <= FOREIGN


class Side:
    """A process that runs one side with so many threads (or workers)."""

    def __init__(self, kind: str, threads: int, spec: dict) -> None:
        self.kind, self.threads, self.name = kind, threads, f"{kind}@{threads}"
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "minilora.bench.sides",
             json.dumps({**spec, "kind": kind, "threads": threads})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env=child_environment(threads), text=True,
        )  # fmt: skip
        self._workers: list[int] = []
        self.steps = 1
        self.about: dict = {}

    def start(self, seconds: float) -> None:
        """Wait for set-up, warm up, and fix the steps of a turn to about `seconds`."""
        self.about = self._read()
        self.ask({"steps": WARM_STEPS})
        self.about["loss_after"] = self.ask({"loss": 1})["loss"]
        once = self.ask({"steps": 1})
        self._workers = once["workers"]
        self.steps = max(1, round(seconds / once["seconds"]))

    def turn(self, others: Sequence[int] = (), settle: float = SETTLE) -> Turn:
        """One turn; the load of the processes `others` is not held to be foreign."""
        time.sleep(settle)
        began = time.perf_counter()
        foreign = Foreign([os.getpid(), self._process.pid, *self._workers, *others])
        answer = self.ask({"steps": self.steps})
        load = foreign.cores(time.perf_counter() - began)
        return Turn(answer["seconds"] / self.steps, answer["cpu"] / self.steps, load)

    def memory(self) -> dict[str, int]:
        """Bytes: base, growth and peak."""
        return self.ask({"memory": 1})

    def ask(self, message: dict) -> dict:
        """The side's answer; raises ChildProcessError where it has died."""
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has died; _read says how
        return self._read()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().split("\n")[-1]
            raise ChildProcessError(f"the {self.name} side died (exit code {code}): {last}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def middle_and_band(values: Sequence[float]) -> dict[str, float | None]:
    """Median, and the points below which 20 and 80 % lie; None of nothing."""
    if not values:
        return {"median": None, "low": None, "high": None}
    ordered = sorted(values)
    low, high = (ordered[round(q * (len(ordered) - 1))] for q in (0.2, 0.8))
    return {"median": statistics.median(ordered), "low": low, "high": high}


@dataclass
class Result:
    """Rounds of one job on one workload: side name -> its turns, and what the sides said."""

    workload: Workload
    job: Job
    rounds: list[dict[str, Turn]] = field(default_factory=list)
    about: dict[str, dict] = field(default_factory=dict)
    memory: dict[str, list[dict]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The sides, by name and cores: `minilora@2`."""
        return list(self.about)

    def turns(self, name: str) -> list[Turn]:
        """The clean turns of a side, or all where none is clean."""
        every = [r[name] for r in self.rounds]
        return [t for t in every if t.clean] or every

    def seconds(self, name: str, time: str = "wall") -> float:
        """Median seconds a step; time: "wall", or "cpu" for core seconds."""
        return statistics.median(getattr(turn, time) for turn in self.turns(name))

    def best(self, kind: str) -> str | None:
        """The side's faster setting of threads."""
        names = [n for n in self.names if n.startswith(f"{kind}@")]
        return min(names, key=self.seconds) if names else None

    def ratio(self, over: str, under: str, time: str = "wall") -> dict:
        """time(over) / time(under) within rounds: median, 20 and 80 % points, pairs, dropped.

        CPU time hardly moves under load, so its pairs all count.
        """
        pairs = [(r[over], r[under]) for r in self.rounds]
        kept = [p for p in pairs if time == "cpu" or (p[0].clean and p[1].clean)]
        values = [getattr(a, time) / getattr(b, time) for a, b in kept]
        count = {"pairs": len(values), "dropped": len(pairs) - len(values)}
        return {**middle_and_band(values), **count}

    def peak(self, name: str) -> dict[str, float]:
        """Median over starts of each figure of memory."""
        figures = self.memory[name]
        return {key: statistics.median(f[key] for f in figures) for key in figures[0]}

    def clean_rounds(self) -> int:
        """Rounds in which no turn was spoilt."""
        return sum(all(t.clean for t in r.values()) for r in self.rounds)

    def check_losses(self) -> None:
        """Raise ValueError where sides that compute a loss do not compute the same one."""
        same = {n: a for n, a in self.about.items() if n.partition("@")[0] not in OTHER_LOSS}
        for key in ("loss", "loss_after"):
            values = {name: about[key] for name, about in same.items()}
            if max(values.values()) - min(values.values()) > 1e-4 * max(values.values()):
                raise ValueError(f"got other losses from each side, expected one: {key} {values}")


def race(
    workload: Workload,
    job: Job,
    sides: Sequence[tuple[str, int]],
    *,
    pairs: int,
    starts: int = 2,
    seconds: float = 0.7,
    on_round: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Let `sides` (kind, threads) take turns until `pairs` rounds are clean, or 3 * pairs are over.

    The processes are started anew `starts` times, because one differs from the next by up to a
    tenth. Raises ValueError where the sides' losses differ, ChildProcessError when one dies.
    """
    if pairs < 1 or starts < 1:
        raise ValueError(f"got {pairs} pairs and {starts} starts, expected at least 1 of each")
    result = Result(workload, job)
    with tempfile.TemporaryDirectory() as folder:
        write_weights(workload, job, Path(folder))
        spec = {"workload": workload.to_dict(), "job": job.name, "folder": folder}
        for start in range(min(starts, pairs)):
            goal = -(-pairs * (start + 1) // min(starts, pairs))
            _one_start(result, sides, spec, seconds, (goal, 3 * goal), on_round)
    return result


def _one_start(
    result: Result,
    sides: Sequence[tuple[str, int]],
    spec: dict,
    seconds: float,
    goal: tuple[int, int],
    on_round: Callable[[Result], None],
) -> None:
    """Start the sides, and run rounds until goal[0] are clean or goal[1] over; end the sides."""
    running: list[Side] = []
    try:
        for kind, threads in sides:
            side = Side(kind, threads, spec)
            running.append(side)
            side.start(seconds)
            result.about[side.name] = side.about
        result.check_losses()
        while result.clean_rounds() < goal[0] and len(result.rounds) < goal[1]:
            order = running if len(result.rounds) % 2 == 0 else running[::-1]
            result.rounds.append({side.name: side.turn() for side in order})
            on_round(result)
        for side in running:
            result.memory.setdefault(side.name, []).append(side.memory())
    finally:
        for side in running:
            side.close()

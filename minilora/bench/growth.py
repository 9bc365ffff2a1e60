"""How speed and memory change with batch, length and width, beside how they should.

Times: a process a side takes turns with the others' point by point. Memory: a process a point.
A measurement is repeated when other processes disturbed it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from minilora.bench import matmuls
from minilora.bench.processes import FOREIGN
from minilora.bench.race import Side
from minilora.bench.workloads import JOBS, Workload, shaped, write_weights

AXES = {
    "batch": (1, 2, 4, 8, 16),
    "length": (64, 128, 256, 512, 1024),
    "width": (64, 128, 256, 384, 512),
}
BASE = {"batch": 8, "length": 128, "width": 128}
LAYERS, HEAD, VOCABULARY = 2, 32, 512
GROWING = ("lora-qv", "full")
TRIES = 3


def workload_at(axis: str, value: int) -> Workload:
    """The base workload with one of its three sizes changed; every position is labelled."""
    size = {**BASE, axis: value}
    width, time = size["width"], size["length"]
    name = f"{size['batch']} x {time}, d {width}"
    shape = (LAYERS, width, max(1, width // HEAD), VOCABULARY)
    return shaped(name, shape, rows=size["batch"], time=time, labels=time)


def points() -> list[Workload]:
    """All of them once; the base is a point of every axis."""
    by_name = {}
    for axis, values in AXES.items():
        for value in values:
            workload = workload_at(axis, value)
            by_name[workload.name] = workload
    return list(by_name.values())


def flops_per_token(workload: Workload, job: str) -> float:
    """Of the products of a step: they grow with the width squared, and with the length."""
    pieces = matmuls.piece_rows(workload, 1)[0]
    items = matmuls.products(workload, JOBS[job], pieces)
    return sum(item.flops for item in items) / (workload.rows * workload.time)


def turns_needed(kinds: Sequence[str], starts: int) -> int:
    """Measurements that a whole run takes, for a progress bar."""
    return len(kinds) * (starts * len(points()) * len(GROWING) + len(AXES["length"]))


class Growth:
    """Measured so far. times: (kind, job, point) -> answers; memory: (kind, length) -> answer."""

    def __init__(self, kinds: Sequence[str], threads: int) -> None:
        self.kinds, self.threads = list(kinds), threads
        self.times: dict[tuple[str, str, str], list[dict]] = {}
        self.memory: dict[tuple[str, int], dict] = {}
        self.version: dict[str, str] = {}

    def seconds(self, kind: str, job: str, workload: Workload) -> float:
        """A step's median; of the undisturbed measurements where there is one."""
        every = self.times[kind, job, workload.name]
        kept = [a for a in every if a["foreign"] <= FOREIGN] or every
        return statistics.median(a["seconds"] for a in kept)

    def disturbed(self) -> int:
        """Points for which no undisturbed measurement was had."""
        return sum(min(a["foreign"] for a in every) > FOREIGN for every in self.times.values())

    def rate(self, kind: str, job: str, axis: str, value: int) -> float:
        """Tokens a second."""
        workload = workload_at(axis, value)
        return workload.rows * workload.time / self.seconds(kind, job, workload)

    def expected(self, job: str, axis: str, value: int) -> float:
        """Tokens a second if products were all: ours at the base, less as flops a token grow."""
        base = workload_at(axis, BASE[axis])
        grown = flops_per_token(workload_at(axis, value), job) / flops_per_token(base, job)
        return self.rate("minilora", job, axis, BASE[axis]) / grown

    def to_dict(self) -> dict:
        """JSON-ready."""
        axes = {}
        for axis, values in AXES.items():
            axes[axis] = {"values": list(values)}
            for job in GROWING:
                for kind in self.kinds:
                    rates = [self.rate(kind, job, axis, value) for value in values]
                    axes[axis][f"{kind} {job} tokens/s"] = rates
                expected = [self.expected(job, axis, value) for value in values]
                axes[axis][f"expected {job} tokens/s"] = expected
        return {
            "kind": "growth",
            "base": {**BASE, "layers": LAYERS, "head": HEAD, "vocabulary": VOCABULARY},
            "threads": self.threads,
            "kinds": self.kinds,
            "axes": axes,
            "memory": {
                kind: [self.memory[kind, length]["memory"] for length in AXES["length"]]
                for kind in self.kinds
            },
            "disturbed": self.disturbed(),
            "versions": self.version,
            "measurements": [
                {"kind": kind, "job": job, "point": point, "answers": answers}
                for (kind, job, point), answers in self.times.items()
            ],
        }


def measure(
    kinds: Sequence[str],
    threads: int,
    *,
    starts: int = 2,
    seconds: float = 0.4,
    on_turn: Callable[[], None] = lambda: None,
) -> Growth:
    """Time every point with every side, in `starts` fresh processes each, and its memory.

    Raises ChildProcessError when a side dies.
    """
    result = Growth(kinds, threads)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(starts):
            _times(result, folder, seconds, on_turn)
        for length in AXES["length"]:
            workload = workload_at("length", length)
            for kind in kinds:
                side = Side(kind, threads, {"sweep": True})
                try:
                    result.memory[kind, length] = _ask(side, workload, "lora-qv", folder, 0.0)
                finally:
                    side.close()
                on_turn()
    return result


def _times(result: Growth, folder: str, seconds: float, on_turn: Callable[[], None]) -> None:
    running: list[Side] = []
    try:
        for kind in result.kinds:
            running.append(Side(kind, result.threads, {"sweep": True}))
        for i, workload in enumerate(points()):
            for job in GROWING:
                for side in running if i % 2 == 0 else running[::-1]:
                    answers = result.times.setdefault((side.kind, job, workload.name), [])
                    for _ in range(TRIES):
                        answers.append(_ask(side, workload, job, folder, seconds))
                        if answers[-1]["foreign"] <= FOREIGN:
                            break
                    result.version[side.kind] = answers[-1].get("version", "")
                    on_turn()
    finally:
        for side in running:
            side.close()


def _ask(side: Side, workload: Workload, job: str, folder: str, seconds: float) -> dict:
    write_weights(workload, JOBS[job], Path(folder))
    spec = {"workload": workload.to_dict(), "job": job, "folder": folder, "seconds": seconds}
    return side.ask(spec)

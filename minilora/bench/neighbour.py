"""A job of another kind that keeps cores busy: processes that multiply matrices, on command.

`python -m minilora.bench.neighbour N` reads lines: "go" lets its N processes work (one BLAS
thread each), "stop" makes them sleep; each is answered with the products made so far. The end of
the input ends it.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time

import numpy as np

from minilora.backend import blas_threads
from minilora.bench.processes import child_environment
from minilora.machine import process_seconds

WIDTH = 256  # a product takes some tenths of a millisecond


def work(number: int, going: object, counts: object) -> None:
    """A process's life: multiply while `going` is set, count, sleep while it is not."""
    a = np.random.default_rng(number).standard_normal((WIDTH, WIDTH), dtype=np.float32)
    out = np.empty_like(a)
    with blas_threads(1):
        while going.wait():
            np.matmul(a, a, out)
            counts[number] += 1


def main(argv: list[str]) -> int:
    """Run until the input ends."""
    context = multiprocessing.get_context("spawn" if os.name == "nt" else "fork")
    going, counts = context.Event(), context.RawArray("q", int(argv[1]))
    workers = [
        context.Process(target=work, args=(i, going, counts), daemon=True)
        for i in range(len(counts))
    ]
    for worker in workers:
        worker.start()
    print(*[worker.pid for worker in workers], flush=True)
    for line in sys.stdin:
        if line.strip() == "go":
            going.set()
        else:
            going.clear()
        print(sum(counts), flush=True)
    for worker in workers:
        worker.kill()
    return 0


class Neighbour:
    """The other end: starts the processes, asleep, and lets them work between `go` and `stop`."""

    def __init__(self, processes: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "minilora.bench.neighbour", str(processes)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=child_environment(1),
        )  # fmt: skip
        self.pids = [int(pid) for pid in self._process.stdout.readline().split()]
        self._began = (0.0, 0, 0.0)  # when, products so far, core seconds so far

    def _tell(self, word: str) -> int:
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def _used(self) -> float:
        return sum(map(process_seconds, self.pids))

    def go(self) -> None:
        """Keep the cores busy from now on."""
        self._began = (time.perf_counter(), self._tell("go"), self._used())

    def stop(self) -> tuple[float, float]:
        """Sleep; (products a second, cores used) since `go`."""
        began, count, used = self._began
        made, seconds = self._tell("stop") - count, time.perf_counter() - began
        return made / seconds, (self._used() - used) / seconds

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))

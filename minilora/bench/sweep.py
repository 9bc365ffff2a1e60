"""The runner's end of a sweep: one process that times one point after another.

It reads a JSON object a line (workload, job, folder of the weights, seconds), runs that side on
it for so long, and answers with what it took.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import IO

from minilora.bench.processes import Foreign
from minilora.bench.turns import Stop, Turns, forget_peak
from minilora.machine import process_memory

WARM_STEPS, LEAST_STEPS = 2, 3


class Clock(Turns):
    """Ends a side after `seconds` of steps; what it took is then in `answer`."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._done = seconds, -WARM_STEPS
        self.base: dict[str, int] = {}
        self.answer: dict = {}

    def begin(self, loss: Callable[[], float], about: dict | None = None) -> None:
        """Take the loss once, as a race does; memory counts from here."""
        self.answer = {"loss": loss(), **(about or {})}
        forget_peak()
        self.base = process_memory() or {"VmRSS": 0, "VmHWM": 0}

    def step_done(self) -> None:
        """Count a step; raise Stop once there were enough."""
        self._done += 1
        if self._done == 0:
            workers = [child.pid for child in multiprocessing.active_children()]
            self._foreign = Foreign([os.getpid(), *workers])
            self._began = (time.perf_counter(), time.process_time())
        elif self._done >= LEAST_STEPS:
            seconds = time.perf_counter() - self._began[0]
            if seconds >= self._seconds:
                cpu = time.process_time() - self._began[1]
                self.answer |= {"seconds": seconds / self._done, "cpu": cpu / self._done}
                self.answer |= {"foreign": self._foreign.cores(seconds), "memory": self.memory()}
                raise Stop


def serve(run: Callable[[dict, Turns], None], spec: dict, receive: IO[str], send: IO[str]) -> None:
    """Run a side on every point that is asked for, until the input ends."""
    for line in receive:
        message = json.loads(line)
        clock = Clock(message["seconds"])
        try:
            run({**spec, **message}, clock)
        except Stop:
            send.write(json.dumps(clock.answer) + "\n")
            send.flush()

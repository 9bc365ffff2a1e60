"""The runner's end of a race: work when told to, sleep otherwise, and say what it took.

A side of the benchmark is a long-lived process. It reads one JSON message a line: {"steps": n}
runs n steps, {"loss": 1} and {"memory": 1} ask; the end of the input ends it. Between messages it
blocks in a read and burns nothing.
"""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from minilora.machine import peak_memory, process_memory


class Stop(Exception):
    """The race is over."""


def forget_peak() -> None:
    """Give freed memory back and start the peak (VmHWM, ru_maxrss) anew, where Linux allows it."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError, TypeError):
        pass  # another system: the peak then covers set-up too


class Turns:
    """Runs a side's steps when its turn comes.

    A side calls `begin` when it is set up and `step_done` after every step; both return when the
    next step is due, and raise Stop when there is none.
    """

    def __init__(self, receive: IO[str], send: IO[str]) -> None:
        self._receive, self._send = receive, send
        self._runner = os.getppid()
        self._left = 0
        self._began = (0.0, 0.0)
        self._loss: Callable[[], float] = float
        self.base: dict[str, int] = {}

    def begin(self, loss: Callable[[], float], about: dict | None = None) -> None:
        """Report the loss before any step and, as the base of memory, what is held now."""
        self._loss = loss
        first = loss()
        forget_peak()
        self.base = process_memory() or {"VmRSS": peak_memory() or 0}
        self._answer({"loss": first, **(about or {})})
        self._wait()

    def step_done(self) -> None:
        """Count a step; after the last of a turn, answer and wait for the next turn.

        A runner that was killed in the middle of a long turn must not leave this process behind.
        """
        self._left -= 1
        if os.getppid() != self._runner:
            raise Stop
        if self._left == 0:
            wall, cpu = time.perf_counter(), time.process_time()
            workers = [child.pid for child in multiprocessing.active_children()]
            times = {"seconds": wall - self._began[0], "cpu": cpu - self._began[1]}
            self._answer({**times, "workers": workers})
            self._wait()

    def memory(self) -> dict[str, int]:
        """Bytes: resident after set-up, and the most above it that all processes took together.

        A forked worker starts with the pages of its parent: what counts is what it has beyond
        them, its shared memory left out (its parent counts that).
        """
        now = process_memory() or {"VmHWM": peak_memory() or 0}
        growth = now["VmHWM"] - self.base["VmRSS"]
        for child in multiprocessing.active_children():
            own = process_memory(child.pid)
            if own:
                shared = own["RssShmem"] + own["RssFile"]
                growth += max(0, own["VmHWM"] - shared - self.base["RssAnon"])
        return {"base": self.base["VmRSS"], "growth": growth, "peak": self.base["VmRSS"] + growth}

    def _answer(self, message: dict) -> None:
        self._send.write(json.dumps(message) + "\n")
        self._send.flush()

    def _wait(self) -> None:
        while True:
            line = self._receive.readline()
            if not line:
                raise Stop
            message = json.loads(line)
            if "steps" in message:
                self._left = message["steps"]
                self._began = (time.perf_counter(), time.process_time())
                return
            if "memory" in message:
                self._answer(self.memory())
            else:
                self._answer({"loss": self._loss()})
                forget_peak()

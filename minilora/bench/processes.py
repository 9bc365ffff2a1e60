"""Processes beside one another: how a child is started, and how much of the machine others use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from minilora import THREAD_VARIABLES
from minilora.machine import machine_seconds, process_seconds

FOREIGN = 0.12
"""Share of one core that other processes may use before a turn is spoilt."""


def child_environment(threads: int) -> dict[str, str]:
    """Environment of a process that imports this very copy of the package, with so many threads."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    counts = dict.fromkeys(("MINILORA_THREADS", *THREAD_VARIABLES), str(threads))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **counts}


class Foreign:
    """What all processes but `pids` use of the machine, in cores, from here on."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.pids = tuple(pids)
        self._own, self._machine = self._used(), machine_seconds()

    def _used(self) -> float:
        return sum(map(process_seconds, self.pids))

    def cores(self, seconds: float) -> float:
        """Cores in use by others over the `seconds` since the start; 0 where it is not known."""
        if self._machine is None:
            return 0.0
        return (machine_seconds() - self._machine - (self._used() - self._own)) / seconds

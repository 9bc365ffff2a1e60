"""Processes beside one another: how a child is started, and how much of the machine others use.

Use is read from Linux's /proc; elsewhere nothing is known of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from minilora import THREAD_VARIABLES

FOREIGN = 0.12
"""Share of one core that other processes may use before a turn is spoilt."""
TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def child_environment(threads: int) -> dict[str, str]:
    """Environment of a process that imports this very copy of the package, with so many threads."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    counts = dict.fromkeys(("MINILORA_THREADS", *THREAD_VARIABLES), str(threads))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **counts}


def machine_busy() -> float | None:
    """Core seconds that the machine has worked since it started; None where not known."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / TICK


def process_busy(pid: int) -> float:
    """Core seconds that a process has used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


class Foreign:
    """What all processes but `pids` use of the machine, in cores, from here on."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.pids = tuple(pids)
        self._own, self._machine = self._used(), machine_busy()

    def _used(self) -> float:
        return sum(map(process_busy, self.pids))

    def cores(self, seconds: float) -> float:
        """Cores in use by others over the `seconds` since the start; 0 where it is not known."""
        if self._machine is None:
            return 0.0
        return (machine_busy() - self._machine - (self._used() - self._own)) / seconds

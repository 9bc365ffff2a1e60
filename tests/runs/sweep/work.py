"""What the tests of pools run in place of training, in other processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from minilora.runs.sweep.pools import Outcome


def quick(point) -> Outcome:
    """Its rank, and the process that it ran in."""
    return Outcome(point, {"r": point.settings["r"], "pid": os.getpid()})


def slow(point) -> Outcome:
    """Says in a file which process began it, and takes a while."""
    (Path(point.out).parent / f"{point.id}.{os.getpid()}").touch()
    time.sleep(0.5)
    return quick(point)


def fails(point) -> Outcome:
    """The card is full, says CUDA, with an error of no kind that Python knows."""
    raise RuntimeError(f"rank {point.settings['r']} has no room")


def waits(point) -> Outcome:
    """Says in a file which process began it, and never ends."""
    (Path(point.out).parent / f"{point.id}.{os.getpid()}").touch()
    time.sleep(600)
    return quick(point)


def dies_once(point) -> Outcome:
    """The process of rank 3 dies, the first time."""
    mark = Path(point.out).parent / "died"
    if point.settings["r"] == 3 and not mark.exists():
        mark.touch()
        os._exit(9)
    return quick(point)


def dies(point) -> Outcome:
    """Each process dies."""
    os._exit(9)


def on_a_card(point) -> Outcome:
    """The card that its process sees, and the process; long enough for every process to begin."""
    time.sleep(0.3)
    seen = os.environ["CUDA_VISIBLE_DEVICES"]
    return Outcome(point, {"r": point.settings["r"], "card": seen, "pid": os.getpid()})

"""What a command took: its time by part, and the most memory it held."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from minilora.backend import device_memory
from minilora.cli import show


def times_text(seconds: Mapping[str, float]) -> str:
    """All of it, and each part."""
    parts = ", ".join(f"{name} {duration(taken)}" for name, taken in seconds.items())
    return f"{duration(sum(seconds.values()))} ({parts})"


def duration(seconds: float) -> str:
    """Seconds in words: 3.2 s, 41 s, 3 min 7 s."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def peak_memory() -> Mapping[str, int] | None:
    """Bytes of memory at most: of this process, and of the largest ended child; None on Windows.

    A forked child shares its parent's arrays, and they count in both: the sum is an upper bound.
    """
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    who = {"this process": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}
    return {name: resource.getrusage(one).ru_maxrss * unit for name, one in who.items()}


def peak_memory_text(device: str = "cpu") -> str:
    """The peak in words, with what CuPy has taken of a GPU."""
    found = peak_memory()
    if found is None:
        text = "not known on this system"
    elif found["worker"]:
        text = (
            f"{show.size(found['this process'])}, and {show.size(found['worker'])} in the largest "
            "child process (arrays that they share count in both)"
        )
    else:
        text = show.size(found["this process"])
    if device == "cpu":
        return text
    return f"{text}; {show.size(device_memory(device).peak)} of the {device}"

"""What a command took: its time by part, and the most memory it held."""

from __future__ import annotations

from collections.abc import Mapping

from minilora import machine
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


def peak_memory_text(device: str = "cpu") -> str:
    """The peak in words, with what CuPy has taken of a GPU."""
    own, child = machine.peak_memory(), machine.peak_child_memory()
    text = "not known on this system" if own is None else show.size(own)
    if child:
        shared = "arrays that they share count in both"
        text = f"{text}, and {show.size(child)} in the largest child process ({shared})"
    if device == "cpu":
        return text
    return f"{text}; {show.size(device_memory(device).peak)} of the {device}"

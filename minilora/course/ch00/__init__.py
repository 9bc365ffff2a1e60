"""Exercises of chapter 0, the adjustment layer."""

from minilora.course.ch00 import dial, sheet

__all__ = ["dial", "sheet"]

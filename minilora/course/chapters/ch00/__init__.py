"""Exercises of chapter 0, the adjustment layer."""

from minilora.course.chapters.ch00 import dial, sheet

__all__ = ["dial", "sheet"]

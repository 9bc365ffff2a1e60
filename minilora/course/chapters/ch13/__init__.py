"""The exercises of chapter 13."""

from minilora.course.chapters.ch13 import codes, frozen, memory, scales

__all__ = ["codes", "frozen", "memory", "scales"]

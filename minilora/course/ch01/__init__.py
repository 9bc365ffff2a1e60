"""Exercises of chapter 1, gradients by hand."""

from minilora.course.ch01 import vjps, walks

__all__ = ["vjps", "walks"]

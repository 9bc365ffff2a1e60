"""Exercises of chapter 1, gradients by hand."""

from minilora.course.chapters.ch01 import vjps, walks

__all__ = ["vjps", "walks"]

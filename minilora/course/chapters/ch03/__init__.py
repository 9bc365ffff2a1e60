"""Exercises of chapter 3, the base and how it is measured."""

from minilora.course.chapters.ch03 import rates, scores, splits

__all__ = ["rates", "scores", "splits"]

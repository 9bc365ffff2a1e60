"""Exercises of chapter 7, merging an adapter into its base and taking it out again."""

from minilora.course.chapters.ch07 import merging, rounding, states

__all__ = ["merging", "rounding", "states"]

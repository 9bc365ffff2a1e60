"""Exercises of chapter 8, why so small a change is enough."""

from minilora.course.chapters.ch08 import amplified, dimension, overlap, quiet, subspace

__all__ = ["amplified", "dimension", "overlap", "quiet", "subspace"]

"""Exercises of chapter 4, LoRA by hand."""

from minilora.course.chapters.ch04 import bill, layer, start

__all__ = ["bill", "layer", "start"]

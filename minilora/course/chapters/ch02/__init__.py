"""Exercises of chapter 2, a Transformer by hand."""

from minilora.course.chapters.ch02 import attention, gate, loss, parts

__all__ = ["attention", "gate", "loss", "parts"]

"""Exercises of chapter 5, two dials."""

from minilora.course.chapters.ch05 import choice, rate, strips, volume

__all__ = ["choice", "rate", "strips", "volume"]

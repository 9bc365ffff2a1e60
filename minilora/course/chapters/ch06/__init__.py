"""Exercises of chapter 6, where to attach an adapter and when to attach more of it."""

from minilora.course.chapters.ch06 import counts, evidence

__all__ = ["counts", "evidence"]

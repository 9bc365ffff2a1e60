"""Exercises of chapter 6, where to attach an adapter and when to attach more of it."""

from minilora.course.chapters.ch06 import evidence, groups, names, routing

__all__ = ["evidence", "groups", "names", "routing"]

"""Exercises of chapter 10, what an adapter takes from its base, and how to see it and keep it."""

from minilora.course.chapters.ch10 import distance, front, replay, testing

__all__ = ["distance", "front", "replay", "testing"]

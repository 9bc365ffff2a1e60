"""Exercises of chapter 11, two adapters on one base."""

from minilora.course.chapters.ch11 import interference, joining, volumes

__all__ = ["interference", "joining", "volumes"]

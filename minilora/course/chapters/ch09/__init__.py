"""Exercises of chapter 9, many adapters over one base."""

from minilora.course.chapters.ch09 import batches, choosing, holding, reading

__all__ = ["batches", "choosing", "holding", "reading"]

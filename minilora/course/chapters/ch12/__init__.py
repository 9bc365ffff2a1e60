"""Exercises of chapter 12, which tool a job needs, and what the data are worth."""

from minilora.course.chapters.ch12 import contradictions, costs, tables, teachers

__all__ = ["contradictions", "costs", "tables", "teachers"]

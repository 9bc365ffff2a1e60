"""Exercises of chapter 12, which tool a job needs, and what the data are worth."""

from minilora.course.chapters.ch12 import choosing, contradictions, costs, tables, teachers

__all__ = ["choosing", "contradictions", "costs", "tables", "teachers"]

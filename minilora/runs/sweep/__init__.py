"""Sweeps: many runs from one file, judged alike, and the cheapest that is good enough."""

from minilora.runs.sweep.drive import Swept, sweep
from minilora.runs.sweep.file import Point, SweepFile
from minilora.runs.sweep.ledger import Ledger
from minilora.runs.sweep.table import Candidate, candidates, cheapest

__all__ = [
    "Candidate",
    "Ledger",
    "Point",
    "SweepFile",
    "Swept",
    "candidates",
    "cheapest",
    "sweep",
]

"""A capstone: something of one's own adapted, step by step, from a prompt to a card to show."""

from minilora.runs.capstone.drive import Done, StepReporter, run_capstone
from minilora.runs.capstone.missing import Part, missing
from minilora.runs.capstone.plan import CapstonePlan

__all__ = ["CapstonePlan", "Done", "Part", "StepReporter", "missing", "run_capstone"]

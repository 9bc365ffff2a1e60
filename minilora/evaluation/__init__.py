"""Evaluation: what a model is asked, and how its answers are scored and compared."""

from minilora.evaluation.cases import Case, read_cases
from minilora.evaluation.house import HouseRecords, house_records
from minilora.evaluation.judge import Judge, Scores
from minilora.evaluation.merging import MergeCheck, check_merge

__all__ = [
    "Case",
    "HouseRecords",
    "Judge",
    "MergeCheck",
    "Scores",
    "check_merge",
    "house_records",
    "read_cases",
]

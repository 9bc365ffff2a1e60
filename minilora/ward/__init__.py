"""The ward: synthetic hospital notes, what is asked of them, and how answers are scored."""

from minilora.ward.cases import Case, Prescription, Relative, sample_case
from minilora.ward.corpus import (
    GROUPS,
    Document,
    Example,
    MixedNote,
    general_documents,
    house_examples,
    mixed_notes,
    regression_suite,
)
from minilora.ward.describe import house_instruction
from minilora.ward.formats import (
    HOUSE_FORMATS,
    HOUSE_INSTRUCTION,
    PUBLIC_STYLES,
    house_format,
)
from minilora.ward.notes import write_note
from minilora.ward.score import HouseScore, RegressionScore, score_house, score_regression
from minilora.ward.write import write_ward

__all__ = [
    "GROUPS",
    "HOUSE_FORMATS",
    "HOUSE_INSTRUCTION",
    "PUBLIC_STYLES",
    "Case",
    "Document",
    "Example",
    "HouseScore",
    "MixedNote",
    "Prescription",
    "RegressionScore",
    "Relative",
    "general_documents",
    "house_examples",
    "house_format",
    "house_instruction",
    "mixed_notes",
    "regression_suite",
    "sample_case",
    "score_house",
    "score_regression",
    "write_note",
    "write_ward",
]

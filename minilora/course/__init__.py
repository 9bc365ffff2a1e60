"""The course: chapters, exercises, claims, and what a learner has done.

A chapter is one percent-format file, `notebooks/src/chNN_name.py`; its exercises are entries in
`minilora/course/chapters/chNN/`; `python -m minilora.course.build NN` executes it and writes
`notebooks/NN_name.ipynb` with outputs. notebooks/WRITING.md says how to write one.
"""

from minilora.course.claims import claim, refuted
from minilora.course.notebook import (
    answer,
    check,
    data_folder,
    hint,
    predict,
    reveal,
    slider,
    solution,
    style,
)
from minilora.processes import side_by_side

__all__ = [
    "answer",
    "check",
    "claim",
    "data_folder",
    "hint",
    "predict",
    "refuted",
    "reveal",
    "side_by_side",
    "slider",
    "solution",
    "style",
]

"""Excerpts: a few lines of a note that hold the answer to a question, and little else.

A short text makes it plain where an answer comes from, so a small model learns to look things up
here first, at a fraction of a whole note's tokens, and then does it in whole notes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from numpy.random import Generator

from minilora.ward.cases import Case
from minilora.ward.diagnoses import DIAGNOSES
from minilora.ward.people import INTERVALS, NO_ALLERGY
from minilora.ward.tasks import DOSE_CHECK

BYSTANDER_PROBABILITY = 0.2
"""Chance that a line is kept that the question does not need."""

_CUT = re.compile(r"(?<=\.)\s+(?=[A-Z0-9])|\n")


def lines_of(note: str) -> list[tuple[str, str]]:
    """The note's sentences or lines, each with the white space that follows it."""
    lines, start = [], 0
    for cut in _CUT.finditer(note):
        lines.append((note[start : cut.start()], cut.group()))
        start = cut.end()
    return [*lines, (note[start:], "")]


def evidence(case: Case, task: str) -> list[tuple[str, ...]]:
    """What an excerpt must show for a task: for each thing needed, the ways a note puts it.

    Nothing for a task about one drug, whose prompt names it.
    """
    diagnosis = DIAGNOSES[case.diagnosis]
    clinic, interval = case.follow_up.split(" in ")
    none = ("NKDA", "nil", "o known", "no allergies", f"Allergies: {NO_ALLERGY}")
    drugs = [(drug,) for drug in case.drugs]
    needs: dict[str, list[tuple[str, ...]]] = {
        "question/diagnosis": [(diagnosis.name, diagnosis.abbreviation, diagnosis.synonym)],
        "question/age": [(f"{case.age}",)],
        "question/allergy": [none if case.allergy == NO_ALLERGY else (case.allergy,)],
        "question/follow-up": [(case.follow_up, f"{clinic} {INTERVALS[interval]}")],
        "question/name": [(case.name,)],
        "question/drugs": drugs,
        DOSE_CHECK: drugs,
        "question/tests": [(test,) for test in case.investigations],
        "public/medication list": drugs,
    }
    return needs.get(task, [])


def excerpt(note: str, needed: Sequence[tuple[str, ...]], rng: Generator) -> str | None:
    """The lines of a note that show what is needed, and a few others, in the note's order.

    None where the note does not show it in a way that `needed` names.
    """
    lines = lines_of(note)
    keep = {i for i in range(len(lines)) if rng.random() < BYSTANDER_PROBABILITY}
    for ways in needed:
        holding = [i for i, (line, _) in enumerate(lines) if any(way in line for way in ways)]
        if not holding:
            return None
        keep.add(holding[0])
    if not keep:
        keep.add(int(rng.integers(len(lines))))
    return "".join(text + gap for i, (text, gap) in enumerate(lines) if i in keep).strip()

"""Puts what a learner wrote in older notebooks into a chapter's new version.

Kept are answers to exercises that the chapter still has, code cells that the learner changed where
the course has not (guesses, above all), and cells that the learner added, which go where they
stood: after the same cell of the course. What has no place in the new version is counted, and stays
in the older notebook.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minilora.course.exercises import Exercise
from minilora.course.source import COURSE_ID, text_digest

Notebook = dict[str, Any]
Cell = dict[str, Any]


@dataclass(frozen=True)
class CarriedOver:
    """A new version with a learner's work in it.

    answers: exercises whose answers were put in. left: how many answers and changed code cells have
    no place in it.
    """

    notebook: Notebook
    answers: tuple[str, ...]
    left: int


def source_of(cell: Cell) -> str:
    """The text of a cell; notebooks hold it whole or as a list of lines."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def sources_digest(notebook: Notebook) -> str:
    """sha256 of kinds and texts of the cells: the same when a notebook was only opened and saved.

    Ids, outputs and metadata don't count, nor do empty cells: JupyterLab appends one when the last
    cell is run.
    """
    cells = [(cell["cell_type"], source_of(cell)) for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps([c for c in cells if c[1].strip()]).encode()).hexdigest()


def is_written(source: str) -> bool:
    """Whether an exercise's cell holds more than its stub, or nothing at all."""
    if not source.strip():
        return False
    try:
        body = ast.parse(source).body
    except SyntaxError:  # broken, but somebody wrote it
        return True
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
        return True
    inside = body[0].body[1:] if ast.get_docstring(body[0]) else body[0].body
    if len(inside) != 1 or not isinstance(inside[0], ast.Raise):
        return True
    raised = inside[0].exc
    raised = raised.func if isinstance(raised, ast.Call) else raised
    return not (isinstance(raised, ast.Name) and raised.id == "NotImplementedError")


def carry_over(
    chapter: Notebook, exercises: Iterable[Exercise], older: Sequence[Notebook]
) -> CarriedOver:
    """`chapter` with the work of the learner's notebooks, newest first.

    An answer is looked for in all of them, and the newest counts; everything else is taken from the
    newest notebook.
    """
    new = copy.deepcopy(chapter)
    ids = {cell.get("id") for cell in new["cells"]}
    answers, left = _answers(exercises, older)
    changed = _changed_code(older[0]) if older else {}
    places = _added_by_place(older[0], ids) if older else {}
    cells = list(places.get("", ()))
    for cell in new["cells"]:
        id = cell.get("id")
        if _exercise_of(cell) in answers:
            cell["source"] = answers[_exercise_of(cell)]
        elif id in changed:
            cell["source"] = changed[id]
        cells += [cell, *places.get(id, ())]
    new["cells"] = cells
    return CarriedOver(new, tuple(answers), left + len(changed.keys() - ids))


def _exercise_of(cell: Cell) -> str | None:
    """The exercise that a cell is the answer to; None for all other cells."""
    return cell.get("metadata", {}).get("exercise") if cell["cell_type"] == "code" else None


def _answers(
    exercises: Iterable[Exercise], older: Sequence[Notebook]
) -> tuple[dict[str, str], int]:
    """(exercise -> the learner's text, how many written answers have no exercise any more)."""
    known = {exercise.id: exercise for exercise in exercises}
    answers: dict[str, str] = {}
    left = 0
    for notebook in older:
        for cell in notebook["cells"]:
            id, source = _exercise_of(cell), source_of(cell)
            if id is None or not is_written(source):
                continue
            if id in known and f"def {known[id].name}(" in source:
                answers.setdefault(id, source)
            elif notebook is older[0]:
                left += 1
    return {id: answers[id] for id in known if id in answers}, left


def _added_by_place(notebook: Notebook, ids: set[str | None]) -> dict[str, list[Cell]]:
    """Cells that the learner added, by the id of the cell after which they go, "" for the top."""
    places: dict[str, list[Cell]] = {}
    place = ""
    for cell, added in _with_added(notebook):
        if not added:
            place = cell["id"] if cell.get("id") in ids else place
        elif source_of(cell).strip():
            places.setdefault(place, []).append(_without_outputs(cell))
    return places


def _with_added(notebook: Notebook) -> Iterator[tuple[Cell, bool]]:
    """Every cell, and whether the learner added it. A cell without an id can't be told apart."""
    for cell in notebook["cells"]:
        own = "id" in cell and COURSE_ID.fullmatch(cell["id"]) is None
        yield cell, own and _exercise_of(cell) is None


def _changed_code(notebook: Notebook) -> dict[str, str]:
    """Id -> text of the course's code cells whose text is not the one that the id was made of.

    Text cells don't tell: what was measured is written into them when a chapter is built.
    """
    changed = {}
    for cell in notebook["cells"]:
        match = COURSE_ID.fullmatch(cell.get("id", ""))
        if match and match[2] and cell["cell_type"] == "code":
            source = source_of(cell)
            if source.strip() and text_digest("code", source) != match[2]:
                changed[cell["id"]] = source
    return changed


def _without_outputs(cell: Cell) -> Cell:
    kept = copy.deepcopy(cell)
    if kept["cell_type"] == "code":
        kept["outputs"], kept["execution_count"] = [], None
    return kept

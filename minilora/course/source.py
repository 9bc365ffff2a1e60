"""Chapters as people write them: one percent-format file, read into cells.

    # %% [markdown]      text; every line starts with "# "
    # %%                 code
    # %% exercise 1.2    becomes statement, stub and check, made from the registry
    # %% slider          code that shows a slider; its output is never stored
    # %% claims          the closing code, in which every `> **Claim.**` of the text is measured

What stands before the first marker is for the reader of the file only.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from minilora.course.exercises import Exercise, exercises_of

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
SOURCES = NOTEBOOKS / "src"
MARKER = re.compile(r"# %%(.*)")
CLAIM = re.compile(r"^> \*\*Claim\.\*\* (.+?)(?=^(?!> )|\Z)", re.MULTILINE | re.DOTALL)


class ChapterError(ValueError):
    """A chapter's source, notebook or run that is not as the course needs it."""


@dataclass(frozen=True)
class Cell:
    """One notebook cell. `role` is "", "exercise", "check", "slider" or "claims"."""

    kind: str
    source: str
    role: str = ""
    exercise: str = ""


@dataclass(frozen=True)
class Chapter:
    """One chapter's source file, `chNN_name.py`."""

    path: Path

    @property
    def number(self) -> int:
        """NN."""
        return int(self.path.stem[2:4])

    @property
    def name(self) -> str:
        """`NN_name`, the stem of the notebook."""
        return self.path.stem[2:]

    @property
    def notebook(self) -> Path:
        """Where the built notebook is committed."""
        return self.path.parents[1] / f"{self.name}.ipynb"

    @cached_property
    def blocks(self) -> list[Cell]:
        """The cells of the file; an exercise is still one block without text."""
        return parse(self.path.read_text(encoding="utf-8"), self.path.name)

    @property
    def title(self) -> str:
        """The first heading, without its mark: `1. Gradients by hand`."""
        for cell in self.blocks:
            if cell.kind == "markdown" and cell.source.startswith("# "):
                return cell.source.splitlines()[0][2:].strip()
        raise ChapterError(f"{self.path.name}: got no text that starts with a heading '# '")

    @property
    def exercises(self) -> dict[str, Exercise]:
        """The chapter's exercises in the registry, by id."""
        return exercises_of(self.number)

    @cached_property
    def cells(self) -> list[Cell]:
        """The notebook's cells, exercises expanded.

        Raises ChapterError where the file and the registry do not name the same exercises.
        """
        named = [cell.exercise for cell in self.blocks if cell.role == "exercise"]
        if named != list(self.exercises):
            raise ChapterError(
                f"{self.path.name}: got the exercises {named}, expected those of "
                f"course/chapters/ch{self.number:02d} in their order: {list(self.exercises)}"
            )
        cells = []
        for cell in self.blocks:
            if cell.role == "exercise":
                cells.extend(exercise_cells(self.exercises[cell.exercise]))
            else:
                cells.append(cell)
        return cells


def find_chapters(folder: Path = SOURCES) -> list[Chapter]:
    """The chapters whose sources are in `folder`, in order."""
    found = [Chapter(p) for p in sorted(folder.glob("ch[0-9][0-9]_*.py"))]
    if not found:
        raise ChapterError(f"the course belongs to a checkout of the project; none in {folder}")
    return found


def find_chapter(number: int) -> Chapter:
    """The chapter with this number. Raises ChapterError where there is none."""
    chapters = {chapter.number: chapter for chapter in find_chapters()}
    if number not in chapters:
        raise ChapterError(f"got chapter {number}, expected one of {sorted(chapters)}")
    return chapters[number]


def parse(text: str, name: str = "chapter") -> list[Cell]:
    """Cells of a percent-format text. Raises ChapterError for a marker it does not know."""
    cells: list[Cell] = []
    header, lines = None, []
    for line in [*text.splitlines(), "# %%"]:
        match = MARKER.fullmatch(line.rstrip())
        if not match:
            lines.append(line)
            continue
        if header is not None:
            cells.append(_cell(header, "\n".join(lines).strip("\n"), name))
        header, lines = match[1].strip(), []
    return cells


def _cell(header: str, body: str, name: str) -> Cell:
    if header == "[markdown]":
        return Cell("markdown", _markdown(body, name))
    if header in ("", "slider", "claims"):
        if not body.strip():
            raise ChapterError(f"{name}: got a code cell without code")
        return Cell("code", body, header)
    match = re.fullmatch(r"exercise (\d+\.\d+)", header)
    if match is None:
        raise ChapterError(
            f"{name}: got the marker '# %% {header}', expected [markdown], exercise N.M, slider, "
            "claims, or nothing"
        )
    if body.strip():
        raise ChapterError(f"{name}: got code under '# %% {header}'; end it with a new marker")
    return Cell("code", "", "exercise", match[1])


def _markdown(body: str, name: str) -> str:
    lines = []
    for line in body.splitlines():
        if line and line != "#" and not line.startswith("# "):
            raise ChapterError(f"{name}: got {line!r} in a text cell, expected a line after '# '")
        lines.append(line[2:])
    return "\n".join(lines).strip("\n")


def exercise_cells(exercise: Exercise) -> list[Cell]:
    """Statement, stub and check of one exercise."""
    dots = "●" * exercise.difficulty + "○" * (3 - exercise.difficulty)
    heading = f"### Exercise {exercise.id} · {exercise.title}"
    effort = f"*{dots} · about {exercise.minutes} minutes*"
    call = f'check("{exercise.id}", {exercise.name})'
    asides = f'# stuck? hint("{exercise.id}"), up to three times; then solution("{exercise.id}")'
    return [
        Cell("markdown", f"{heading}\n{effort}\n\n{exercise.statement}", "", exercise.id),
        Cell("code", exercise.stub, "exercise", exercise.id),
        Cell("code", f"{call}\n{asides}", "check", exercise.id),
    ]


def written_claims(cells: list[Cell]) -> list[str]:
    """The sentences of the text that are marked `> **Claim.**`, on one line each."""
    texts = (cell.source for cell in cells if cell.kind == "markdown")
    found = (match[1] for text in texts for match in CLAIM.finditer(text))
    return [" ".join(re.sub(r"^> ", "", part, flags=re.MULTILINE).split()) for part in found]


def measured_claims(cells: list[Cell]) -> list[str]:
    """The sentences given to claim() and refuted() in the cells marked `claims`."""
    calls = (
        node
        for cell in cells
        if cell.role == "claims"
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("claim", "refuted")
    )
    return [str(getattr(call.args[0], "value", "")) for call in calls if call.args]

"""Chapters as people write them: one percent-format file, read into cells.

    # %% [markdown]      text; every line starts with "# "
    # %%                 code
    # %% exercise 1.2    becomes statement, stub and check, made from the registry
    # %% predict         a question to answer before the figure that answers it
    # %% slider          code that shows a slider; its output is never stored
    # %% claims          the closing code, in which every `> **Claim.**` of the text is measured

What stands before the first marker is for the reader of the file only.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from minilora.course.exercises import Exercise, exercises_of

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
SOURCES = NOTEBOOKS / "src"
MARKER = re.compile(r"# %%(.*)")
COURSE_ID = re.compile(r"(ch\d\d-([0-9a-f]{10})|exercise-\d+-\d+-\w+?)(-\d+)?")
"""Ids of the course's cells in a notebook: what a learner adds has others."""
CLAIM = re.compile(r"^> \*\*Claim\.\*\* (.+?)(?=^(?!> )|\Z)", re.MULTILINE | re.DOTALL)
HOURS = re.compile(r"\*\*Time\.\*\* about (\d+(?:\.\d+)?) hours?")
ORIENTATION = """\
*How to use this page.* Run a cell with Shift+Enter, from top to bottom. *Run All* works too: where
an exercise is not written yet, the chapter goes on with our version. You write in the cells that
say `not written yet`, and put a guess in place of `None` where a cell says `predict`. Opened by
`python3 minilora learn`, this is your own copy, in the folder `my-course`; nothing that you write
is ever overwritten, and `python3 minilora progress` shows what is done. Below a claim, ✓ and ✗ say
what we measured. The last cell measures all of them again, on your machine."""


class ChapterError(ValueError):
    """A chapter's source, notebook or run that is not as the course needs it."""


@dataclass(frozen=True)
class Cell:
    """One notebook cell. `role` is "", "exercise", "check", "predict", "slider" or "claims"."""

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
    def hours(self) -> float:
        """How long the chapter takes a reader, as its text says; 0 where it does not say."""
        texts = "\n".join(cell.source for cell in self.blocks if cell.kind == "markdown")
        found = HOURS.search(texts)
        return float(found[1]) if found else 0.0

    @property
    def exercises(self) -> dict[str, Exercise]:
        """The chapter's exercises in the registry, by id."""
        return exercises_of(self.number)

    @cached_property
    def cells(self) -> list[Cell]:
        """The notebook's cells: exercises expanded, and how to use the page after its opening.

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
        opening = 1 if cells and cells[0].kind == "markdown" else 0
        return [*cells[:opening], Cell("markdown", ORIENTATION, "orientation"), *cells[opening:]]


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
    if header in ("", "predict", "slider", "claims"):
        if not body.strip():
            raise ChapterError(f"{name}: got a code cell without code")
        return Cell("code", body, header)
    match = re.fullmatch(r"exercise (\d+\.\d+)", header)
    if match is None:
        raise ChapterError(
            f"{name}: got the marker '# %% {header}', expected [markdown], exercise N.M, predict, "
            "slider, claims, or nothing"
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
    stars = "★" * exercise.importance + "☆" * (3 - exercise.importance)
    heading = f"### Exercise {exercise.id} · {exercise.title}"
    effort = f"*difficulty {dots} · importance {stars} · about {exercise.minutes} minutes*"
    call = f'check("{exercise.id}")'
    asides = f'# stuck? hint("{exercise.id}"), up to three times; then solution("{exercise.id}")'
    return [
        Cell("markdown", f"{heading}\n{effort}\n\n{exercise.statement}", "", exercise.id),
        Cell("code", exercise.stub, "exercise", exercise.id),
        Cell("code", f"{call}\n{asides}", "check", exercise.id),
    ]


def cell_id(chapter: int, cell: Cell) -> str:
    """An id that changes with the cell's own text only, so that a new cell renames no other."""
    if cell.exercise:
        role = cell.role or "statement"
        return f"exercise-{cell.exercise.replace('.', '-')}-{role}"
    return f"ch{chapter:02d}-{text_digest(cell.kind, cell.source)}"


def text_digest(kind: str, source: str) -> str:
    """What the id of a cell without an exercise says of its text: a text that was changed shows."""
    return hashlib.sha256(f"{kind}\n{source}".encode()).hexdigest()[:10]


def written_claims(cells: list[Cell]) -> list[str]:
    """The sentences of the text that are marked `> **Claim.**`, on one line each."""
    texts = (cell.source for cell in cells if cell.kind == "markdown")
    found = (match[1] for text in texts for match in CLAIM.finditer(text))
    return [" ".join(re.sub(r"^> ", "", part, flags=re.MULTILINE).split()) for part in found]


def with_verdicts(text: str, lines: Mapping[str, str]) -> str:
    """A text cell with a line below each claim that says how its measurement came out.

    lines: sentence -> the line; a sentence without one stays as it is.
    """

    def add(match: re.Match) -> str:
        sentence = " ".join(re.sub(r"^> ", "", match[1], flags=re.MULTILINE).split())
        if sentence not in lines:
            return match[0]
        body = match[0].rstrip("\n")
        return f"{body}\n>\n> {lines[sentence]}" + match[0][len(body) :]

    return CLAIM.sub(add, text)


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

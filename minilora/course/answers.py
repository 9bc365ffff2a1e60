"""A learner's answers, read from notebooks without running them.

Only imports, definitions and plain values of a notebook are executed, in order, so that an answer
finds the helpers that the learner wrote beside it; training runs and figures are not.
"""

from __future__ import annotations

import ast
import contextlib
import json
import linecache
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from minilora.course import progress
from minilora.course.checking import FAILED, Outcome, run_check, unwritten
from minilora.course.exercises import Exercise
from minilora.course.source import ChapterError
from minilora.course.time_limit import TIME_LIMIT, TimeLimit, TooLong
from minilora.course.workspace import learner_files

KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Pass)
QUICK = (
    "abs", "bool", "dict", "enumerate", "float", "frozenset", "int", "len", "list", "max", "min",
    "range", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip",
)  # fmt: skip
"""Built-in functions that may be called for a constant."""

MAGIC = re.compile(r"\s*[%!?]|.*\?\s*$|[\w\s,]+=\s*[%!]")
WATCHING = ("%%time", "%%timeit", "%%capture", "%%prun")


def code_cells(path: Path) -> list[str]:
    """Sources of a notebook's code cells. Raises ChapterError for what is no notebook."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
        return [text if isinstance(text, str) else "".join(text) for text in texts]
    except (ValueError, KeyError, TypeError) as error:
        raise ChapterError(f"{path} is not a notebook ({type(error).__name__})") from None


class Answers:
    """What the code cells of one notebook import, define, or set to a plain value: `names`.

    name: of the notebook, for messages.
    """

    def __init__(self, texts: Iterable[str], name: str) -> None:
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.unread: dict[str, str] = {}
        """Source of a cell that is no Python -> what is wrong with it."""
        for number, text in enumerate(texts, 1):
            self._take(text, f"<{name}, code cell {number}>")

    def _take(self, text: str, label: str) -> None:
        try:
            tree = _parsed(text)
        except SyntaxError as error:
            self.unread[text] = f"SyntaxError: {error.msg} (line {error.lineno})"
            return
        linecache.cache[label] = (len(text), None, text.splitlines(True), label)
        for node in tree.body:
            if _is_definition(node):
                self._define(node, label)

    def _define(self, node: ast.stmt, label: str) -> None:
        """Run one statement. Where it fails, an answer that needs its names gets a NameError."""
        with (
            contextlib.suppress(Exception, SystemExit, TooLong),
            TimeLimit(TIME_LIMIT),
        ):
            exec(compile(ast.Module([node], []), label, "exec"), self.names)

    def outcome(self, exercise: Exercise, seed: int | None = None) -> Outcome:
        """Check this notebook's answer to an exercise."""
        for text, problem in self.unread.items():
            if f"def {exercise.name}(" in text:
                return Outcome(exercise, FAILED, f"your code could not be read: {problem}.")
        if exercise.name not in self.names:
            return unwritten(exercise)
        return run_check(exercise, self.names[exercise.name], seed)


def _parsed(text: str) -> ast.Module:
    """A cell's statements; without its magics, where they keep it from being Python."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.parse(_without_magics(text))


def _without_magics(text: str) -> str:
    """`%magic`, `!command`, `?help`, `help?` and `x = !command` blanked out, line by line.

    A cell under `%%magic` is Python only where the magic watches it run.
    """
    lines = text.splitlines()
    cell = next((line.split()[0] for line in lines if line.startswith("%%")), "")
    if cell and cell not in WATCHING:
        return ""
    return "\n".join("" if MAGIC.match(line) else line for line in lines)


def _is_definition(node: ast.stmt) -> bool:
    """Whether a statement does no more than import, define, or set a name to a plain value."""
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return node.value is not None and _is_plain(node.value)
    if isinstance(node, ast.If):
        return _is_plain(node.test) and all(map(_is_definition, [*node.body, *node.orelse]))
    if isinstance(node, ast.Try):
        rest = [part for handler in node.handlers for part in handler.body]
        parts = [*node.body, *rest, *node.orelse, *node.finalbody]
        return all(map(_is_definition, parts))
    return isinstance(node, KEPT)


def _is_plain(node: ast.AST) -> bool:
    """Whether an expression calls nothing but quick functions. The body of a lambda only waits."""
    if isinstance(node, ast.Lambda):
        return _is_plain(node.args)
    if isinstance(node, ast.Await) or (isinstance(node, ast.Call) and not _is_quick(node.func)):
        return False
    return all(map(_is_plain, ast.iter_child_nodes(node)))


def _is_quick(function: ast.expr) -> bool:
    """Whether this is float, range, np.array, math.sqrt and the like."""
    if isinstance(function, ast.Name):
        return function.id in QUICK
    owner = function.value if isinstance(function, ast.Attribute) else None
    return isinstance(owner, ast.Name) and owner.id in ("np", "numpy", "math")


def check_answers(
    folder: Path, exercises: Iterable[Exercise], seed: int | None = None
) -> Iterator[Outcome]:
    """Check what the learner's newest notebook that holds an answer says, and note the progress.

    One outcome after the other, as they are found. seed: of the numbers that every exercise is
    checked on, for grades that can be repeated; fresh numbers each time without one.
    """
    read: dict[Path, Answers] = {}
    for exercise in exercises:
        outcome = unwritten(exercise)
        for path in learner_files(folder, exercise.chapter):
            if path not in read:
                read[path] = Answers(code_cells(path), path.name)
            outcome = read[path].outcome(exercise, seed)
            if outcome.status != "unwritten":
                progress.note_try(folder, exercise.id, outcome.passed)
                break
        yield outcome

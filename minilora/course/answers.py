"""A learner's answers, read from notebooks without running them.

Only imports, definitions and constants of a notebook are executed, in order, so that an answer
finds the helpers that the learner wrote beside it; training runs and figures are not.
"""

from __future__ import annotations

import ast
import json
import linecache
from collections.abc import Iterable
from pathlib import Path

from minilora.course import progress
from minilora.course.checking import FAILED, Outcome, run_check, unwritten
from minilora.course.exercises import Exercise
from minilora.course.source import ChapterError
from minilora.course.workspace import learner_files

KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


def code_cells(path: Path) -> list[str]:
    """Sources of a notebook's code cells. Raises ChapterError for what is no notebook."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
        return [text if isinstance(text, str) else "".join(text) for text in texts]
    except (ValueError, KeyError, TypeError) as error:
        raise ChapterError(f"{path} is not a notebook ({type(error).__name__})") from None


def definitions(texts: Iterable[str]) -> dict[str, object]:
    """Names that code cells import, define or set to a constant."""
    return Answers(texts, "chapter").names


class Answers:
    """What the code cells of one notebook define. name: of the notebook, for messages."""

    def __init__(self, texts: Iterable[str], name: str) -> None:
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.unread: dict[str, str] = {}
        """Source of a cell that is no Python -> what is wrong with it."""
        for number, text in enumerate(texts, 1):
            self._take(_without_magics(text), f"<{name}, code cell {number}>")

    def _take(self, text: str, label: str) -> None:
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            self.unread[text] = f"SyntaxError: {error.msg} (line {error.lineno})"
            return
        linecache.cache[label] = (len(text), None, text.splitlines(True), label)
        for node in tree.body:
            if isinstance(node, KEPT) or _is_constant(node):
                try:
                    exec(compile(ast.Module([node], []), label, "exec"), self.names)
                except (Exception, SystemExit):  # who needs it fails with a NameError that says so
                    continue

    def outcome(self, exercise: Exercise) -> Outcome:
        """Check this notebook's answer to an exercise."""
        for text, problem in self.unread.items():
            if f"def {exercise.name}(" in text:
                return Outcome(exercise, FAILED, f"your code could not be read: {problem}.")
        if exercise.name not in self.names:
            return unwritten(exercise)
        return run_check(exercise, self.names[exercise.name])


def _without_magics(text: str) -> str:
    lines = text.splitlines()
    return "\n".join("" if line.lstrip().startswith(("%", "!", "?")) else line for line in lines)


def _is_constant(node: ast.stmt) -> bool:
    if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
        return False
    return not any(isinstance(part, (ast.Call, ast.Await)) for part in ast.walk(node.value))


def check_answers(folder: Path, exercises: Iterable[Exercise]) -> list[Outcome]:
    """Check what the learner's newest notebook that holds an answer says, and note the progress."""
    outcomes, read = [], {}
    for exercise in exercises:
        outcome = unwritten(exercise)
        for path in learner_files(folder, exercise.chapter):
            if path not in read:
                read[path] = Answers(code_cells(path), path.name)
            outcome = read[path].outcome(exercise)
            if outcome.status != "unwritten":
                progress.note_try(folder, exercise.id, outcome.passed)
                break
        outcomes.append(outcome)
    return outcomes

"""Exercises: one registry entry each, from which stub, notebook cells and tests are made.

The solution is an ordinary function, and the entry is its decorator:

    @exercise("1.2", "Undo a broadcast", minutes=10, difficulty=2, check=check_unbroadcast,
              statement=..., hints=(first, second, third),
              wrong=(mistake("kept the axis", "still has", change=("axis=0", "axis=1")), ...))
    def unbroadcast(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        ...

The stub is the function without its body. A wrong answer is the solution with a piece of its text
changed, or with another body, and the words that its message must hold.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from minilora.course.judge import Judge

Function = TypeVar("Function", bound=Callable[..., Any])
Check = Callable[[Callable[..., Any], Judge], None]
NOT_WRITTEN = '    raise NotImplementedError("not written yet")'


@dataclass(frozen=True)
class WrongAnswer:
    """A mistake that learners make: its source, and words that the check's message must hold."""

    name: str
    says: str
    source: str


@dataclass(frozen=True)
class Exercise:
    """What the course knows of one exercise; see `exercise` for the fields."""

    id: str
    title: str
    statement: str
    hints: tuple[str, str, str]
    minutes: int
    difficulty: int
    importance: int
    check: Check
    reference: Callable[..., Any]
    solution: str
    stub: str
    wrong: tuple[WrongAnswer, ...] = field(default=())

    @property
    def name(self) -> str:
        """The function that the learner writes."""
        return self.reference.__name__

    @property
    def chapter(self) -> int:
        """N of N.M."""
        return int(self.id.split(".")[0])

    def build(self, source: str) -> Callable[..., Any]:
        """The function that `source` defines, with the names of the registry's file at hand."""
        names = dict(self.reference.__globals__)
        exec(compile(source, f"<exercise {self.id}>", "exec"), names)
        return names[self.name]


_registry: dict[str, Exercise] = {}


def exercise(
    id: str,
    title: str,
    *,
    statement: str,
    hints: tuple[str, str, str],
    check: Check,
    wrong: Sequence[Callable[[str, str], WrongAnswer]],
    minutes: int,
    difficulty: int,
    importance: int = 2,
) -> Callable[[Function], Function]:
    """Enter the decorated function as the solution of exercise `id` ("N.M").

    statement: Markdown, with a formula or a slow specification. hints: three, each saying more
    than the one before. check(fn, judge): see `Judge`. wrong: at least two of `mistake(...)`.
    minutes: how long it takes. difficulty: 1 to 3. importance: 3 where later chapters lean on it,
    1 where a reader in a hurry may pass it by.
    Raises ValueError for an id that is taken, or fields that are not as above.
    """

    def enter(function: Function) -> Function:
        if id in _registry and _registry[id].reference.__module__ != function.__module__:
            raise ValueError(f"got exercise {id} twice")
        solution, stub = _texts(function)
        answers = tuple(make(solution, stub) for make in wrong)
        marks = (difficulty, importance)
        if len(hints) != 3 or len(answers) < 2 or not set(marks) <= {1, 2, 3}:
            raise ValueError(
                f"exercise {id} got {len(hints)} hints, {len(answers)} wrong answers, difficulty "
                f"and importance {marks}; expected three hints, two wrong answers or more, and 1 "
                "to 3"
            )
        _registry[id] = Exercise(
            id, title, _clean(statement), tuple(map(_clean, hints)), minutes, difficulty,
            importance, check, function, solution, stub, answers,
        )  # fmt: skip
        return function

    return enter


def mistake(
    name: str, says: str, *, change: tuple[str, str] | None = None, body: str | None = None
) -> Callable[[str, str], WrongAnswer]:
    """A wrong answer: the solution with `change` (old text, new text), or with another `body`.

    says: words that the check's message must hold for this mistake, and for no other one.
    Raises ValueError where the old text is not in the solution's body (after the docstring) exactly
    once.
    """
    if (change is None) == (body is None):
        raise ValueError(f"mistake {name!r} expects either change or body")

    def make(solution: str, stub: str) -> WrongAnswer:
        if body is not None:
            code = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
            return WrongAnswer(name, says, stub.replace(NOT_WRITTEN, code))
        (old, new), head = change, stub.removesuffix(NOT_WRITTEN)
        code = solution.removeprefix(head)
        if code.count(old) != 1:
            raise ValueError(
                f"mistake {name!r} changes {old!r}, which the solution's body holds "
                f"{code.count(old)} times; expected once"
            )
        return WrongAnswer(name, says, head + code.replace(old, new))

    return make


def _clean(text: str) -> str:
    return inspect.cleandoc(text)


def _texts(function: Callable[..., Any]) -> tuple[str, str]:
    """Source of the function without decorators, and the same with its body not written."""
    text = textwrap.dedent(inspect.getsource(function))
    node = ast.parse(text).body[0]
    if not isinstance(node, ast.FunctionDef) or not ast.get_docstring(node):
        raise ValueError(f"{function.__name__} expects a def with a docstring, for the stub's sake")
    lines = text.splitlines()
    solution = "\n".join(lines[node.lineno - 1 :])
    stub = "\n".join([*lines[node.lineno - 1 : node.body[0].end_lineno], NOT_WRITTEN])
    return solution, stub


def exercises_of(chapter: int) -> dict[str, Exercise]:
    """The exercises of one chapter by id, in order; empty where the chapter has none."""
    module = f"minilora.course.chapters.ch{chapter:02d}"
    if importlib.util.find_spec(module) is not None:
        importlib.import_module(module)
    entries = [entry for entry in _registry.values() if entry.chapter == chapter]
    return {entry.id: entry for entry in sorted(entries, key=lambda e: int(e.id.split(".")[1]))}


def find_exercise(id: str) -> Exercise:
    """The exercise "N.M". Raises ValueError where there is none."""
    chapter, _, place = id.partition(".")
    if chapter.isdecimal() and place.isdecimal():
        exercises = exercises_of(int(chapter))
        if id in exercises:
            return exercises[id]
        if exercises:
            raise ValueError(f"got exercise {id}, expected one of {', '.join(exercises)}")
    raise ValueError(f"got exercise {id!r}, expected a number like 1.2")

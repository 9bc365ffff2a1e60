"""`minilora check`: checks a learner's exercises from the terminal."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import typer
from rich.console import Console

from minilora.cli.learner import FOLDER_HELP, existing_folder
from minilora.course import hint as give_hint
from minilora.course import progress
from minilora.course.answers import check_answers
from minilora.course.checking import FAILED, UNWRITTEN, WRONG, Outcome
from minilora.course.exercises import Exercise, find_exercise
from minilora.course.source import find_chapter, find_chapters

GROUP = "Course"
GRADES = {WRONG: FAILED}
"""For a grade, a wrong answer and one that stops with an exception are the same."""
COLOURS = {"passed": "green", "unwritten": "dim", "wrong": "red", "failed": "red"}


def check(
    what: str = typer.Argument("", metavar="[N.M]", help="Exercise 1.2, or chapter 1, or all."),
    folder: Path | None = typer.Option(None, "--folder", help=FOLDER_HELP),
    hint: bool = typer.Option(False, "--hint", help="Give the next hint for N.M."),
    solution: bool = typer.Option(False, "--solution", help="Show our solution of N.M."),
    json_: bool = typer.Option(
        False, "--json", help="Print the results as JSON, for programs that grade."
    ),
    seed: int | None = typer.Option(
        None, "--seed", min=0, help="Seed of the numbers and sizes checked on."
    ),
) -> None:
    """Check your answers, as they are saved in your notebooks.

    Example: minilora check 1.2 --hint
    """
    exercises = chosen(what)
    if hint or solution:
        if len(exercises) != 1:
            raise ValueError("--hint and --solution expect one exercise, such as 1.2")
        if json_:
            raise ValueError("got --json with --hint or --solution, which check nothing")
        help_with(exercises[0], existing_folder(folder), hint)
        return
    checks = check_answers(existing_folder(folder), exercises, seed)
    outcomes = as_json(checks) if json_ else as_lines(checks)
    raise typer.Exit(int(any(map(counts_as_failure, outcomes)) or missing(what, outcomes)))


def as_lines(checks: Iterable[Outcome]) -> list[Outcome]:
    """Print a line for every outcome as soon as it is there; all of them."""
    console = Console()
    outcomes = []
    for outcome in checks:
        outcomes.append(outcome)
        colour = COLOURS[outcome.status]
        console.print(str(outcome), style=colour, markup=False, highlight=False, soft_wrap=True)
    return outcomes


def as_json(checks: Iterable[Outcome]) -> list[Outcome]:
    """Print all outcomes as one JSON object; all of them.

    What the answers print goes to stderr, so that stdout holds the object alone.
    """
    with contextlib.redirect_stdout(sys.stderr):
        outcomes = list(checks)
    results = [
        {
            "id": outcome.exercise.id,
            "chapter": outcome.exercise.chapter,
            "title": outcome.exercise.title,
            "status": GRADES.get(outcome.status, outcome.status),
            "diagnosis": outcome.message,
            "seconds": round(outcome.seconds, 6),
        }
        for outcome in outcomes
    ]
    passed = sum(outcome.passed for outcome in outcomes)
    summary = {"passed": passed, "exercises": len(results), "results": results}
    print(json.dumps(summary, indent=1, ensure_ascii=False))
    return outcomes


def chosen(what: str) -> list[Exercise]:
    """The exercises that "1.2", "1" or "" stand for. Raises ValueError for anything else."""
    if "." in what:
        return [find_exercise(what)]
    if what and not what.isdecimal():
        raise ValueError(f"got {what!r}, expected an exercise like 1.2 or a chapter like 1")
    chapters = [find_chapter(int(what))] if what else find_chapters()
    return [entry for chapter in chapters for entry in chapter.exercises.values()]


def counts_as_failure(outcome: Outcome) -> bool:
    """Wrong answers do; what is not written yet does not, when many are asked for."""
    return not outcome.passed and outcome.status != UNWRITTEN


def missing(what: str, outcomes: list[Outcome]) -> bool:
    """Whether one exercise was asked for and is not solved."""
    return "." in what and not outcomes[0].passed


def help_with(exercise: Exercise, folder: Path, hint: bool) -> None:
    """Print the next hint, counted in the learner's folder, or the solution."""
    if not hint:
        progress.update(folder, exercise.id, solution=True)
        print(exercise.solution)
        return
    hints = progress.read_progress(folder).get(exercise.id, progress.Record()).hints
    give_hint(exercise.id, after=hints, folder=folder)

"""Runs an exercise's check on an answer and words the outcome; learners never see a traceback."""

from __future__ import annotations

import linecache
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from minilora.course.exercises import Exercise
from minilora.course.judge import Judge, Mistake
from minilora.course.time_limit import TIME_LIMIT, TimeLimit, TooLong

PASSED, UNWRITTEN, WRONG, FAILED = "passed", "unwritten", "wrong", "failed"


@dataclass(frozen=True)
class Outcome:
    """What a check found: `passed`, `unwritten`, `wrong` (a mistake) or `failed` (an exception).

    seconds: how long the check took; 0 where nothing was run.
    """

    exercise: Exercise
    status: str
    message: str
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the answer is right."""
        return self.status == PASSED

    def __str__(self) -> str:
        mark = {PASSED: "✓", UNWRITTEN: "○"}.get(self.status, "✗")
        return f"{mark} {self.exercise.id} {self.exercise.name}: {self.message}"


def run_check(exercise: Exercise, answer: Any, seed: int | None = None) -> Outcome:
    """Check an answer on fresh random numbers (seed: for repeatable tests)."""
    began = time.perf_counter()
    outcome = _outcome(exercise, answer, Judge(seed))
    return replace(outcome, seconds=time.perf_counter() - began)


def _outcome(exercise: Exercise, answer: Any, judge: Judge) -> Outcome:
    if not callable(answer):
        kind = type(answer).__name__
        return Outcome(exercise, WRONG, f"expected a function, got an object of type {kind}.")
    try:
        with TimeLimit(TIME_LIMIT):
            exercise.check(answer, judge)
    except TooLong:
        return Outcome(
            exercise,
            FAILED,
            f"your code was still running after {TIME_LIMIT:.0f} s; does a loop of it never end?",
        )
    except NotImplementedError:
        return unwritten(exercise)
    except Mistake as mistake:
        return Outcome(exercise, WRONG, str(mistake))
    except (Exception, SystemExit) as error:  # exit() would end the other checks unseen
        return Outcome(exercise, FAILED, describe(error, answer))
    if judge.compared == 0:
        return Outcome(exercise, FAILED, "the check compared nothing, so it says nothing.")
    return Outcome(exercise, PASSED, "correct.")


def unwritten(exercise: Exercise) -> Outcome:
    """The outcome for a stub."""
    return Outcome(exercise, UNWRITTEN, "not written yet. The chapter goes on with our version.")


def missing(exercise: Exercise) -> Outcome:
    """The outcome in a notebook that has no function of the exercise's name."""
    name = exercise.name
    head = " ".join(line.strip() for line in exercise.stub.partition('"""')[0].splitlines())
    return Outcome(
        exercise,
        UNWRITTEN,
        f"there is no {name} in this notebook. Run its cell first; where the cell is gone, write "
        f"it again: `{head.strip()} …`",
    )


def describe(error: BaseException, answer: Callable[..., Any]) -> str:
    """An exception in one line: what it is, and the line of the learner's code it arose in."""
    text = " ".join(str(error).split()) or "no message"
    stopped = f"your code stopped with {type(error).__name__}: {text}"
    code = getattr(answer, "__code__", None)
    file = code.co_filename if code else None
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    if frames:
        line = (frames[-1].line or linecache.getline(file, frames[-1].lineno)).strip()
        where = f"line {frames[-1].lineno}" + (f", `{line}`" if line else "")
        return f"{stopped} ({where})."
    return f"{stopped}."

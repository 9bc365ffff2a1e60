"""Runs an exercise's check on an answer and words the outcome; learners never see a traceback."""

from __future__ import annotations

import linecache
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from minilora.course.exercises import Exercise
from minilora.course.judge import Judge, Mistake

PASSED, UNWRITTEN, WRONG, FAILED = "passed", "unwritten", "wrong", "failed"
TIME_LIMIT = 20.0
"""Seconds that one check may take; our solutions take a fraction of one."""


class TooLong(BaseException):
    """Raised in an answer that runs too long. No Exception: `except Exception` must not eat it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooLong in the body after so many seconds, where the system has an alarm clock.

    That is in the main thread, and not on Windows; elsewhere the body runs without a limit.
    """
    if not hasattr(signal, "setitimer") or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def ring(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Outcome:
    """What a check found: `passed`, `unwritten`, `wrong` (a mistake) or `failed` (an exception)."""

    exercise: Exercise
    status: str
    message: str

    @property
    def passed(self) -> bool:
        """Whether the answer is right."""
        return self.status == PASSED

    def __str__(self) -> str:
        mark = {PASSED: "✓", UNWRITTEN: "○"}.get(self.status, "✗")
        return f"{mark} {self.exercise.id} {self.exercise.name}: {self.message}"


def run_check(exercise: Exercise, answer: Any, seed: int | None = None) -> Outcome:
    """Check an answer on fresh random numbers (seed: for repeatable tests)."""
    if not callable(answer):
        kind = type(answer).__name__
        return Outcome(exercise, WRONG, f"expected a function, got an object of type {kind}.")
    judge = Judge(seed)
    try:
        with time_limit(TIME_LIMIT):
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


def describe(error: BaseException, answer: Callable[..., Any]) -> str:
    """An exception in one line: what it is, and the line of the learner's code it arose in."""
    text = " ".join(str(error).split()) or "no message"
    told = f"{type(error).__name__}: {text}"
    code = getattr(answer, "__code__", None)
    file = code.co_filename if code else None
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    if frames:
        line = (frames[-1].line or linecache.getline(file, frames[-1].lineno)).strip()
        where = f"line {frames[-1].lineno}" + (f", `{line}`" if line else "")
        return f"your code stopped with {told} ({where})."
    return f"your code stopped with {told}."

"""What every fuzzed call must do: give a value, or refuse in one line, within time and memory.

`pytest tests/fuzz` runs a few hundred cases, the same ones each time. A long run gives each
property as many as are named, other ones for each seed, and marks the tests `slow`:

    MINILORA_FUZZ_CASES=3000 MINILORA_FUZZ_SEED=1 pytest tests/fuzz
"""

from __future__ import annotations

import os
import signal
import threading
import tracemalloc
import warnings
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, seed, settings

from minilora.autograd import no_grad
from minilora.nn import Transformer

IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6]])
TEXT = "The patient takes 20 mg of lisinopril daily <|end|> é漢"
SECONDS = 20
"""Until a case counts as one that never ends; one takes a hundredth of a second."""
SPARE = 4 << 20
"""Bytes beside twice the file's: Python's own objects for files that are tiny here."""
LONGEST_LINE = 20_000


class Refused:
    """What a call that refused is told by; error: of one of the documented kinds."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def cases(count: int) -> Callable:
    """Settings of a property: `count` cases that are always the same, or those of a long run."""
    long, number = (
        int(os.environ.get("MINILORA_FUZZ_CASES", 0)),
        os.environ.get("MINILORA_FUZZ_SEED"),
    )

    def decorated(test: Callable) -> Callable:
        test = settings(
            max_examples=long or count,
            derandomize=number is None,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )(test)
        test = test if number is None else seed(int(number))(test)
        return pytest.mark.slow(test) if long else test

    return decorated


def outcome(call: Callable[[], object], file_bytes: int, spare: int = SPARE) -> object:
    """The call's value, or Refused; anything else that happens is a failure of the test.

    Errors must be ValueError or OSError with a text of one line. The memory at its peak may be
    twice `file_bytes` and `spare` (as Python and NumPy count it).
    """
    with _bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tracemalloc.start()
        try:
            value = call()
        except (ValueError, OSError) as error:
            value = Refused(error)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    if isinstance(value, Refused):
        _require_one_line(value.error)
    assert peak <= 2 * file_bytes + spare, f"{peak:,} bytes at the peak for {file_bytes:,}"
    return value


def _require_one_line(error: Exception) -> None:
    text = str(error)
    assert text and "\n" not in text and len(text) <= LONGEST_LINE, repr(text[:2000])
    assert not isinstance(error, UnicodeError), repr(error)  # Python's own, which names no file


@contextmanager
def _bounded():
    """A hang fails the test; one in compiled code, which hears no signal, ends the process.

    By timers alone: a thread that starts while tracemalloc is switched can crash Python (its
    gh-128679), and faulthandler's own timer starts one.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return
    rang = []

    def ring(*_: object) -> None:
        rang.append(True)
        raise TimeoutError("fuzz")

    before = signal.signal(signal.SIGALRM, ring)
    last = signal.signal(signal.SIGVTALRM, signal.SIG_DFL)  # which ends the process
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    signal.setitimer(signal.ITIMER_VIRTUAL, 4 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGVTALRM, last)
    assert not rang, f"it had not ended after {SECONDS} s"


def logits(model: Transformer) -> np.ndarray:
    """What a model computes for IDS."""
    with no_grad():
        return model(IDS).data

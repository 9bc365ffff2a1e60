"""Exercise 12.4: from how many requests on an adapter is cheaper than a longer prompt."""

from __future__ import annotations

import math
from collections.abc import Callable

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_break_even(fn: Callable, judge: Judge) -> None:
    cases = []
    for _ in range(3):
        adapter = 60 + int(judge.rng.integers(90))
        saved = 7 + int(judge.rng.integers(120))
        prompt, n = adapter + saved, 11 + int(judge.rng.integers(400))
        training = n * saved + 1 + int(judge.rng.integers(saved - 1))
        cases.append((training, adapter, prompt))
    cases.append((20 * saved, adapter, prompt))  # after 20 requests the two are level
    told = []
    for training, adapter, prompt in cases:
        got = judge.call(fn, training=training, adapter=adapter, prompt=prompt)
        ratio = training / (prompt - adapter)
        told.append(
            (
                f"training {training}, {adapter} a request against {prompt}",
                got,
                math.floor(ratio) + 1,
                {
                    "that many requests are just not enough, or level; from the next one on the "
                    "adapter is cheaper.": math.floor(ratio),
                    "where both cost the same, the adapter is not cheaper yet: one request "
                    "more.": math.ceil(ratio),
                    "a share of a request can't be asked; round up.": ratio,
                    "a request with the adapter costs something too; what is saved is the "
                    "difference.": math.floor(training / prompt) + 1,
                    "you divide by the adapter's cost; what a request saves is prompt - "
                    "adapter.": math.floor(training / adapter) + 1,
                    "the two costs of a request are added; one replaces the other, so subtract.": (
                        math.floor(training / (prompt + adapter)) + 1
                    ),
                },
            )
        )
    judge.numbers(told)
    for training, adapter, prompt in (
        (500 + int(judge.rng.integers(90)), 120 + int(judge.rng.integers(9)), 60),
        (700, 80, 80),
    ):
        try:
            (got,) = judge.call(
                lambda *given: (fn(*given),), training=training, adapter=adapter, prompt=prompt
            )
        except ZeroDivisionError:
            got = "none, for it divides by 0"
        judge.true(
            isinstance(got, (int, float)) and got == math.inf,
            f"a request costs {adapter} with the adapter and {prompt} with the prompt, so nothing "
            + (
                "is saved and nothing lost: return math.inf, and do not divide by 0."
                if adapter == prompt
                else f"is ever saved: return math.inf there; yours gave {got}."
            ),
        )


@exercise(
    "12.4",
    "When training pays for itself",
    minutes=8,
    difficulty=1,
    importance=2,
    check=check_break_even,
    statement=r"""
    Training an adapter costs `training` once (count it in any unit, such as tokens that are read).
    After that, a request costs `adapter`. Without training, a request costs `prompt`, because the
    instructions are longer, or the model is asked twice.

    Write `break_even(training, adapter, prompt)`: the smallest whole number of requests with which
    the adapter, its training included, is *cheaper* than the prompt; `math.inf` where it never is.
    All three are whole numbers, and training is above 0.
    """,
    hints=(
        "Each request saves prompt - adapter. How many savings does it take to be more than the "
        "training cost?",
        "Where nothing is saved, or less than nothing, return math.inf before you divide.",
        "training // (prompt - adapter) requests are not enough, or level; one more is enough.",
    ),
    wrong=(
        mistake(
            "level", "one request more", change=("training // saved + 1", "-(-training // saved)")
        ),
        mistake(
            "floor", "from the next one on", change=("training // saved + 1", "training // saved")
        ),
        mistake("ratio", "round up", change=("training // saved + 1", "training / saved")),
        mistake(
            "free adapter", "what is saved is the difference", change=("prompt - adapter", "prompt")
        ),
        mistake(
            "never",
            "return math.inf there",
            change=("if saved <= 0:\n        return math.inf\n    return", "return"),
        ),
        mistake("zero", "do not divide by 0", change=("saved <= 0", "saved < 0")),
    ),
)
def break_even(training: int, adapter: int, prompt: int) -> float:
    """The number of requests from which the adapter is cheaper; math.inf for never."""
    import math

    saved = prompt - adapter
    if saved <= 0:
        return math.inf
    return training // saved + 1

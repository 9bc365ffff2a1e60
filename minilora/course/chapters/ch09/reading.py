"""Exercise 9.6: from which token on an activated adapter acts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def _acts(ids: list[int], invocation: list[int]) -> np.ndarray:
    n = len(invocation)
    starts = [i for i in range(len(ids) - n + 1) if ids[i : i + n] == invocation]
    begin = starts[-1] if starts else len(ids)
    return np.arange(len(ids)) >= begin


def check_acts(fn: Callable, judge: Judge) -> None:
    a, b, c = (int(i) for i in judge.rng.choice(np.arange(10, 90), 3, replace=False))
    filler = [int(i) for i in judge.rng.integers(100, 200, 9)]
    call = [a, b, c]
    cases = {
        "once": [*filler[:4], *call, *filler[4:6]],
        "twice": [filler[0], *call, *filler[1:4], *call, filler[5]],
        "not at all": [*filler[:5], a, c, b, filler[6], a, b],
        "its first token alone comes later": [*filler[:3], *call, filler[4], a, filler[5], b],
        "at the very end": [*filler[:5], *call],
        "at the very beginning": [*call, *filler[:4]],
    }
    for said, ids in cases.items():
        want, got = _acts(ids, call), judge.call(fn, ids=list(ids), invocation=list(call))
        first = next((i for i in range(len(ids)) if ids[i : i + 3] == call), len(ids))
        last = int(len(ids) - want.sum())
        place, one = np.arange(len(ids)), len(ids) - 1 - ids[::-1].index(a) if a in ids else 99
        instead = {}
        if said == "twice":
            instead["that is from the first invocation on; a chat may hold an earlier one, and the "
                    "last counts."] = place >= first  # fmt: skip
        if said == "not at all":
            instead["where it is not called it must not act, and it acts everywhere."] = place >= 0
        if said in ("once", "twice", "at the very beginning"):
            instead["it acts from the token after the invocation on; the invocation's own tokens "
                    "belong to it."] = place >= last + 3  # fmt: skip
            instead["it acts on the invocation alone; it must act on what follows too."] = (
                place >= last) & (place < last + 3)  # fmt: skip
        if said == "once":
            instead["that is the other way round: the prompt before is the base's."] = ~want
        if said in ("not at all", "its first token alone comes later"):
            instead["it takes the first token for the whole invocation."] = place >= one
        judge.close(f"invoked {said}: where it acts", got, want, instead=instead)


@exercise(
    "9.6",
    "Asleep until called",
    minutes=10,
    difficulty=2,
    importance=2,
    check=check_acts,
    statement=r"""
    An *activated* adapter sleeps until it reads a few agreed tokens, its *invocation*. Before that
    the layer is the base's.

    `ids` is a list of token ids and `invocation` a shorter one. Write `acts(ids, invocation)` and
    return an array of `len(ids)` truth values: `True` from the first token of the **last** place
    where the whole invocation stands, to the end. Where it stands nowhere, all are `False`.
    """,
    hints=(
        "The invocation stands at i if ids[i : i + len(invocation)] == invocation.",
        "Look from the back: the first place that you find is the last one.",
        "np.arange(len(ids)) >= begin is the answer, with begin = len(ids) where none was found.",
    ),
    wrong=(
        mistake("the first", "from the first invocation on", change=("starts[-1]", "starts[0]")),
        mistake(
            "everywhere",
            "it acts everywhere",
            change=("if starts else len(ids)", "if starts else 0"),
        ),
        mistake(
            "after it", "the token after the invocation", change=("starts[-1]", "starts[-1] + n")
        ),
        mistake(
            "it alone",
            "on the invocation alone",
            body="""
            n = len(invocation)
            starts = [i for i in range(len(ids)) if ids[i : i + n] == invocation]
            place = np.arange(len(ids))
            if not starts:
                return place < 0
            return (place >= starts[-1]) & (place < starts[-1] + n)
            """,
        ),
        mistake(
            "one token",
            "the first token for the whole",
            body="""
            if invocation[0] not in ids:
                return np.zeros(len(ids), dtype=bool)
            begin = len(ids) - 1 - ids[::-1].index(invocation[0])
            return np.arange(len(ids)) >= begin
            """,
        ),
    ),
)
def acts(ids: list[int], invocation: list[int]) -> np.ndarray:
    """Where the adapter acts: from its last invocation on."""
    n = len(invocation)
    starts = [i for i in range(len(ids)) if ids[i : i + n] == invocation]
    begin = starts[-1] if starts else len(ids)
    return np.arange(len(ids)) >= begin

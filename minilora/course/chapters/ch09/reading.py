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
    for n in judge.sizes(3, 5):
        call = [int(i) for i in judge.rng.choice(np.arange(10, 90), n, replace=False)]
        filler = [int(i) for i in judge.rng.integers(300, 900, 9)]
        a, mixed = call[0], [call[0], *call[:0:-1]]
        cases = {
            "once": [*filler[:4], *call, *filler[4:6]],
            "twice": [filler[0], *call, *filler[1:4], *call, filler[5]],
            "not at all": [*filler[:5], *mixed, filler[6], *call[:-1]],
            "its first token alone comes later": [*filler[:3], *call, filler[4], a, filler[5]],
            "at the very end": [*filler[:5], *call],
            "at the very beginning": [*call, *filler[:4]],
        }
        for said, ids in cases.items():
            _compare_acts(fn, judge, said, ids, call)
    ids = [*filler[:2], 100 + a, *call[1:], *filler[2:4]]
    got = judge.call(fn, ids=list(ids), invocation=list(call))
    judge.close(
        f"invocation {call}, ids {ids}: where it acts",
        got,
        np.zeros(len(ids)),
        instead={
            f"{100 + a} is not {a}. As text the one stands in the other; compare numbers.":
            np.arange(len(ids)) >= 2,
        },
    )  # fmt: skip
    b = call[1]
    ids = [*filler[:3], a, b, a, b, a, *filler[3:5]]
    place = np.arange(len(ids))
    judge.close(
        f"invocation {[a, b, a]}, ids {ids}: where it acts",
        judge.call(fn, ids=list(ids), invocation=[a, b, a]),
        place >= 5,
        instead={
            "two places may share a token, and the last one counts; do not jump over what you "
            "found, and look at every place.": place >= 3,
        },
    )


def _compare_acts(fn: Callable, judge: Judge, said: str, ids: list[int], call: list[int]) -> None:
    want, got = _acts(ids, call), judge.call(fn, ids=list(ids), invocation=list(call))
    n = len(call)
    first = next((i for i in range(len(ids)) if ids[i : i + n] == call), len(ids))
    last = int(len(ids) - want.sum())
    place, one = np.arange(len(ids)), len(ids) - 1 - ids[::-1].index(call[0])
    instead = {}
    if said == "twice":
        instead["that is from the first invocation on; a chat may hold an earlier one, and the "
                "last counts."] = place >= first  # fmt: skip
    if said == "not at all":
        instead["where it is not called it must not act, and it acts everywhere."] = place >= 0
    if said in ("once", "twice", "at the very beginning"):
        instead["it acts from the token after the invocation on; the invocation's own tokens "
                "belong to it."] = place >= last + n  # fmt: skip
        instead["it acts on the invocation alone; it must act on what follows too."] = (
            place >= last) & (place < last + n)  # fmt: skip
    if said == "once":
        instead["that is the other way round: the prompt before is the base's."] = ~want
        instead["it never acts, although it was called. Are lists of the same kind and length "
                "compared?"] = place < 0  # fmt: skip
    if said in ("at the very end", "at the very beginning"):
        instead["this one was not found. The places where it may begin are 0 to len(ids) - "
                "len(invocation), both included."] = place < 0  # fmt: skip
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
            "not at the end",
            "both included",
            change=("in range(len(ids))", "in range(len(ids) - n)"),
        ),
        mistake(
            "as text",
            "As text the one stands in the other",
            body="""
            text, called = " ".join(map(str, ids)), " ".join(map(str, invocation))
            found = text.rfind(called)
            begin = len(text[:found].split()) if found >= 0 else len(ids)
            if found > 0 and text[found - 1] != " ":
                begin -= 1
            return np.arange(len(ids)) >= begin
            """,
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

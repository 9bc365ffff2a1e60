"""Exercise 7.3: what a merge in few bits loses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_lost_share(fn: Callable, judge: Judge) -> None:
    cases = []
    for like, dtype, size in (((37, 29), np.float16, 2e-4), ((41, 23), np.float32, 3e-8)):
        shape = judge.sizes(*like)
        W, delta = judge.normal(*shape), size * judge.normal(*shape)
        chance, eps = judge.rng.random(shape), float(np.finfo(dtype).eps)
        delta[chance < 0.31] = 0.0
        delta[chance > 0.94] *= 1e-6  # float16 rounds it to zero
        # A hair more than half a step, and half a step exactly once it is rounded: that is lost.
        hair = (chance > 0.31) & (chance < 0.42)
        W[hair], delta[hair] = 1.0, eps / 2 * (1 + eps / 8)
        got = judge.call(fn, W=W, delta=delta, dtype=dtype)
        shares = _lost_shares(W, delta, dtype)
        cases.append((f"the share lost in {np.dtype(dtype).name}", got, shares.pop(""), shares))
    judge.numbers(cases)


def _lost_shares(W: np.ndarray, delta: np.ndarray, dtype: type) -> dict[str, float]:
    """The right share, under "", and what mistakes give in its place."""
    held, step, counts = W.astype(dtype), delta.astype(dtype), delta != 0
    wide = held.astype(np.float64)
    merged = (wide + step.astype(np.float64)).astype(dtype)

    def lost(after: np.ndarray, before: np.ndarray = held, where: np.ndarray = counts) -> float:
        return float((after == before)[where].mean())

    return {
        "": lost(merged),
        "entries of delta that are 0 had nothing to lose; leave them out.": lost(merged, where=...),
        "an entry of delta that is not 0, and that dtype rounds to 0, is lost as well.": lost(
            merged, where=step != 0
        ),
        "that is the share that survives.": 1 - lost(merged),
        "that is a count; divide by the entries where delta is not 0.": int(
            ((merged == held) & counts).sum()
        ),
        "that is a share of all entries; divide by those where delta is not 0.": float(
            ((merged == held) & counts).mean()
        ),
        "you counted changes that dtype makes 0; less than half a step is lost as well.": float(
            (step == 0)[counts].mean()
        ),
        "hardly anything is lost in float64; put both into dtype before you add.": lost(
            W + delta, W
        ),
        "delta is float64 still, and so is the sum; put both into dtype.": lost(wide + delta, wide),
        "that rounds the sum; W and delta are rounded before it.": lost((W + delta).astype(dtype)),
        "delta is rounded to dtype as well, before it is added.": lost(
            (wide + delta).astype(dtype)
        ),
        "compare with W as dtype holds it, not with W itself.": lost(merged, W),
    }


@exercise(
    "7.3",
    "What a coarse sum loses",
    minutes=10,
    difficulty=2,
    importance=2,
    check=check_lost_share,
    statement=r"""
    `W` and `delta` are float64. A merge in few bits, such as `dtype = np.float16`, first rounds
    both to `dtype` and then adds them there. Near 1 the numbers of float16 are $2^{-10}$ apart, and
    a change of less than half of that leaves the weight what it was.

    Write `lost_share(W, delta, dtype)`: of the entries where `delta` is not 0, the share (0 to 1)
    whose weight is exactly the same after the merge.
    """,
    hints=(
        "held = W.astype(dtype) is the weight before the merge.",
        "merged = held + delta.astype(dtype) is computed in dtype, because both are.",
        "Of the entries delta != 0, the mean of merged == held.",
    ),
    wrong=(
        mistake("zeros counted", "had nothing to lose", change=("[delta != 0]", "")),
        mistake("count", "that is a count", change=(".mean()", ".sum()")),
        mistake(
            "rounded to 0",
            "you counted changes",
            change=("(merged == held)", "(delta.astype(dtype) == 0)"),
        ),
        mistake("survivors", "that survives", change=("merged == held", "merged != held")),
        mistake("W itself", "not with W itself", change=("merged == held", "merged == W")),
        mistake(
            "sum rounded",
            "that rounds the sum",
            change=("held + delta.astype(dtype)", "(W + delta).astype(dtype)"),
        ),
        mistake(
            "delta not rounded",
            "delta is rounded",
            change=("held + delta.astype(dtype)", "(held.astype(float) + delta).astype(dtype)"),
        ),
        mistake(
            "rounded to zero", "rounds to 0", change=("delta != 0", "delta.astype(dtype) != 0")
        ),
        mistake(
            "float64",
            "lost in float64",
            change=("held = W.astype(dtype)", "held, dtype = W, W.dtype"),
        ),
    ),
)
def lost_share(W: np.ndarray, delta: np.ndarray, dtype: type) -> float:
    """Share of the non-zero entries of delta that a merge in dtype loses altogether."""
    held = W.astype(dtype)
    merged = held + delta.astype(dtype)
    return float((merged == held)[delta != 0].mean())

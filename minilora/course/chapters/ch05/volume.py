"""Exercise 5.1: the volume of a sheet under two rules."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_adapted(fn: Callable, judge: Judge) -> None:
    for rows, inside, outside, r, alpha in ((7, 11, 6, 3, 8.5), (5, 9, 13, 4, 0.7)):
        x, w = judge.normal(rows, inside), judge.normal(outside, inside)
        a, b = judge.normal(r, inside), judge.normal(outside, r)
        for use_rslora in (False, True):
            got = judge.call(fn, x=x, W=w, A=a, B=b, alpha=alpha, use_rslora=use_rslora)
            _judge_output(judge, got, (x, w, a, b), alpha, use_rslora)


def _judge_output(judge: Judge, got: object, parts: tuple, alpha: float, rs: bool) -> None:
    x, w, a, b = parts
    r, plain = len(a), x @ w.T
    sheet = np.stack([w * 0 + np.outer(b[:, i], a[i]) for i in range(r)]).sum(axis=0)
    change = x @ sheet.T
    root = math.sqrt(r)
    scaling = alpha / root if rs else alpha / r

    def loud(s: float) -> np.ndarray:
        return plain + s * change

    which = "with use_rslora" if rs else "without use_rslora"
    other = "alpha / r" if rs else "alpha / sqrt(r)"
    instead = {
        f"that is {other}, the other rule's volume.": loud(alpha / r if rs else alpha / root),
        "alpha is not divided by anything.": loud(alpha),
        "alpha went under the root with r; only r belongs there.": loud(math.sqrt(alpha / r)),
        "you took the rows of B for r; r is the side that A and B share.": loud(
            alpha / (math.sqrt(len(b)) if rs else len(b))
        ),
        "you took the columns of A for r; r is the side that A and B share.": loud(
            alpha / (math.sqrt(len(w.T)) if rs else len(w.T))
        ),
        "that is the sheet's part alone; the frozen W still answers too.": scaling * change,
        "W was scaled with the sheet; only the sheet has a volume.": scaling * (plain + change),
    }
    judge.close(f"the output {which}", got, loud(scaling), instead=instead)


@exercise(
    "5.1",
    "Two rules for the volume",
    minutes=6,
    difficulty=1,
    importance=2,
    check=check_adapted,
    statement=r"""
    Write `adapted(x, W, A, B, alpha, use_rslora)`: what a layer with a sheet answers,

    $$y = x W^\top + s\, x A^\top B^\top, \qquad s = \frac{\alpha}{r}
    \ \text{ (LoRA)} \quad\text{or}\quad s = \frac{\alpha}{\sqrt r}\ \text{ (rsLoRA)},$$

    for `x` (rows, in), `W` (out, in), `A` (r, in), `B` (out, r). Read $r$ off the strips.
    """,
    hints=(
        "r is the side that A and B share: A.shape[0], or B.shape[1].",
        "Choose s first, with an if on use_rslora; the rest is the same for both rules.",
        "s = alpha / r or alpha / np.sqrt(r); then x @ W.T + s * (x @ A.T @ B.T).",
    ),
    wrong=(
        mistake("no division", "not divided by anything", change=("alpha / r", "alpha")),
        mistake("one rule for both", "the other rule's volume", change=("np.sqrt(r)", "r")),
        mistake(
            "alpha under the root",
            "alpha went under the root",
            change=("alpha / np.sqrt(r)", "np.sqrt(alpha / r)"),
        ),
        mistake("rows of B", "rows of B for r", change=("A.shape[0]", "B.shape[0]")),
        mistake("columns of A", "columns of A for r", change=("A.shape[0]", "A.shape[1]")),
        mistake("no W", "the frozen W still answers", change=("x @ W.T + ", "")),
        mistake(
            "W scaled too",
            "W was scaled with the sheet",
            change=("x @ W.T + s * (x @ A.T @ B.T)", "s * (x @ W.T + x @ A.T @ B.T)"),
        ),
    ),
)
def adapted(
    x: np.ndarray, W: np.ndarray, A: np.ndarray, B: np.ndarray, alpha: float, use_rslora: bool
) -> np.ndarray:
    """x W^T + s x A^T B^T with s = alpha / r, or alpha / sqrt(r) where use_rslora."""
    r = A.shape[0]
    s = alpha / np.sqrt(r) if use_rslora else alpha / r
    return x @ W.T + s * (x @ A.T @ B.T)

"""Exercise 11.2: how loud another adapter is on the inputs that this one was trained for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_disturbance(fn: Callable, judge: Judge) -> None:
    cases = []
    for ranks, alphas in (((2, 3), (3.7, 5.9)), ((4, 1), (1.3, 0.8))):
        out, into, n = judge.sizes(31, 23, 11)
        x = judge.normal(n, into) * np.linspace(0.2, 3, n)[:, None]
        own, other = (
            (judge.normal(r, into), judge.normal(out, r), alpha)
            for r, alpha in zip(ranks, alphas, strict=True)
        )
        got = judge.call(fn, x=x, own=own, other=other)
        cases.append(("the disturbance", got, *_ratios(x, own, other)))
    judge.numbers(cases)
    out, into = judge.sizes(260, 240)
    x = judge.normal(5, into)
    own, other = ((judge.normal(r, into), judge.normal(out, r), 2.5) for r in (2, 3))
    got, peak = judge.call_measured(fn, x=x, own=own, other=other)
    judge.number("the disturbance at a larger layer", got, _ratios(x, own, other)[0])
    judge.true(
        peak < out * into * 8 / 2,
        f"the right number, but on the way your function held {peak / 1e3:.0f} kB, and the whole "
        f"ΔW has {out * into * 8 / 1e3:.0f} kB. Go through the thin side first: (x A^T) B^T.",
    )


def _ratios(x: np.ndarray, own: tuple, other: tuple) -> tuple[float, dict[str, float]]:
    """The right ratio, and what mistakes give in its place."""

    def answer(adapter: tuple, scale: float | None = None) -> np.ndarray:
        A, B, alpha = adapter
        return (alpha / len(A) if scale is None else scale) * (x @ A.T) @ B.T

    def size(adapter: tuple) -> float:
        A, B, alpha = adapter
        return float(np.linalg.norm(alpha / len(A) * B @ A))

    norm = np.linalg.norm
    right = float(norm(answer(other)) / norm(answer(own)))
    rows = norm(answer(other), axis=1) / norm(answer(own), axis=1)
    down = norm(x @ other[0].T) / norm(x @ own[0].T)
    return right, {
        "that is the inverse: own over other.": 1 / right,
        "that is the square; take the root.": right**2,
        "the volumes alpha / r are missing.": float(norm(answer(other, 1)) / norm(answer(own, 1))),
        "alpha is not divided by r.": float(
            norm(answer(other, other[2])) / norm(answer(own, own[2]))
        ),
        "that is the ratio of the matrices; what counts is what they do to x.": size(other)
        / size(own),
        "that is a mean of ratios, in which a small answer counts as much as a large one; divide "
        "the two sizes over all rows.": float(rows.mean()),
        "alpha is divided by the square root of r, as in rsLoRA; here it is r itself.": float(
            norm(answer(other, other[2] / len(other[0]) ** 0.5))
            / norm(answer(own, own[2] / len(own[0]) ** 0.5))
        ),
        "that adds up the sizes of the entries; take the root of the sum of their squares.": float(
            np.abs(answer(other)).sum() / np.abs(answer(own)).sum()
        ),
        "that is the largest singular value; np.linalg.norm without a second argument counts "
        "them all.": float(norm(answer(other), 2) / norm(answer(own), 2)),
        "that compares only what A makes of x; B is missing.": float(down),
    }


@exercise(
    "11.2",
    "Who speaks on my inputs?",
    minutes=12,
    difficulty=2,
    importance=3,
    check=check_disturbance,
    statement=r"""
    `own` and `other` are adapters `(A, B, alpha)` at one place, and `x` (n, in) are inputs that
    this place meets in the job of `own`, one a row. Write `disturbance(x, own, other)` and return

    $$\frac{\|X \Delta W_{\text{other}}^\top\|}{\|X \Delta W_{\text{own}}^\top\|},
    \qquad \Delta W = \frac{\alpha}{r} B A,$$

    where $\|\cdot\|$ is the root of the sum of all squares. Do not make a matrix of (out, in)
    numbers: at a large layer it would be the most expensive part.
    """,
    hints=(
        "What an adapter adds for the inputs x is (alpha / r) (x A^T) B^T, an array (n, out).",
        "np.linalg.norm of an array is the root of the sum of its squares.",
        "A small helper that returns the norm for one adapter (A, B, alpha); then other over own.",
    ),
    wrong=(
        mistake(
            "inverse", "the inverse", change=("size(other) / size(own)", "size(own) / size(other)")
        ),
        mistake("no volume", "alpha / r are missing", change=("alpha / len(A) * ", "")),
        mistake("no rank", "not divided by r", change=("alpha / len(A)", "alpha")),
        mistake(
            "matrices",
            "ratio of the matrices",
            change=("(x @ A.T) @ B.T", "B @ A"),
        ),
        mistake(
            "whole matrix",
            "Go through the thin side",
            change=("(x @ A.T) @ B.T", "x @ (B @ A).T"),
        ),
        mistake(
            "squares",
            "take the root",
            change=("size(other) / size(own)", "(size(other) / size(own)) ** 2"),
        ),
        mistake("A alone", "B is missing", change=("alpha / len(A) * (x @ A.T) @ B.T", "x @ A.T")),
        mistake("root of r", "square root of r", change=("len(A)", "len(A) ** 0.5")),
        mistake("spectral", "largest singular value", change=("@ B.T)", "@ B.T, 2)")),
        mistake(
            "mean of ratios",
            "a mean of ratios",
            body="""
            def size(adapter):
                A, B, alpha = adapter
                return np.linalg.norm(alpha / len(A) * (x @ A.T) @ B.T, axis=1)
            return float(np.mean(size(other) / size(own)))
            """,
        ),
    ),
)
def disturbance(
    x: np.ndarray,
    own: tuple[np.ndarray, np.ndarray, float],
    other: tuple[np.ndarray, np.ndarray, float],
) -> float:
    """The size of what `other` adds on the inputs x, in terms of what `own` adds there."""

    def size(adapter: tuple[np.ndarray, np.ndarray, float]) -> float:
        A, B, alpha = adapter
        return np.linalg.norm(alpha / len(A) * (x @ A.T) @ B.T)

    return float(size(other) / size(own))

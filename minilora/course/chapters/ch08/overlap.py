"""Exercise 8.2: how much two adapters listen to the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def _basis(rows: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span the rows."""
    return np.linalg.qr(rows.T)[0]


def check_overlap(fn: Callable, judge: Judge) -> None:
    for like in ((30, 2, 4), (36, 6, 3)):
        width, r, k = judge.sizes(*like)
        shared = judge.normal(min(r, k), width)
        one = judge.normal(r, r) @ np.concatenate([shared, judge.normal(r, width)])[:r]
        other = judge.normal(k, width)
        other[: min(r, k)] += 1.5 * shared
        P, Q = _basis(one), _basis(other)
        square = float(((P.T @ Q) ** 2).sum())
        lengths = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other)]
        scaled = float(((lengths[0] @ lengths[1].T) ** 2).sum())
        bare = float(((one @ other.T) ** 2).sum())
        want = square / min(r, k)
        got = judge.call(fn, one=one, other=other)
        low = "that is not divided by the smaller number of rows."
        judge.number(
            "the overlap",
            got,
            want,
            instead={
                low: square,
                "divide by the smaller number of rows: where one contains the other it shall "
                "be 1.": square / max(r, k),
                "divide by the smaller number of rows, not by their product.": square / (r * k),
                "divide by the smaller number of rows, not by their mean.": 2 * square / (r + k),
                "the rows are neither of length 1 nor at right angles; find such rows for the same "
                "directions first, with np.linalg.qr.": bare / min(r, k),
                "the rows are of length 1 and not at right angles; np.linalg.qr finds such rows.": (
                    scaled / min(r, k)
                ),
                "the root is too much: sum the squares and divide.": np.sqrt(square) / min(r, k),
                "the root is too much: sum the squares and divide, then stop.": np.sqrt(want),
                "that sums the cosines between the two; sum their squares.": (
                    np.linalg.svd(P.T @ Q, compute_uv=False).sum() / min(r, k)
                ),
                "sum the squares of the products, not the products.": (
                    float((P.T @ Q).sum()) / min(r, k)
                ),
                "sum the squares of the products, not their magnitudes.": (
                    float(np.abs(P.T @ Q).sum()) / min(r, k)
                ),
            },
        )
        again = judge.call(fn, one=one, other=judge.normal(r, r) @ one)
        judge.number("the overlap of the same directions, told by other rows", again, 1.0)
        within = judge.call(fn, one=one, other=one[:1] + one[1:2])
        judge.number("the overlap with a direction that the first contains", within, 1.0)


@exercise(
    "8.2",
    "Do they listen to the same?",
    minutes=15,
    difficulty=3,
    importance=2,
    check=check_overlap,
    statement=r"""
    An adapter hears of an input only what its rows of $A$ hear: it *listens* to the directions that
    these rows span. Training may turn and mix the rows without changing what they span, so two
    adapters are not compared row by row.

    `one` (r, in) and `other` (k, in) are rows of two adapters. Find orthonormal columns $P$ (in, r)
    and $Q$ (in, k) that span the same as the rows of each, and return

    $$\varphi = \frac{\sum_{ij} (P^\top Q)_{ij}^2}{\min(r, k)} .$$

    It is 1 where one adapter listens to all that the other one hears, and 0 where nothing is
    shared. Write `overlap(one, other)`. There are always more columns than rows.
    """,
    hints=(
        "np.linalg.qr(M)[0] has orthonormal columns that span the columns of M.",
        "The rows of `one` are the columns of one.T: P = np.linalg.qr(one.T)[0].",
        "np.sum((P.T @ Q) ** 2) / min(len(one), len(other))",
    ),
    wrong=(
        mistake(
            "not orthonormal",
            "neither of length 1 nor at right angles",
            change=("np.linalg.qr(one.T)[0], np.linalg.qr(other.T)[0]", "one.T, other.T"),
        ),
        mistake(
            "only of length 1",
            "not at right angles; np.linalg.qr",
            change=(
                "np.linalg.qr(one.T)[0], np.linalg.qr(other.T)[0]",
                "(x.T / np.linalg.norm(x, axis=1) for x in (one, other))",
            ),
        ),
        mistake("larger", "where one contains the other", change=("/ min(", "/ max(")),
        mistake(
            "not divided",
            "not divided by",
            change=(" / min(len(one), len(other))", ""),
        ),
        mistake("no squares", "not the products", change=("(P.T @ Q) ** 2", "P.T @ Q")),
        mistake(
            "columns",
            "shapes do not fit",
            change=("one.T)[0], np.linalg.qr(other.T)", "one)[0], np.linalg.qr(other)"),
        ),
    ),
)
def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """phi of the directions that the rows of two matrices span: from 0, apart, to 1."""
    P, Q = np.linalg.qr(one.T)[0], np.linalg.qr(other.T)[0]
    return float(np.sum((P.T @ Q) ** 2) / min(len(one), len(other)))

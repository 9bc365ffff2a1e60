"""Exercise 8.3: how much a change makes of what W has in the same directions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge

PARTS = "two numbers, `return factor, by_chance`"


def check_amplification(fn: Callable, judge: Judge) -> None:
    kinds: tuple[list, list] = ([], [])
    for like, r in (((9, 7), 2), ((6, 10), 3)):
        rows, columns = judge.sizes(*like)
        W, delta = judge.normal(rows, columns), judge.normal(rows, columns)
        got = judge.parts(judge.call(fn, W=W, delta=delta, r=r), 2, PARTS)
        U, s, Vt = np.linalg.svd(delta, full_matrices=False)
        U, first, V = U[:, :r], np.linalg.norm(s[:r]), Vt[:r].T
        onto = np.linalg.norm(U.T @ W @ V)
        Uw, sw, Vwt = np.linalg.svd(W, full_matrices=False)
        Uw, Vw = Uw[:, :r], Vwt[:r].T
        size = np.linalg.norm(W)
        chance = first / (r * size / np.sqrt(rows * columns))
        how = f"(out, in) = {(rows, columns)}, r = {r}"
        kinds[0].append(
            (
                f"factor with {how}",
                got[0],
                first / onto,
                {
                    "those are W's own first directions; take those of delta.": (
                        first / np.linalg.norm(sw[:r])
                    ),
                    "that is delta's part along W's directions over W's; take delta's directions, "
                    "for both.": np.linalg.norm(Uw.T @ delta @ Vw) / np.linalg.norm(sw[:r]),
                    "the two numbers are the other way round.": chance,
                    "the fraction is upside down: how much of W there is for each of delta.": (
                        onto / first
                    ),
                    "that is the whole of delta; count its first r directions alone.": (
                        np.linalg.norm(s) / onto
                    ),
                    "that compares with the whole of W; ask what W has in delta's directions.": (
                        first / size
                    ),
                    "that is the largest singular value alone; the size of the first r is the root "
                    "of the sum of their squares.": s[0] / onto,
                    "the size of the first r is the root of the sum of their squares, not their "
                    "sum.": s[:r].sum() / onto,
                    "that is squared; the sizes themselves are compared.": (first / onto) ** 2,
                    "W is asked on one side alone; ask on both, U.T @ W @ V.": (
                        first / np.linalg.norm(U.T @ W)
                    ),
                    "W is asked on the side of V alone; ask on both, U.T @ W @ V.": (
                        first / np.linalg.norm(W @ V)
                    ),
                    "only the entries on the diagonal of U.T @ W @ V are there; all r times r "
                    "count.": first / np.linalg.norm(np.diag(U.T @ W @ V)),
                },
            )
        )
        kinds[1].append(
            (
                f"by_chance with {how}",
                got[1],
                chance,
                {
                    "r random directions on each side meet r times r numbers, each of them of the "
                    "size of one entry of W; the root of r squared is r.": (
                        first / (np.sqrt(r) * size / np.sqrt(rows * columns))
                    ),
                    "the factor r is missing: r times r numbers are met.": (
                        first / (size / np.sqrt(rows * columns))
                    ),
                    "out times in stands under a root.": first / (r * size / (rows * columns)),
                    "that is what random directions have of W; the size of delta goes over it.": (
                        r * size / np.sqrt(rows * columns)
                    ),
                    "that has all of delta above the line; its first r directions alone.": (
                        np.linalg.norm(s) / (r * size / np.sqrt(rows * columns))
                    ),
                    "that is the factor itself.": first / onto,
                },
            )
        )
    for cases in kinds:
        judge.numbers(cases)


@exercise(
    "8.3",
    "Louder than W?",
    minutes=12,
    difficulty=2,
    importance=2,
    check=check_amplification,
    statement=r"""
    `W` and `delta` are (out, in). $U$ (out, r) and $V$ (in, r) are the first $r$ left and right
    directions of *delta*, and $\Delta_r$ is delta cut to them. What $W$ has in the same directions
    is the matrix $U^\top W V$ (r, r). With $\lVert M \rVert$ the root of the sum of the squares of
    all entries, write `amplification(W, delta, r)` and return `factor, by_chance`:

    $$\begin{gathered}
    \text{factor} = \frac{\lVert \Delta_r \rVert}{\lVert U^\top W V \rVert}, \\
    \text{by chance} = \frac{\lVert \Delta_r \rVert}{r\, \lVert W \rVert / \sqrt{\text{out} \cdot
    \text{in}}} .
    \end{gathered}$$

    The second has below the line what *random* directions would find of $W$: $r \cdot r$ numbers,
    each as large as an entry of $W$ is.
    """,
    hints=(
        "U, s, Vt = np.linalg.svd(delta, full_matrices=False), of which r columns, numbers and "
        "rows count.",
        "The size of delta cut to r directions is np.linalg.norm(s[:r]).",
        "What W has there: np.linalg.norm(U[:, :r].T @ W @ Vt[:r].T); for random directions "
        "r * np.linalg.norm(W) / np.sqrt(W.size).",
    ),
    wrong=(
        mistake(
            "directions of W",
            "those are W's own first directions",
            body="""
            size = np.linalg.norm(np.linalg.svd(delta, compute_uv=False)[:r])
            own = np.linalg.norm(np.linalg.svd(W, compute_uv=False)[:r])
            return size / own, size / (r * np.linalg.norm(W) / np.sqrt(W.size))
            """,
        ),
        mistake(
            "all of W",
            "compares with the whole of W",
            change=("np.linalg.norm(U[:, :r].T @ W @ Vt[:r].T)", "np.linalg.norm(W)"),
        ),
        mistake(
            "all of delta",
            "the whole of delta",
            change=("np.linalg.norm(s[:r])", "np.linalg.norm(s)"),
        ),
        mistake(
            "upside down",
            "upside down",
            change=("return size / there, ", "return there / size, "),
        ),
        mistake(
            "root of r",
            "the root of r squared is r",
            change=("(r * np.linalg.norm(W)", "(np.sqrt(r) * np.linalg.norm(W)"),
        ),
        mistake("one side", "W is asked on one side alone", change=(" @ Vt[:r].T", "")),
    ),
)
def amplification(W: np.ndarray, delta: np.ndarray, r: int) -> tuple[float, float]:
    """‖delta‖ over what W has in delta's first r directions, and over what chance has."""
    U, s, Vt = np.linalg.svd(delta, full_matrices=False)
    size = np.linalg.norm(s[:r])
    there = np.linalg.norm(U[:, :r].T @ W @ Vt[:r].T)
    return size / there, size / (r * np.linalg.norm(W) / np.sqrt(W.size))

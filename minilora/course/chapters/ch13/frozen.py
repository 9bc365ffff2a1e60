"""Exercise 13.4: the gradient of the input, through a matrix that is held in codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge, slopes


def _matrix(codes: np.ndarray, scales: np.ndarray, book: np.ndarray) -> np.ndarray:
    """W (out, in)."""
    return np.repeat(scales, codes.shape[1] // scales.shape[1], axis=1) * book[codes]


def check_through(fn: Callable, judge: Judge) -> None:
    for out, blocks, size, n in (judge.sizes(23, 4, 7, 3), judge.sizes(17, 9, 5, 2)):
        book = np.sort(judge.rng.uniform(-1, 1, 16))
        codes = judge.rng.integers(0, 16, (out, blocks * size)).astype(np.uint8)
        scales = judge.rng.uniform(0.3, 3, (out, blocks))
        W, g = _matrix(codes, scales, book), judge.normal(n, out)
        tiled = np.tile(scales, size) * book[codes]
        x = judge.normal(n, blocks * size)
        judge.close(
            "gx",
            judge.call(fn, g=g, codes=codes, scales=scales, book=book),
            slopes(lambda at, g=g, W=W: (g * (at @ W.T)).sum(), x),
            instead={
                "the codes are places in the book, not numbers; read book[codes].": (
                    g @ (np.repeat(scales, size, axis=1) * codes)
                ),
                "the scales are missing.": g @ book[codes],
                "np.tile gives neighbours different scales; a block of neighbours shares one "
                "(np.repeat).": g @ tiled,
                "all zeros: the codes have no gradient, and x has one all the same; for x the "
                "frozen W is a matrix like any other.": np.zeros_like(x),
            },
            tolerance=1e-5,
        )
    out, blocks, size = 384, 12, 64
    codes = judge.rng.integers(0, 16, (out, blocks * size)).astype(np.uint8)
    scales, book = judge.rng.uniform(0.3, 3, (out, blocks)), np.sort(judge.normal(16))
    g = judge.normal(2, out)
    got, peak = judge.call_measured(fn, g=g, codes=codes, scales=scales, book=book)
    whole = 8 * codes.size
    judge.close("gx of a larger matrix", got, g @ _matrix(codes, scales, book))
    judge.true(
        peak < whole / 2,
        f"the right numbers, but your function held {peak / 1e3:.0f} kB at a time, and all of W in "
        f"float64 has {whole / 1e3:.0f} kB: then it might as well be kept. Make some rows of W, "
        "multiply, and let them go.",
    )


@exercise(
    "13.4",
    "A gradient through codes",
    minutes=15,
    difficulty=3,
    importance=3,
    check=check_through,
    statement=r"""
    A frozen $W$ (out, in) is kept as `codes` (out, in), whole numbers of type uint8 that are places
    in `book`, and `scales` (out, blocks). A row's inputs are cut into so many blocks of equal size,
    and

    $$W_{oi} = \text{scales}_{ob} \cdot \text{book}[\text{codes}_{oi}],$$

    where $b$ is the block that input $i$ is in.

    The layer computed $y = x W^\top$. `g` (n, out) is the loss's gradient with respect to $y$.
    Write `through_codes(g, codes, scales, book)`, which returns that with respect to $x$, (n, in).
    Never hold more than a few rows of $W$ as numbers.
    """,
    hints=(
        "For x the frozen W is a matrix like any other: gx = g W. That is a sum over the rows of "
        "W: row o of W times column o of g.",
        "Start with zeros (n, in). For some rows at a time, W[rows] is np.repeat(scales[rows], "
        "size, axis=1) * book[codes[rows]], with size = in / blocks.",
        "gx += g[:, rows] @ W[rows], for rows = slice(start, start + 16).",
    ),
    wrong=(
        mistake(
            "whole W",
            "let them go",
            body="""
            size = codes.shape[1] // scales.shape[1]
            return g @ (np.repeat(scales, size, axis=1) * book[codes])
            """,
        ),
        mistake(
            "codes as numbers", "places in the book", change=("book[codes[rows]]", "codes[rows]")
        ),
        mistake(
            "no scales",
            "scales are missing",
            change=("np.repeat(scales[rows], size, axis=1) * book", "book"),
        ),
        mistake(
            "tiled",
            "np.tile",
            change=("np.repeat(scales[rows], size, axis=1)", "np.tile(scales[rows], size)"),
        ),
        mistake(
            "no gradient",
            "has one all the same",
            body="return np.zeros((len(g), codes.shape[1]))",
        ),
    ),
)
def through_codes(
    g: np.ndarray, codes: np.ndarray, scales: np.ndarray, book: np.ndarray
) -> np.ndarray:
    """gx = g W, (n, in), for a W (out, in) that is kept as codes and scales."""
    size = codes.shape[1] // scales.shape[1]
    gx = np.zeros((len(g), codes.shape[1]))
    for start in range(0, len(codes), 16):
        rows = slice(start, start + 16)
        some = np.repeat(scales[rows], size, axis=1) * book[codes[rows]]
        gx += g[:, rows] @ some
    return gx

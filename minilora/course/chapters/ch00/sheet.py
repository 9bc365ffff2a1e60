"""Exercises 0.1 to 0.3: how thin a sheet may be, cutting it, counting it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.comparing import as_numbers
from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_rank_for(fn: Callable, judge: Judge) -> None:
    for (count,), short in ((judge.sizes(7), 0.3), (judge.sizes(12), 0.8)):
        s = np.sort(judge.rng.uniform(0.2, 3.0, count))[::-1]
        energy = np.cumsum(s * s)
        cases = []
        for r in range(1, count + 1):
            # Between what r - 1 and what r values hold, so that rounding decides nothing.
            share = float(energy[r - 1] - short * s[r - 1] ** 2) / float(energy[-1])
            got = judge.call(fn, singular_values=s, share=share)
            cases.append((f"rank for {share:.3g} of the energy", got, r, _other_ranks(s, share)))
        judge.numbers(cases)
    s = np.array([3.0, 2.0, 1.0, 1.0, 1.0])  # energies 9, 4, 1, 1, 1: the shares are exact
    for share, r in ((9 / 16, 1), (1.0, 5)):
        judge.number(
            f"rank for {share:.3g} of the energy of {s}",
            judge.call(fn, singular_values=s, share=share),
            r,
            instead={"to hold exactly the share is enough: at least, not more than.": r + 1.0},
        )


def _other_ranks(s: np.ndarray, share: float) -> dict[str, float]:
    energy = np.cumsum(s * s)
    held = energy / energy[-1]
    place = int(np.searchsorted(held, share))
    return {
        "that is one too few: index 0 means that one value is enough.": place,
        "energy is the sum of the squares; you added the values themselves.": (
            int(np.searchsorted(np.cumsum(s) / s.sum(), share)) + 1
        ),
        "share is a part of the whole energy; divide the sums by the last one.": (
            int(np.searchsorted(energy, share)) + 1
        ),
        "that is where the sum comes nearest; it has to reach the share.": (
            int(np.abs(held - share).argmin()) + 1
        ),
        "you began with the smallest value; the values come largest first, so take them as they "
        "come.": int(np.searchsorted(np.cumsum(s[::-1] ** 2) / energy[-1], share)) + 1,
    }


@exercise(
    "0.1",
    "How thin may the sheet be?",
    minutes=8,
    difficulty=1,
    importance=2,
    check=check_rank_for,
    statement=r"""
    The *energy* of a matrix is the sum of its squared entries, and it is also the sum of its
    squared singular values:

    $$\sum_{ij} \Delta_{ij}^2 = \sigma_1^2 + \sigma_2^2 + \dots + \sigma_n^2 .$$

    Write `rank_for(singular_values, share)`: the smallest $r$ whose $r$ largest singular values
    hold at least `share` of the energy. The values come sorted, largest first.
    """,
    hints=(
        "np.cumsum of the squares says what the first 1, 2, 3, … values hold together.",
        "Divide by the last entry of that sum, and look for the first place that reaches share.",
        "np.searchsorted(held, share) gives that place, counted from 0. A rank counts from 1.",
    ),
    wrong=(
        mistake("values not squared", "sum of the squares", change=(" ** 2", "")),
        mistake("off by one", "one too few", change=(" + 1", "")),
        mistake(
            "counts what is missing",
            "expected",
            change=("np.searchsorted(held, share)", "np.searchsorted(held, 1 - share)"),
        ),
        mistake(
            "not a share",
            "divide the sums",
            change=("return", "held = held * energy.sum(); return"),
        ),
        mistake(
            "nearest",
            "comes nearest",
            change=("np.searchsorted(held, share)", "np.abs(held - share).argmin()"),
        ),
        mistake(
            "smallest first",
            "began with the smallest",
            change=("np.cumsum(energy)", "np.cumsum(np.sort(energy))"),
        ),
        mistake(
            "more than the share",
            "to hold exactly",
            change=("(held, share)", '(held, share, side="right")'),
        ),
    ),
)
def rank_for(singular_values: np.ndarray, share: float) -> int:
    """Smallest r whose r largest singular values hold at least `share` of the energy."""
    energy = np.asarray(singular_values) ** 2
    held = np.cumsum(energy)
    held = held / held[-1]  # the last share is 1 exactly
    return int(np.searchsorted(held, share)) + 1


def check_thin_sheet(fn: Callable, judge: Judge) -> None:
    for rows, columns, r in (judge.sizes(9, 7, 2), judge.sizes(7, 11, 3)):
        delta = judge.normal(rows, columns)
        out = judge.call(fn, delta=delta, r=r)
        strips = judge.parts(out, 2, "the two strips, `return B, A`")
        b, a = (as_numbers(name, part) for name, part in zip("BA", strips, strict=True))
        judge.true(
            (b.shape, a.shape) != ((r, columns), (rows, r)),
            "A and B are swapped: B (out, r) comes first, then A (r, in).",
        )
        for name, part, shape in (("B", b, (rows, r)), ("A", a, (r, columns))):
            judge.true(
                part.shape == shape,
                f"{name}: your shape is {part.shape}, expected {shape} for delta {delta.shape} "
                f"and r {r}.",
            )
        _judge_sheet(judge, delta, b @ a, r)


def _judge_sheet(judge: Judge, delta: np.ndarray, sheet: np.ndarray, r: int) -> None:
    """The best sheet leaves exactly the smallest eigenvalues of delta^T delta."""
    u, s, vt = np.linalg.svd(delta, full_matrices=False)
    judge.true(
        not np.allclose(sheet, u[:, :r] @ vt[:r]),
        "the directions are right and their strengths are missing: multiply by the singular "
        "values, once.",
    )
    judge.true(
        not np.allclose(sheet, (u[:, :r] * np.sqrt(s[:r])) @ vt[:r]),
        "only the square roots of the singular values are in the sheet. Give the root to both "
        "strips, or the whole value to one.",
    )
    judge.true(
        not np.allclose(sheet, (u[:, :r] * s[:r] ** 2) @ vt[:r]),
        "the singular values went into both B and A, so the sheet has their squares.",
    )
    judge.true(
        not np.allclose(sheet, (u[:, -r:] * s[-r:]) @ vt[-r:]),
        "these are the weakest directions; numpy sorts the strongest first.",
    )
    judge.true(
        not np.allclose(sheet, (u[:, 1 : r + 1] * s[1 : r + 1]) @ vt[1 : r + 1]),
        "the strongest direction is left out: numpy counts from 0, so take [:r].",
    )
    judge.true(
        not np.allclose(sheet, s[0] * u[:, :r] @ vt[:r]),
        "every direction has the strength of the first; column i takes its own s[i].",
    )
    again = vt[:, :r].T
    judge.true(
        again.shape != vt[:r].shape or not np.allclose(sheet, (u[:, :r] * s[:r]) @ again),
        "vt was transposed once more; its rows are the directions already.",
    )
    least = np.sort(np.linalg.eigvalsh(delta @ delta.T))[::-1][r:].sum()
    judge.number(
        "the energy that the sheet leaves over",
        np.sum((delta - sheet) ** 2),
        least,
        measured="and the best sheet of this rank leaves",
    )


@exercise(
    "0.2",
    "Cut the sheet",
    minutes=12,
    difficulty=2,
    importance=3,
    check=check_thin_sheet,
    statement=r"""
    Write `thin_sheet(delta, r)`: two strips, $B$ of shape `(out, r)` and $A$ of shape `(r, in)`,
    whose product is the best approximation of rank $r$ to `delta` (out, in):

    $$B A = \sum_{i=1}^{r} \sigma_i\, u_i v_i^{\top} .$$

    How you share $\sigma$ between the two strips is up to you. Return `B, A`, in this order.
    """,
    hints=(
        "u, s, vt = np.linalg.svd(delta, full_matrices=False) gives all you need, strongest first.",
        "B takes the first r columns of u. A takes the first r rows of vt, which numpy hands "
        "you already transposed.",
        "Column i of B still has length one: multiply it by s[i], as in u[:, :r] * s[:r].",
    ),
    wrong=(
        mistake(
            "no singular values", "strengths are missing", change=("u[:, :r] * s[:r]", "u[:, :r]")
        ),
        mistake("swapped", "A and B are swapped", change=("return b, a", "return a, b")),
        mistake(
            "singular values twice", "into both B and A", change=("vt[:r]", "s[:r, None] * vt[:r]")
        ),
        mistake(
            "the weakest",
            "weakest directions",
            body="""
            u, s, vt = np.linalg.svd(delta, full_matrices=False)
            return u[:, -r:] * s[-r:], vt[-r:]
            """,
        ),
        mistake(
            "from 1",
            "direction is left out",
            body="""
            u, s, vt = np.linalg.svd(delta, full_matrices=False)
            return u[:, 1 : r + 1] * s[1 : r + 1], vt[1 : r + 1]
            """,
        ),
        mistake("one strength", "strength of the first", change=("* s[:r]", "* s[0]")),
        mistake("transposed again", "once more", change=("vt[:r]", "vt[:, :r].T")),
        mistake(
            "half of the strength",
            "square roots",
            change=("u[:, :r] * s[:r]", "u[:, :r] * np.sqrt(s[:r])"),
        ),
        mistake("not cut", "your shape is", change=("u[:, :r] * s[:r]", "u * s")),
    ),
)
def thin_sheet(delta: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray]:
    """B (out, r) and A (r, in) with B @ A the best rank-r approximation of delta (out, in)."""
    u, s, vt = np.linalg.svd(delta, full_matrices=False)
    b = u[:, :r] * s[:r]
    a = vt[:r]
    return b, a


def check_count_sheet(fn: Callable, judge: Judge) -> None:
    cases = []
    for like in ((7, 5, 2), (31, 12, 3), (600, 512, 8), (4096, 1024, 16)):
        rows, columns, r = judge.sizes(*like)
        b, a = np.empty((rows, r)), np.empty((r, columns))
        instead = {
            "that is the product B A, which nobody stores.": rows * columns,
            "the strips lie side by side; add their sizes, don't multiply.": b.size * a.size,
            "r is missing: a row of the grid has r numbers in B, and a column r in A.": (
                rows + columns
            ),
            "that is r grids of the full size; a strip has one side of the grid and r.": (
                r * rows * columns
            ),
            "you counted B alone.": b.size,
            "you counted A alone.": a.size,
        }
        got = judge.call(fn, out_features=rows, in_features=columns, r=r)
        name = f"numbers in a sheet of rank {r} for a grid of {rows} x {columns}"
        cases.append((name, got, b.size + a.size, instead))
    judge.numbers(cases)


@exercise(
    "0.3",
    "Count",
    minutes=4,
    difficulty=1,
    importance=3,
    check=check_count_sheet,
    statement=r"""
    Write `count_sheet(out_features, in_features, r)`: how many numbers the strips $B$ and $A$
    hold together, for a grid with `out_features` rows and `in_features` columns.
    """,
    hints=(
        "Write the shapes of B and A down and multiply each out.",
        "B holds out * r numbers. What does A hold?",
        "Both have a side of length r, so r can be taken out of the sum.",
    ),
    wrong=(
        mistake(
            "the grid",
            "the product B A",
            change=("r * (out_features + in_features)", "out_features * in_features"),
        ),
        mistake(
            "multiplied",
            "add their sizes",
            change=("r * (out_features + in_features)", "r * out_features * r * in_features"),
        ),
        mistake("r missing", "r is missing", change=("r * (", "(")),
        mistake(
            "r grids",
            "r grids of the full size",
            change=("r * (out_features + in_features)", "r * out_features * in_features"),
        ),
        mistake("B alone", "counted B alone", change=(" + in_features", "")),
    ),
)
def count_sheet(out_features: int, in_features: int, r: int) -> int:
    """How many numbers B (out, r) and A (r, in) hold together."""
    return r * (out_features + in_features)

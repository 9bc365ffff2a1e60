"""Exercises 5.2 and 5.4: what a rank costs, and what a trained sheet used of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_rank_for_budget(fn: Callable, judge: Judge) -> None:
    cases = (  # shapes, and the rank that the spare numbers just do not reach
        ([(41, 29), (29, 67), (101, 29)], 5),
        ([(128, 128), (384, 128), (128, 384), (128, 96)], 11),
        ([(4096, 4096)], 8),
        ([(43, 31), (37, 53)], 0),
    )
    asked = []
    for shapes, r in cases:
        one, next_one = _held(shapes, r), _held(shapes, r + 1)
        # Closer to the next rank, so that rounding up or to the nearest is seen.
        asked.append((shapes, one + int(0.7 * (next_one - one)), r))
    # Money for more than the thinnest matrix can hold: no sheet is thicker than its short side,
    # be that its height or its width. And money for a rank to the last number.
    for shapes, r in (([(19, 23), (7, 31)], 7), ([(23, 17), (37, 5), (9, 13)], 5)):
        asked += [(shapes, _held(shapes, r) * 3 + 5, r), (shapes, _held(shapes, 3), 3)]
    judge.numbers([_rank_case(judge, fn, *case) for case in asked])


def _held(shapes: Sequence[tuple[int, int]], r: int) -> int:
    """Numbers in all strips, counted."""
    return sum(np.empty((o, r)).size + np.empty((r, i)).size for o, i in shapes)


def _rank_case(
    judge: Judge, fn: Callable, shapes: list, budget: int, r: int
) -> tuple[str, object, int, dict[str, float]]:
    """For `Judge.numbers`: the call's name, its answer, the right one, and what mistakes answer."""
    got = judge.call(fn, shapes=list(shapes), budget=budget)
    price, capped = _held(shapes, 1), "no sheet is thicker than its matrix's short side"
    cap, outs, ins = min(map(min, shapes)), *map(list, zip(*shapes, strict=True))
    others = {
        "that many do not fit: round down.": min(-(-budget // price), cap),
        "a budget that is just enough is enough.": min((budget - 1) // price, cap),
        "where not even rank 1 fits, return 0.": max(1, min(budget // price, cap)),
        "the budget is for all matrices together; you spent it on one.": min(
            budget // _held(shapes[:1], 1), cap
        ),
        "out * in is the matrix; a sheet costs out + in for each of its ranks.": min(
            budget // sum(o * i for o, i in shapes), cap
        ),
        "you paid for B alone.": min(budget // sum(outs), cap),
        "you paid for A alone.": min(budget // sum(ins), cap),
        f"the budget reaches further, but {capped}.": budget // price,
        f"{capped}, and that can be its width; you looked at heights.": min(budget // price, *outs),
        f"{capped}, and that can be its height; you looked at widths.": min(budget // price, *ins),
    }
    return f"the rank for {budget:,} numbers around {shapes}", got, r, others


@exercise(
    "5.2",
    "From a budget to a rank",
    minutes=8,
    difficulty=1,
    importance=2,
    check=check_rank_for_budget,
    statement=r"""
    Write `rank_for_budget(shapes, budget)`: the largest $r$, the same for every matrix, whose
    strips hold at most `budget` numbers together. `shapes` is a list of `(out, in)`.

    $$r \sum_{\text{matrices}} (\text{out} + \text{in}) \le \text{budget}$$

    A sheet thicker than the short side of its matrix is wasted, so $r$ is also at most the
    shortest side of all. Where not even rank 1 fits, return 0.
    """,
    hints=(
        "What does one more rank cost? One more column for every B and one more row for every A.",
        "Divide the budget by that price and round down: budget // price.",
        "Then compare with the shortest side: min(min(shape) for shape in shapes).",
    ),
    wrong=(
        mistake("rounds up", "round down", change=("budget // price", "-(-budget // price)")),
        mistake(
            "the product", "out * in is the matrix", change=("out + inside", "max(1, out * inside)")
        ),
        mistake("B alone", "paid for B alone", change=("out + inside", "out")),
        mistake("A alone", "paid for A alone", change=("out + inside", "inside")),
        mistake(
            "first matrix only", "you spent it on one", change=("in shapes)", "in shapes[:1])")
        ),
        mistake(
            "heights alone",
            "looked at heights",
            change=("min(map(min, shapes))", "min(out for out, _ in shapes)"),
        ),
        mistake(
            "rank 1 at least",
            "even rank 1",
            change=("min(budget // price, shortest)", "max(1, min(budget // price, shortest))"),
        ),
        mistake(
            "no cap",
            "the budget reaches further",
            change=("min(budget // price, shortest)", "budget // price"),
        ),
    ),
)
def rank_for_budget(shapes: list[tuple[int, int]], budget: int) -> int:
    """Largest common rank whose strips hold at most `budget` numbers; 0 where none fits."""
    price = sum(out + inside for out, inside in shapes)
    shortest = min(map(min, shapes))
    return min(budget // price, shortest)


def check_update_spectrum(fn: Callable, judge: Judge) -> None:
    for like, scaling in (((231, 177, 3), 2.3), ((137, 221, 5), 0.4)):
        outside, inside, r = judge.sizes(*like)
        b, a = judge.normal(outside, r), judge.normal(r, inside)
        got, peak = judge.call_measured(fn, B=b, A=a, scaling=scaling)
        _judge_spectrum(judge, got, b, a, scaling)
        judge.true(
            peak < outside * inside * 8 / 2,
            f"right numbers, but on the way your function held {peak / 1e3:.0f} kB, and the "
            f"whole update has {outside * inside * 8 / 1e3:.0f} kB: do it without forming B A, and "
            "with Q no wider than the strips.",
        )


def _judge_spectrum(
    judge: Judge, got: object, b: np.ndarray, a: np.ndarray, scaling: float
) -> None:
    delta, r = scaling * b @ a, a.shape[0]
    squares = np.sort(np.linalg.eigvalsh(delta @ delta.T))[::-1][:r]
    want = np.sqrt(np.maximum(squares, 0))
    sides = [np.linalg.svd(side, compute_uv=False) for side in (b, a)]
    rb, ra = np.linalg.qr(b)[1], np.linalg.qr(a.T)[1]
    judge.true(
        np.shape(got) != (min(delta.shape),),
        f"you returned {min(delta.shape)} values; an update of rank {r} has {r} that are not zero.",
    )
    judge.true(
        np.shape(got) != (r, r),
        f"you returned ({r}, {r}) numbers; the {r} singular values of the middle were asked for.",
    )
    judge.close(
        "the singular values",
        got,
        want,
        factors={"scaling is missing": 1 / scaling, "scaling is there twice": scaling},
        instead={
            "nearly right: you took the root of the values of B^T B A A^T, and squaring loses half "
            "of the digits, so that the small values come out wrong. Split with qr, which squares "
            "nothing.": scaling * np.sqrt(np.linalg.svd(b.T @ b @ a @ a.T, compute_uv=False)),
            "those of B times those of A are not those of B A, whose directions turn against "
            "each other.": scaling * sides[0] * sides[1],
            "the second triangle is not transposed: B A = Q_B R_B R_A^T Q_A^T.": scaling
            * np.linalg.svd(rb @ ra, compute_uv=False),
            "the wrong triangle is transposed: B A = Q_B R_B R_A^T Q_A^T.": scaling
            * np.linalg.svd(rb.T @ ra, compute_uv=False),
            "those are eigenvalues of the middle, which is not symmetric; ask for its singular "
            "values.": scaling * np.sort(np.abs(np.linalg.eigvals(rb @ ra.T)))[::-1],
            "these are the squares; take the root.": want**2,
            "the smallest comes first; turn them round.": want[::-1],
            "these are the sizes on the triangles' diagonals; the product of the triangles "
            "still needs an svd.": scaling * np.abs(np.diag(rb @ ra.T)),
        },
    )


@exercise(
    "5.4",
    "What did the sheet use?",
    minutes=12,
    difficulty=3,
    importance=1,
    check=check_update_spectrum,
    statement=r"""
    A sheet of rank $r$ need not use all its directions, and the singular values of
    $\Delta W = s B A$ say how many it does. Forming $\Delta W$ to find out would undo the saving.
    Split both strips into directions and a small triangle, $B = Q_B R_B$ and
    $A^\top = Q_A R_A$. Then

    $$\Delta W = Q_B \left(s\, R_B R_A^\top\right) Q_A^\top ,$$

    and since the $Q$ only turn, the $r$ singular values are those of the middle, which is
    $(r, r)$. Write `update_spectrum(B, A, scaling)`: the $r$ singular values, largest first,
    without ever holding an array of shape (out, in).
    """,
    hints=(
        "np.linalg.qr(B) returns Q and R. Of A, take the transpose first, so that it is tall.",
        "You need neither Q. What is left is scaling * R_B @ R_A.T, of shape (r, r).",
        "np.linalg.svd(middle, compute_uv=False) returns the values, largest first.",
    ),
    wrong=(
        mistake(
            "forms the update",
            "without forming B A",
            body="""
            delta = scaling * (B @ A)
            return np.linalg.svd(delta, compute_uv=False)[: A.shape[0]]
            """,
        ),
        mistake("no scaling", "scaling is missing", change=("scaling * ", "")),
        mistake("not transposed", "triangle is not transposed", change=("R_A.T", "R_A")),
        mistake(
            "strip by strip",
            "not those of B A",
            body="""
            of_B = np.linalg.svd(B, compute_uv=False)
            of_A = np.linalg.svd(A, compute_uv=False)
            return scaling * of_B * of_A
            """,
        ),
        mistake("other triangle", "wrong triangle", change=("R_B @ R_A.T", "R_B.T @ R_A")),
        mistake(
            "eigenvalues",
            "those are eigenvalues",
            change=(
                "np.linalg.svd(middle, compute_uv=False)",
                "np.sort(abs(np.linalg.eigvals(middle)))[::-1]",
            ),
        ),
        mistake(
            "smallest first",
            "turn them round",
            change=("(middle, compute_uv=False)", "(middle, compute_uv=False)[::-1]"),
        ),
        mistake(
            "the middle",
            "of the middle were asked for",
            change=("np.linalg.svd(middle, compute_uv=False)", "middle"),
        ),
        mistake(
            "squares",
            "take the root",
            change=(
                "np.linalg.svd(middle, compute_uv=False)",
                "np.linalg.eigvalsh(middle @ middle.T)[::-1]",
            ),
        ),
    ),
)
def update_spectrum(B: np.ndarray, A: np.ndarray, scaling: float) -> np.ndarray:
    """The r singular values of scaling B A, largest first, without an (out, in) array."""
    _, R_B = np.linalg.qr(B)
    _, R_A = np.linalg.qr(A.T)
    middle = scaling * R_B @ R_A.T
    return np.linalg.svd(middle, compute_uv=False)

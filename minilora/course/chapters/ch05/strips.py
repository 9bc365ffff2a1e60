"""Exercises 5.2 and 5.4: the best sheet of a rank, and what a trained sheet used of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_best_sheet(fn: Callable, judge: Judge) -> None:
    for like in ((23, 7, 5, 2), (31, 4, 9, 3)):
        n, inside, outside, r = judge.sizes(*like)
        r = min(r, min(inside, outside) - 1)
        # Some inputs are ten times as large as others, so that it matters where the error counts.
        x = judge.normal(n, inside) * np.geomspace(0.3, 3.0, inside)
        y = x @ judge.normal(outside, inside).T + 2.0 * judge.normal(n, outside)
        got = judge.call(fn, X=x, Y=y, r=r)
        judge.true(
            np.shape(got) != y.shape, "that is what the layer says; return the update (out, in)."
        )
        turned, triangle = np.linalg.qr(x)  # |Y - X D^T| and |Q^T Y - R D^T| differ by a constant
        want = np.linalg.solve(triangle, _cut(turned.T @ y, r)).T
        fitted = np.linalg.lstsq(x, y, rcond=None)[0]
        of_y = np.linalg.svd(y, full_matrices=False)[2][:r].T
        last = np.linalg.svd(x @ fitted, full_matrices=False)[2][-r:].T
        judge.close(
            f"the update of rank {r}",
            got,
            want,
            instead={
                f"that is the fit without a limit: its rank is {min(inside, outside)}.": fitted.T,
                "you cut the update itself. That is nearest in its numbers, and what counts is the "
                "answers: cut X times the fit, where large inputs count for more.": _cut(
                    fitted, r
                ).T,
                "you took the directions of Y, and noise is in them as well; take those of X times "
                "the fit.": of_y @ of_y.T @ fitted.T,
                "these are the weakest directions; numpy sorts the strongest first.": last
                @ last.T
                @ fitted.T,
            },
        )


def _cut(matrix: np.ndarray, r: int) -> np.ndarray:
    """The best approximation of rank r."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :r] * s[:r]) @ vt[:r]


@exercise(
    "5.2",
    "The best sheet for these examples",
    minutes=12,
    difficulty=3,
    importance=1,
    check=check_best_sheet,
    statement=r"""
    Write `best_sheet(X, Y, r)`: the update $\Delta$ (out, in) of rank $r$ with the smallest
    $\|Y - X \Delta^\top\|$, for `X` (n, in) and `Y` (n, out) with more examples than inputs. There
    is no training in it: fit without a limit, find the $r$ directions among the *answers* that
    hold most of $X \hat\Delta^\top$, and keep of $\hat\Delta$ what goes there.
    """,
    hints=(
        "fitted = np.linalg.lstsq(X, Y, rcond=None)[0] is the fit without a limit, transposed: "
        "(in, out).",
        "The answers of the fit are X @ fitted, (n, out). The first r rows of the vt of its svd "
        "are the directions; put them side by side as V, (out, r).",
        "V @ V.T keeps of a vector of length out what lies in these directions, so the update is "
        "V @ V.T @ fitted.T.",
    ),
    wrong=(
        mistake("no limit", "without a limit", change=("V @ V.T @ fitted.T", "fitted.T")),
        mistake(
            "the update cut",
            "you cut the update itself",
            body="""
            fitted = np.linalg.lstsq(X, Y, rcond=None)[0]
            u, s, vt = np.linalg.svd(fitted.T, full_matrices=False)
            return (u[:, :r] * s[:r]) @ vt[:r]
            """,
        ),
        mistake("directions of Y", "the directions of Y", change=("X @ fitted,", "Y,")),
        mistake("weakest", "weakest directions", change=("[:r].T", "[-r:].T")),
        mistake(
            "transposed",
            "but transposed",
            change=("return V @ V.T @ fitted.T", "return fitted @ V @ V.T"),
        ),
        mistake(
            "answers",
            "what the layer says",
            change=("return V @ V.T @ fitted.T", "return X @ fitted @ V @ V.T"),
        ),
    ),
)
def best_sheet(X: np.ndarray, Y: np.ndarray, r: int) -> np.ndarray:
    """The update (out, in) of rank r that fits Y = X Δ^T best."""
    fitted = np.linalg.lstsq(X, Y, rcond=None)[0]
    V = np.linalg.svd(X @ fitted, full_matrices=False)[2][:r].T
    return V @ V.T @ fitted.T


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

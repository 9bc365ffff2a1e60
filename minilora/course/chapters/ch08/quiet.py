"""Exercise 8.1: a change cut to its first directions, and its fair rival."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge

PARTS = "two matrices, `return cut, quiet`"


def check_cut_and_quiet(fn: Callable, judge: Judge) -> None:
    for like, r in (((9, 6), 2), ((6, 11), 3)):
        rows, columns = judge.sizes(*like)
        before = judge.normal(rows, columns)
        after = before + 0.5 * judge.normal(rows, columns)
        got = judge.call(fn, before=before, after=after, r=r)
        cut, quiet = judge.parts(got, 2, PARTS)
        U, s, Vt = np.linalg.svd(after - before, full_matrices=False)
        whole_Vt = np.linalg.svd(after - before)[2]
        delta, first = after - before, (U[:, :r] * s[:r]) @ Vt[:r]
        share = (s[:r] ** 2).sum() / (s**2).sum()
        Ua, sa, Vta = np.linalg.svd(after, full_matrices=False)
        trained_cut = (Ua[:, :r] * sa[:r]) @ Vta[:r]
        judge.close(
            "cut",
            cut,
            before + first,
            instead={
                "that is the cut change alone; the weights before are missing.": first,
                "that cuts the trained weights; cut the change, after - before.": trained_cut,
                "that cuts the trained weights and adds them to those before; cut the change, "
                "after - before.": before + trained_cut,
                "those are the last r directions; the strongest stand first.": (
                    before + (U[:, -r:] * s[-r:]) @ Vt[-r:]
                ),
                "that is what the cut throws away; keep the first r.": after - first,
                "the singular values are missing; the directions alone have length 1.": (
                    before + U[:, :r] @ Vt[:r]
                ),
                "that is quiet; return cut first.": before + np.sqrt(share) * delta,
                "np.linalg.svd returns V transposed: its directions are rows, Vt[:r].": (
                    before + (U[:, :r] * s[:r]) @ whole_Vt[:, :r].T
                ),
                "the change runs from after to before; it is after - before.": before - first,
            },
        )
        judge.close(
            "quiet",
            quiet,
            before + np.sqrt(share) * delta,
            instead={
                "the change is multiplied with its share of the energy; energy is a sum of "
                "squares, so the volume is the root of the share.": before + share * delta,
                "that is the share of the sum of the singular values; energy is the sum of their "
                "squares.": before + s[:r].sum() / s.sum() * delta,
                "that is the root of a share of the sum of the singular values; energy is the sum "
                "of their squares.": before + np.sqrt(s[:r].sum() / s.sum()) * delta,
                "that is the quiet change alone; the weights before are missing.": (
                    np.sqrt(share) * delta
                ),
                "that makes the trained weights quiet; make the change quiet.": (
                    np.sqrt(share) * after
                ),
                "that has the energy that the cut throws away; it shall have what the cut keeps.": (
                    before + np.sqrt(1 - share) * delta
                ),
                "that is the cut itself; quiet keeps every direction of the change.": (
                    before + first
                ),
                "that is the whole change; multiply it so that it has the energy of the cut.": (
                    after
                ),
                "r of all directions is not their share of the energy.": (
                    before + np.sqrt(r / len(s)) * delta
                ),
            },
        )


@exercise(
    "8.1",
    "A fair rival",
    minutes=12,
    difficulty=2,
    importance=3,
    check=check_cut_and_quiet,
    statement=r"""
    `before` and `after` are the weights of one map, before and after training. The *change* is
    their difference $\Delta W$, and its singular values $\sigma_1 \ge \sigma_2 \ge \dots$ have the
    energy $\sum_i \sigma_i^2$.

    Write `cut_and_quiet(before, after, r)` and return two new weights, `cut, quiet`:

    - `cut`: the weights before plus the change's first $r$ directions;
    - `quiet`: the weights before plus the *whole* change times one number, chosen so that what is
      added has the same energy as what `cut` adds.
    """,
    hints=(
        "U, s, Vt = np.linalg.svd(after - before, full_matrices=False); the first r directions are "
        "the first r columns of U, numbers of s and rows of Vt.",
        "Multiplying a matrix by c multiplies its energy by c squared.",
        "cut = before + (U[:, :r] * s[:r]) @ Vt[:r]; the number is "
        "np.sqrt((s[:r] ** 2).sum() / (s ** 2).sum()).",
    ),
    wrong=(
        mistake("no root", "the root of the share", change=("np.sqrt(share)", "share")),
        mistake(
            "no squares", "energy is the sum of their", change=("np.sum(s[:r] ** 2) / "
            "np.sum(s**2)", "np.sum(s[:r]) / np.sum(s)"),
        ),
        mistake(
            "the weights are cut",
            "that cuts the trained weights;",
            body="""
            U, s, Vt = np.linalg.svd(after, full_matrices=False)
            cut = (U[:, :r] * s[:r]) @ Vt[:r]
            return cut, after * np.sqrt(np.sum(s[:r] ** 2) / np.sum(s**2))
            """,
        ),
        mistake(
            "columns of Vt", "V transposed", change=("Vt[:r]", "Vt[:, :r].T")
        ),
        mistake("change alone", "weights before are missing", change=(
            "before + (U", "(U")),
        mistake(
            "the rest",
            "what the cut throws away",
            change=("(U[:, :r] * s[:r]) @ Vt[:r]", "(U[:, r:] * s[r:]) @ Vt[r:]"),
        ),
    ),
)  # fmt: skip
def cut_and_quiet(before: np.ndarray, after: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray]:
    """The weights with the change's first r directions, and with all of it at the same energy."""
    delta = after - before
    U, s, Vt = np.linalg.svd(delta, full_matrices=False)
    cut = before + (U[:, :r] * s[:r]) @ Vt[:r]
    share = np.sum(s[:r] ** 2) / np.sum(s**2)
    return cut, before + np.sqrt(share) * delta

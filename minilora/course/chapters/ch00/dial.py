"""Exercises 0.4 and 0.5: the volume dial, and flattening."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_turn_dial(fn: Callable, judge: Judge) -> None:
    for (rows, columns, r), alpha in ((judge.sizes(6, 4, 3), 7.6), (judge.sizes(5, 9, 2), 0.7)):
        photo, b, a = judge.normal(rows, columns), judge.normal(rows, r), judge.normal(r, columns)
        sheet = b @ a
        out = judge.call(fn, photo=photo, B=b, A=a, alpha=alpha)
        judge.close(
            "the adjusted photo",
            out,
            photo + sheet * alpha / r,
            instead={
                "that is the sheet alone, without the photo under it.": sheet * alpha / r,
                "alpha is not divided by r.": photo + sheet * alpha,
                "divided by r, and alpha is missing.": photo + sheet / r,
                "the dial is missing; the sheet takes the factor alpha / r.": photo + sheet,
                "alpha and r are the wrong way round.": photo + sheet * r / alpha,
                "the dial turned the photo and not the sheet.": photo * alpha / r + sheet,
                "you divided by the square root of r; here it is r itself.": photo
                + sheet * alpha / np.sqrt(r),
                "the photo was scaled with the sheet; only the sheet has a dial.": (photo + sheet)
                * alpha
                / r,
                "you divided by the number of rows; r is the thin side of the strips.": photo
                + sheet * alpha / rows,
                "you divided by the number of columns; r is the thin side.": photo
                + sheet * alpha / columns,
            },
        )


@exercise(
    "0.4",
    "The volume dial",
    minutes=6,
    difficulty=1,
    importance=3,
    check=check_turn_dial,
    statement=r"""
    A dial $\alpha$ says how loud the sheet is. It is divided by the rank, so that a thicker sheet
    is not a louder one at the same setting:

    $$\text{photo} + \frac{\alpha}{r}\, B A .$$

    Write `turn_dial(photo, B, A, alpha)`. Read $r$ off the strips; leave `photo` as it is.
    """,
    hints=(
        "r is the side that B and A share.",
        "B.shape is (out, r) and A.shape is (r, in); B @ A is the sheet.",
        "photo + (alpha / A.shape[0]) * (B @ A) makes a new array; photo += … would not.",
    ),
    wrong=(
        mistake("forgot / r", "not divided by r", change=("alpha / r", "alpha")),
        mistake("rows for r", "number of rows", change=("A.shape[0]", "B.shape[0]")),
        mistake("columns for r", "number of columns", change=("A.shape[0]", "A.shape[1]")),
        mistake("root of r", "square root of r", change=("alpha / r", "alpha / r**0.5")),
        mistake("no dial", "the dial is missing", change=("(alpha / r) * ", "")),
        mistake("upside down", "wrong way round", change=("alpha / r", "r / alpha")),
        mistake(
            "the photo's dial",
            "turned the photo",
            change=("photo + (alpha / r) * (B @ A)", "(alpha / r) * photo + B @ A"),
        ),
        mistake("no photo", "the sheet alone", change=("photo + ", "")),
        mistake(
            "in place",
            "changed its input photo in place",
            body="photo += (alpha / A.shape[0]) * (B @ A)\nreturn photo",
        ),
    ),
)
def turn_dial(photo: np.ndarray, B: np.ndarray, A: np.ndarray, alpha: float) -> np.ndarray:
    """photo + (alpha / r) B A, as a new array."""
    r = A.shape[0]
    return photo + (alpha / r) * (B @ A)


def check_flatten(fn: Callable, judge: Judge) -> None:
    rows, columns, *ranks = judge.sizes(7, 5, 2, 3, 4)
    photo = judge.normal(rows, columns)
    sheets = [
        (judge.normal(rows, r), judge.normal(r, columns), alpha)
        for r, alpha in zip(ranks, (3.1, 0.6, 7.2), strict=True)
    ]
    parts = [(alpha / b.shape[1]) * (b @ a) for b, a, alpha in sheets]
    before = photo.copy()
    got = judge.call(fn, photo=photo, sheets=sheets)
    total = np.sum(parts, axis=0)
    first = sum(alpha / sheets[0][0].shape[1] * (b @ a) for b, a, alpha in sheets)
    turned = before
    for b, a, alpha in sheets:
        turned = alpha / b.shape[1] * (turned + b @ a)
    stacked = np.hstack([b for b, _, _ in sheets]) @ np.vstack([a for _, a, _ in sheets])
    loud = np.sum([alpha * (b @ a) for b, a, alpha in sheets], axis=0)
    judge.close(
        "the flattened photo",
        got,
        before + total,
        instead={
            "only the last sheet is in it.": before + parts[-1],
            "only the first sheet is in it; is the return inside the loop?": before + parts[0],
            "the photo is in it once for every sheet; it lies under all of them once.": (
                before * len(sheets) + total
            ),
            "each sheet has its own dial: alpha is not divided by that sheet's r.": before + loud,
            "that is the sheets alone, without the photo under them.": total,
            "every sheet has a rank of its own; you took the first one's for all.": before + first,
            "the dials are missing; each sheet takes its own alpha / r.": before + stacked,
            "the dial turned what lies under the sheet as well; only the sheet has one.": turned,
            "the strips were joined and turned by one dial; each sheet has its own.": before
            + sum(alpha for _, _, alpha in sheets)
            / sum(b.shape[1] for b, _, _ in sheets)
            * stacked,
        },
    )
    alone = judge.call(fn, photo=photo, sheets=[])
    judge.close("the photo without any sheet", alone, before)
    judge.true(
        not np.shares_memory(np.asarray(alone), photo),
        "without any sheet you returned the photo itself, and whoever paints on the answer paints "
        "on the photo. Start from a copy.",
    )


@exercise(
    "0.5",
    "Flatten",
    minutes=8,
    difficulty=2,
    importance=2,
    check=check_flatten,
    statement=r"""
    Write `flatten(photo, sheets)`. `sheets` is a list of `(B, A, alpha)`, each with a rank of its
    own. Return one ordinary array, the photo with every sheet in it at its own volume. The list
    may be empty, and `photo` must survive, because a flattened photo can't be un-flattened.
    """,
    hints=(
        "Start from a copy of the photo, and add the sheets to it one by one.",
        "Every sheet has its own r: take it from its own strips, inside the loop.",
        "flat = photo.copy(), then flat += (alpha / r) * (B @ A) for each, then return flat.",
    ),
    wrong=(
        mistake("overwrites", "only the last sheet", change=("flat = flat +", "flat = photo +")),
        mistake(
            "returns early",
            "only the first sheet",
            change=("\n    return flat", "\n        return flat\n    return flat"),
        ),
        mistake(
            "forgot / r", "not divided by that sheet's r", change=("alpha / A.shape[0]", "alpha")
        ),
        mistake(
            "first rank for all",
            "a rank of its own",
            change=("alpha / A.shape[0]", "alpha / len(sheets[0][1])"),
        ),
        mistake(
            "no dials", "dials are missing", change=("(alpha / A.shape[0]) * (B @ A)", "B @ A")
        ),
        mistake(
            "all turned",
            "what lies under",
            change=("flat + (alpha / A.shape[0]) * (B @ A)", "alpha / len(A) * (flat + B @ A)"),
        ),
        mistake(
            "joined strips",
            "turned by one dial",
            body="""
            if not sheets:
                return photo.copy()
            B = np.hstack([B for B, _, _ in sheets])
            A = np.vstack([A for _, A, _ in sheets])
            return photo + sum(alpha for _, _, alpha in sheets) / A.shape[0] * (B @ A)
            """,
        ),
        mistake("the photo itself", "returned the photo itself", change=("photo.copy()", "photo")),
        mistake(
            "photo each time",
            "once for every sheet",
            body="""
            if not sheets:
                return photo.copy()
            return sum(photo + (alpha / A.shape[0]) * (B @ A) for B, A, alpha in sheets)
            """,
        ),
        mistake(
            "strips in place",
            "changed its input sheets in place",
            body="""
            flat = photo.copy()
            for B, A, alpha in sheets:
                B *= alpha / A.shape[0]
                flat += B @ A
            return flat
            """,
        ),
        mistake(
            "in place",
            "changed its input photo in place",
            body="""
            for B, A, alpha in sheets:
                photo += (alpha / A.shape[0]) * (B @ A)
            return photo
            """,
        ),
    ),
)
def flatten(photo: np.ndarray, sheets: list[tuple[np.ndarray, np.ndarray, float]]) -> np.ndarray:
    """The photo with all sheets (B, A, alpha) in it, as a new array."""
    flat = photo.copy()
    for B, A, alpha in sheets:
        flat = flat + (alpha / A.shape[0]) * (B @ A)
    return flat

"""Exercises 13.1 and 13.2: which sixteen numbers, and a matrix rounded to them block by block."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def _quantiles(below: int, above: int, outermost: float) -> np.ndarray:
    """The codebook before it is divided by its largest number."""
    quantile = NormalDist().inv_cdf
    up = [quantile(0.5 + (outermost - 0.5) * i / above) for i in range(1, above + 1)]
    down = [-quantile(0.5 + (outermost - 0.5) * i / below) for i in range(1, below + 1)]
    return np.array([*down[::-1], 0.0, *up])


def _stopping_short(below: int, above: int, outermost: float) -> np.ndarray:
    """The same, where one more step would have led to the outermost probability."""
    quantile = NormalDist().inv_cdf
    up, down = (
        [quantile(p) for p in np.linspace(0.5, outermost, n + 2)[1:-1]] for n in (above, below)
    )
    return np.array([*(-x for x in down[::-1]), 0.0, *up])


def _end_to_end(count: int, outermost: float) -> np.ndarray:
    """Quantiles of evenly spaced probabilities from 1 - outermost to outermost, divided."""
    numbers = np.array(
        [NormalDist().inv_cdf(q) for q in np.linspace(1 - outermost, outermost, count)]
    )
    return numbers / numbers[-1]


def check_codebook(fn: Callable, judge: Judge) -> None:
    for (below, above), outermost in ((judge.sizes(4, 6), 0.93), (judge.sizes(7, 3), 0.981)):
        got = judge.call(fn, below=below, above=above, outermost=outermost)
        want = _quantiles(below, above, outermost)
        even = np.concatenate([np.linspace(-1, 0, below + 1), np.linspace(0, 1, above + 1)[1:]])
        name = f"the codebook of {below}, 0 and {above}"
        array = np.asarray(got, dtype=np.float64)
        judge.true(
            array.ndim != 1 or len(array) != below + above or 0 in array,
            f"{name}: the 0 is missing.",
        )
        judge.true(
            array.shape != (above + 1,),
            f"{name}: the numbers below 0 are missing; mirror the quantiles.",
        )
        judge.true(
            array.ndim != 1 or len(array) < 2 or (np.sort(array) == array).all(),
            f"{name}: the numbers don't rise; sort them.",
        )
        judge.true(
            array.ndim != 1 or len(np.unique(array)) == len(array),
            f"{name}: a number is in it twice; of the evenly spaced probabilities leave out 1/2, "
            "whose quantile is the 0 that both sides share.",
        )
        density = NormalDist().pdf
        inner = _stopping_short(below, above, outermost)
        judge.close(
            name,
            got,
            want / want[-1],
            instead={
                "those are evenly spaced numbers; evenly spaced are the probabilities, and the "
                "numbers are their quantiles.": even,
                "they are not divided by the largest, so that they reach beyond 1.": want,
                "the two sides are swapped: `below` numbers lie below 0, `above` above it.": (
                    -(want / want[-1])[::-1]
                ),
                "one run of probabilities from end to end; each side has steps of its own, from "
                "1/2 outwards.": _end_to_end(below + above + 1, outermost),
                "the outermost number of a side is the quantile of `outermost` itself; your steps "
                "stop before it.": inner / inner[-1],
                "those come from the density (pdf); the number below which a share q lies is "
                "inv_cdf(q).": np.sort([density(q) for q in want]) / density(0),
            },
        )


@exercise(
    "13.1",
    "Sixteen numbers for a bell",
    minutes=10,
    difficulty=2,
    importance=3,
    check=check_codebook,
    statement=r"""
    `NormalDist().inv_cdf(q)` is the number below which the share `q` of a normal distribution
    lies: its *quantile*. Write `codebook(below, above, outermost)`, an array of `below + 1 + above`
    rising numbers:

    - `above` numbers above 0: the quantiles of `above` evenly spaced probabilities, the largest
      of which is `outermost`, with steps that would reach 1/2 next (whose quantile is 0);
    - `below` numbers below 0: made in the same way with `below` steps from 1/2 to `outermost`, and
      mirrored;
    - a 0 between them; and all of it divided by the largest, so that it ends at -1 and at 1.
    """,
    hints=(
        "The probabilities above 0 are 1/2 + i (outermost - 1/2) / above, for i = 1 to above.",
        "np.linspace(0.5, outermost, above + 1)[1:] are they. Quantile of each, by a list "
        "comprehension; inv_cdf takes one number at a time.",
        "Join the negatives of the lower ones (turned round, so that they rise), 0 and the upper "
        "ones; then divide by the last.",
    ),
    wrong=(
        mistake(
            "evenly spaced",
            "evenly spaced numbers",
            body="""
            down, up = np.linspace(-1, 0, below + 1), np.linspace(0, 1, above + 1)
            return np.concatenate([down, up[1:]])
            """,
        ),
        mistake("not divided", "reach beyond 1", change=("numbers / numbers[-1]", "numbers")),
        mistake(
            "zero twice",
            "in it twice",
            change=(
                "np.linspace(0.5, outermost, count + 1)[1:]",
                "np.linspace(0.5, outermost, count)",
            ),
        ),
        mistake(
            "no zero",
            "the 0 is missing",
            change=("[*(-side(below))[::-1], 0.0, ", "[*(-side(below))[::-1], "),
        ),
        mistake("not rising", "don't rise", change=("(-side(below))[::-1]", "(-side(below))")),
        mistake("one side", "below 0 are missing", change=("*(-side(below))[::-1], ", "")),
        mistake(
            "sides swapped",
            "are swapped",
            change=(
                "[*(-side(below))[::-1], 0.0, *side(above)]",
                "[*(-side(above))[::-1], 0.0, *side(below)]",
            ),
        ),
    ),
)
def codebook(below: int, above: int, outermost: float) -> np.ndarray:
    """below + 1 + above quantiles of a normal distribution, from -1 to 1 with an exact 0."""
    from statistics import NormalDist

    def side(count):
        shares = np.linspace(0.5, outermost, count + 1)[1:]
        return np.array([NormalDist().inv_cdf(q) for q in shares])

    numbers = np.array([*(-side(below))[::-1], 0.0, *side(above)])
    return numbers / numbers[-1]


def _rounded(w: np.ndarray, book: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Each number of w to the nearest of scale times book."""
    ratio = np.where(scale == 0, 0.0, w / np.where(scale == 0, 1.0, scale))
    return scale * book[np.abs(ratio[..., None] - book).argmin(-1)]


def _scales(w: np.ndarray, size: int, of: Callable) -> np.ndarray:
    """One number a block, repeated over the block: (out, in)."""
    blocks = w.reshape(len(w), -1, size)
    return np.repeat(of(blocks), size, axis=1)


def check_blocks(fn: Callable, judge: Judge) -> None:
    cases = ((judge.sizes(4, 7, 5), 6, 1.0), (judge.sizes(3, 8, 12), 9, 1e-5))
    for (count, out, size), levels, tiny in cases:
        w = tiny * judge.normal(out, count * size) * np.exp(judge.normal(out, count * size))
        book = np.sort(np.concatenate([[-1.0, 1.0, 0.0], judge.rng.uniform(-0.9, 0.9, levels)]))
        largest = _scales(w, size, lambda b: np.abs(b).max(-1))
        want = _rounded(w, book, largest)
        ratio = w / largest
        lower = largest * book[np.searchsorted(book, ratio, side="right").clip(1) - 1]
        upper = largest * book[np.searchsorted(book, ratio).clip(max=len(book) - 1)]
        across = _rounded(w, book, np.abs(w).max(axis=0, keepdims=True) + 0 * w)
        got = judge.call(fn, w=w, book=book, size=size)
        judge.close(
            "the rounded matrix",
            got,
            want,
            instead={
                "one scale for the whole matrix; each block has its own.": _rounded(
                    w, book, np.abs(w).max() + 0 * w
                ),
                "one scale a row; a row has several blocks.": _rounded(
                    w, book, np.abs(w).max(axis=1, keepdims=True) + 0 * w
                ),
                "one scale a column; blocks run along the inputs.": across,
                "the scale is the largest number; it must be the largest magnitude.": _rounded(
                    w, book, _scales(w, size, lambda b: b.max(-1))
                ),
                "the scale is a standard deviation, beyond which numbers are cut off.": _rounded(
                    w, book, _scales(w, size, lambda b: b.std(-1))
                ),
                "the scale is the mean magnitude, beyond which numbers are cut off.": _rounded(
                    w, book, _scales(w, size, lambda b: np.abs(b).mean(-1))
                ),
                "rounded down to the next number of the book; take the nearest.": lower,
                "rounded up to the next number of the book; take the nearest.": upper,
                "multiply by the block's scale again.": want / largest,
                "divide by the block's scale before you look for the nearest number.": (
                    _rounded(w, book, np.ones_like(w))
                ),
                "those are the places in the book; read the numbers there.": (
                    np.abs(ratio[..., None] - book).argmin(-1)
                ),
            },
        )
    w[0, :size] = 0
    with np.errstate(all="ignore"):
        got = np.asarray(judge.call(fn, w=w, book=book, size=size), dtype=np.float64)
    judge.true(
        np.isfinite(got[0]).all(),
        "in a block of zeros the largest magnitude is 0, and 0 / 0 is no number; let such a block "
        "stay zero.",
    )
    judge.true((got[0, :size] == 0).all(), "a block of zeros must stay zero.")


@exercise(
    "13.2",
    "Round by blocks",
    minutes=12,
    difficulty=2,
    importance=3,
    check=check_blocks,
    statement=r"""
    Write `round_in_blocks(w, book, size)`. Cut each row of `w` (out, in) into blocks of `size`
    numbers. The *scale* of a block is its largest magnitude. Divide the block by it, replace each
    number by the nearest one of `book`, an array that rises from -1 to 1, and multiply by the
    scale again. Return the result, (out, in). A block of zeros stays zero.
    """,
    hints=(
        "w.reshape(-1, size) has one block a row, because `in` is a multiple of `size`.",
        "np.abs(blocks).max(axis=1, keepdims=True) are the scales; where one is 0, divide by 1.",
        "The place of the nearest is np.abs(ratio[..., None] - book).argmin(axis=-1), and "
        "book[place] the number. Times the scales, in w's shape.",
    ),
    wrong=(
        mistake(
            "one scale",
            "for the whole matrix",
            change=("np.abs(blocks).max(axis=1, keepdims=True)", "np.abs(blocks).max()"),
        ),
        mistake(
            "a scale a row",
            "one scale a row",
            change=("blocks = w.reshape(-1, size)", "blocks = w"),
        ),
        mistake("no magnitude", "largest magnitude", change=("np.abs(blocks).max", "blocks.max")),
        mistake(
            "deviation",
            "standard deviation",
            change=("np.abs(blocks).max(axis=1", "blocks.std(axis=1"),
        ),
        mistake("not back", "scale again", change=("scale * book", "book")),
        mistake(
            "down",
            "rounded down",
            change=(
                "np.abs(ratio[..., None] - book).argmin(axis=-1)",
                'np.searchsorted(book, ratio, side="right").clip(1) - 1',
            ),
        ),
    ),
)
def round_in_blocks(w: np.ndarray, book: np.ndarray, size: int) -> np.ndarray:
    """w with every number rounded to the nearest of its block's scale times the book."""
    blocks = w.reshape(-1, size)
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    ratio = blocks / np.where(scale == 0, 1, scale)
    place = np.abs(ratio[..., None] - book).argmin(axis=-1)
    return (scale * book[place]).reshape(w.shape)

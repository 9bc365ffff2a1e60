"""Exercise 13.3: the scales are numbers too, and are stored in fewer bits themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_scales(fn: Callable, judge: Judge) -> None:
    for count, group in (judge.sizes(7, 5), judge.sizes(4, 11)):
        spread = np.repeat(np.exp(judge.normal(count)), group)
        scales = 5 + spread * judge.rng.uniform(-1, 1, count * group)
        lowest = scales.reshape(count, group).min(axis=1) - scales.mean()
        highest = scales.reshape(count, group).max(axis=1) - scales.mean()
        if (highest >= -lowest).all():  # some largest magnitude must lie below the mean
            scales = 10 - scales
        out = judge.parts(
            judge.call(fn, scales=scales, group=group),
            3,
            "codes, d and the mean, `return codes, d, mean`",
        )
        codes, d, mean = (
            np.asarray(out[0]),
            np.asarray(out[1], dtype=np.float64).reshape(-1),
            out[2],
        )
        judge.true(
            codes.dtype == np.int8,
            f"codes: got {codes.dtype}, expected int8, which is one byte a scale.",
        )
        judge.true(
            codes.shape == scales.shape,
            f"codes: got shape {codes.shape}, expected one a scale, {scales.shape}.",
        )
        judge.number(
            "the mean",
            mean,
            scales.mean(),
            instead={"that is the middle one, the median.": float(np.median(scales))},
        )
        centred = (scales - scales.mean()).reshape(count, group)
        largest = np.abs(centred).max(axis=1)
        judge.true(d.size == count, f"d: got {d.size} numbers, expected one a group, {count}.")
        judge.close(
            "d",
            d,
            largest / 127,
            instead={
                "that is made of the scales as they are; take the mean off first.": (
                    np.abs(scales.reshape(count, group)).max(axis=1) / 127
                ),
                "that is the largest magnitude itself; the code of the largest is 127.": largest,
                "divided by 128, the code of the largest would be 128, and int8 ends at 127.": (
                    largest / 128
                ),
                "divided by 255, as if codes had no sign; they run from -127 to 127.": (
                    largest / 255
                ),
                "the largest number is not the largest magnitude; some scales lie below the "
                "mean.": centred.max(axis=1) / 127,
            },
        )
        steps = centred / d[:, None]
        off = np.abs(codes.reshape(count, group) - steps)
        judge.true(
            not np.array_equal(codes.reshape(count, group), np.trunc(steps)) or off.max() <= 0.501,
            "codes: `astype` cuts off what comes after the point; round first (np.rint).",
        )
        judge.true(
            off.max() <= 0.501,
            "codes: mean + d * code is up to "
            f"{off.max():.3g} steps from its scale; with the nearest code it is at most half a "
            "step.",
        )
    same = np.full(3 * group, 2.5)
    same[:group] += judge.rng.uniform(-1, 1, group)
    same[:group] -= same[:group].mean() - 2.5
    same[group:] = same.mean()
    with np.errstate(all="ignore"):
        out = judge.parts(judge.call(fn, scales=same, group=group), 3, "codes, d and the mean")
    codes, d, mean = (np.asarray(x, dtype=np.float64) for x in out)
    back = mean + np.repeat(d, group) * codes
    judge.true(
        np.isfinite(back).all() and np.abs(back - same).max() <= np.abs(d).max(),
        "in a group whose scales are all the mean itself, d is 0, and 0 / 0 is no number; its "
        "codes are 0.",
    )


@exercise(
    "13.3",
    "The scales, stored twice",
    minutes=12,
    difficulty=2,
    importance=2,
    check=check_scales,
    statement=r"""
    `scales` (n,) are the scales of all blocks of a matrix, and n is a multiple of `group`. Write
    `scales_twice(scales, group)` and return `codes, d, mean`:

    - `mean`, the mean of all scales;
    - `d` (n / group,), for each run of `group` scales the largest magnitude of scale - mean,
      divided by 127;
    - `codes` (n,) of type `np.int8`: the whole numbers for which mean + d · code is nearest to the
      scale. Where d is 0, the codes are 0.
    """,
    hints=(
        "centred = (scales - mean).reshape(-1, group): a group a row.",
        "Divide each row by its d (by 1 where d is 0) and round with np.rint.",
        "np.rint(...).astype(np.int8).reshape(-1) are the codes; they run from -127 to 127, as the "
        "largest magnitude over its d is 127.",
    ),
    wrong=(
        mistake("mean not taken off", "take the mean off", change=("(scales - mean)", "scales")),
        mistake("cut off", "astype", change=("np.rint(centred / divisor)", "(centred / divisor)")),
        mistake("128", "ends at 127", change=("/ 127", "/ 128")),
        mistake("float codes", "expected int8", change=(".astype(np.int8)", "")),
        mistake(
            "one d for all",
            "one a group",
            change=(
                "np.abs(centred).max(axis=1) / 127",
                "np.abs(centred).max(keepdims=True)[0] / 127",
            ),
        ),
        mistake(
            "no magnitude",
            "not the largest magnitude",
            change=("np.abs(centred).max", "centred.max"),
        ),
    ),
)
def scales_twice(scales: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(codes int8, d a group, mean): each scale is about mean + d code."""
    mean = scales.mean()
    centred = (scales - mean).reshape(-1, group)
    d = np.abs(centred).max(axis=1) / 127
    divisor = np.where(d == 0, 1, d)[:, None]
    codes = np.rint(centred / divisor).astype(np.int8)
    return codes.reshape(-1), d, mean

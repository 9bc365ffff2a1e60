"""Claims: a sentence with a number, and the measurement that it rests on."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np


class ClaimError(AssertionError):
    """A sentence of the course that the measurement does not bear out."""


def claim(
    sentence: str,
    measured: float | Sequence[float],
    *,
    above: float | None = None,
    below: float | None = None,
    each: str = "seeds",
) -> None:
    """Assert that the mean of `measured` lies above and below these bounds, and print a line.

    sentence: as it stands in the text, `> **Claim.** sentence`. measured: one number, or one a
    seed (or channel, or layer: `each` names them); then the mean is asserted and the range is
    shown. The bounds leave a margin to what was
    measured, because digits differ from machine to machine.
    Raises ClaimError, quoting the sentence, where it does not hold or nothing was measured.
    """
    _judge(sentence, measured, above, below, each, "holds", "")


def refuted(
    sentence: str,
    measured: float | Sequence[float],
    *,
    because: str,
    above: float | None = None,
    below: float | None = None,
    each: str = "seeds",
) -> None:
    """Assert what was measured against a sentence that did not hold, and say why it did not.

    above, below: bounds that the measurement keeps and the sentence denies. A claim that fails
    stays in the course like this; it is not tuned until it agrees. Raises as `claim` does.
    """
    _judge(sentence, measured, above, below, each, "refuted", because)


def _judge(
    sentence: str,
    measured: float | Sequence[float],
    above: float | None,
    below: float | None,
    each: str,
    word: str,
    because: str,
) -> None:
    values = np.asarray(measured, dtype=np.float64).reshape(-1)
    bounds = [b for b in (above, below) if b is not None]
    if not bounds or not np.isfinite(bounds).all():
        raise ValueError(f"got bounds {bounds} for {sentence!r}, expected finite above or below")
    if values.size == 0 or not np.isfinite(values).all():
        raise ClaimError(f"nothing finite was measured for this sentence: {sentence}")
    mean = float(values.mean())
    found = f"{mean:.3g}"
    if values.size > 1:
        low, high = values.min(), values.max()
        found += f" on average ({low:.3g} to {high:.3g}, {values.size} {each})"
    wanted = " and ".join(
        f"{side} {bound:.3g}"
        for side, bound in (("above", above), ("below", below))
        if bound is not None
    )
    held = (above is None or mean > above) and (below is None or mean < below)
    if not held:
        raise ClaimError(
            f"this sentence is not what was measured: {sentence!r} "
            f"({word} asks for {wanted}, measured {found})"
        )
    lines = [sentence, f"measured {found}; asserted {wanted}", because]
    for i, text in enumerate(filter(None, lines)):
        lead = f"{word:<9}" if i == 0 else " " * 9
        wrapped = textwrap.wrap(text, 84)
        print("\n".join((lead if j == 0 else " " * 9) + part for j, part in enumerate(wrapped)))

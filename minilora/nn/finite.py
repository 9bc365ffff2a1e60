"""Numbers that a model computes are finite, or an error: nobody scores or prints anything else."""

from __future__ import annotations

import math

import numpy as np

from minilora.backend import Array, get_array_module


class NotFiniteError(ValueError):
    """The model computed NaN or infinity: its weights or its adapter's are broken or too large."""


def quiet_overflow() -> np.errstate:
    """Keeps NumPy from warning where numbers overflow, for code that checks its results itself.

    The warnings would say the same once more for each line of this library that overflows.
    """
    return np.errstate(over="ignore", invalid="ignore")


def require_finite_logits(logits: Array) -> Array:
    """The logits themselves. Raises NotFiniteError where any of them is NaN or infinite.

    One number decides in nearly all cases, the sum of their squares: it is finite only where every
    logit is, and BLAS makes it in one pass.
    """
    row = logits.reshape(-1)
    with quiet_overflow():
        squares = float(row.dot(row))
    if not math.isfinite(squares):
        finite = get_array_module(logits).isfinite(logits)
        bad = logits[~finite]
        if bad.size:  # Squares of finite numbers may overflow as well.
            raise NotFiniteError(
                f"got {bad.size} of {logits.size} logits that are not finite, the first of them "
                f"{float(bad[0])}; the weights of the model or of its adapter are broken"
            )
    return logits

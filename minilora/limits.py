"""Settings of a run that are no sensible numbers, refused one at a time and by name."""

from __future__ import annotations

import math
from numbers import Integral, Real


def require_count(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise ValueError unless `value` is a whole number from `least` on, up to `most`."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"got {name} {value!r}, expected a whole number {span}")


def require_flag(name: str, value: object) -> None:
    """Raise ValueError unless `value` is True or False: any text, "no" too, counts as true."""
    if not isinstance(value, bool):
        raise ValueError(f"got {name} {value!r}, expected True or False")


def require_finite(
    name: str, value: object, least: float = 0.0, *, above: bool = False, below: float = math.inf
) -> None:
    """Raise ValueError unless `value` is a finite number in [least, below), or (least, below).

    Infinity and NaN pass one-sided comparisons that were meant for numbers, so both ends count.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    # `not (a < x < b)` is also true of NaN.
    if not number or not (least < value if above else least <= value) or not value < below:
        low = f"above {least:g}" if above else f"of at least {least:g}"
        high = "" if below == math.inf else f" and below {below:g}"
        raise ValueError(f"got {name} {value!r}, expected a finite number {low}{high}")

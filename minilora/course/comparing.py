"""What the judge's comparisons find, in words: shapes, sizes, and what was changed in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minilora.autograd import Tensor


class Mistake(AssertionError):
    """An answer that is wrong; the text is for the learner."""


def as_array(value: Any) -> np.ndarray | None:
    """The array of a Tensor or an array; None for anything else."""
    value = value.data if isinstance(value, Tensor) else value
    return value if isinstance(value, np.ndarray) else None


def snapshot(value: Any) -> Any:
    """What `unchanged` compares with: arrays copied, containers taken apart."""
    array = as_array(value)
    if array is not None:
        return array.copy()
    if isinstance(value, (list, tuple)):
        return [snapshot(part) for part in value]
    if isinstance(value, dict):
        return {key: snapshot(part) for key, part in value.items()}
    return set(value) if isinstance(value, set) else value


def unchanged(value: Any, before: Any) -> bool:
    """Whether value is still what `snapshot` took down."""
    array = as_array(value)
    if array is not None:
        return isinstance(before, np.ndarray) and np.array_equal(
            array, before, equal_nan=array.dtype.kind == "f"
        )
    if isinstance(value, (list, tuple)):
        return len(value) == len(before) and all(map(unchanged, value, before))
    if isinstance(value, dict):
        return list(value) == list(before) and all(unchanged(value[k], before[k]) for k in before)
    return value is before or value == before


def kind_of(value: Any) -> str:
    """What an object is, for a message."""
    return f"an object of type {type(value).__name__}"


def first_of(values: Sequence) -> str:
    """The first of some names for a message, in quotes."""
    return repr(values[0]) if values else "nothing"


def as_numbers(name: str, got: Any) -> np.ndarray:
    """The answer as a float64 array. Mistake for None, a text, or complex numbers."""
    if got is None:
        raise Mistake(f"{name}: got None; is something missing in the return?")
    got = got.data if isinstance(got, Tensor) else got
    try:
        kind = np.asarray(got).dtype.kind
        if kind == "c":
            raise Mistake(f"{name}: got complex numbers, expected real ones.")
        if kind in "US":  # NumPy would read "3" as 3
            raise TypeError
        return np.asarray(got, dtype=np.float64)
    except (TypeError, ValueError):  # of a ragged tuple, such as all that lstsq returns
        raise Mistake(f"{name}: got {kind_of(got)}, expected numbers.") from None


def error_of(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference on the scale of the largest entry; infinite for NaN."""
    if not want.size:
        return 0.0
    error = np.abs(got - want).max() / max(float(np.abs(want).max()), 1e-12)
    return float(error) if error == error else float("inf")


def require_shape(name: str, got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    """Mistake where the shapes differ, with the reason where it is known."""
    if got.shape == want.shape:
        return
    if got.ndim == 2 and got.shape == want.shape[::-1] and error_of(got.T, want) < tolerance:
        raise Mistake(
            f"{name}: right numbers, but transposed: your shape is {got.shape}, "
            f"expected {want.shape}."
        )
    if got.ndim == want.ndim + 1 and got.shape[1:] == want.shape and len(got) > 1:
        raise Mistake(
            f"{name}: your shape {got.shape} still has the batch axis, expected {want.shape}; "
            "every example used the same numbers, so add up what each contributes."
        )
    raise Mistake(f"{name}: your shape is {got.shape}, expected {want.shape}.")


def explain_size(
    name: str, got: np.ndarray, want: np.ndarray, factors: Mapping[str, float]
) -> None:
    """Mistake where the answer is a multiple of what is wanted."""
    if not got.any() and got.ndim:
        raise Mistake(f"{name}: all zeros, and it is not zero.")
    square = float((want * want).sum())
    ratio = float((got * want).sum()) / square if square else 0.0
    if ratio == 0 or error_of(got, ratio * want) > 1e-4 or (got.size == 1 and not factors):
        return
    for sentence, factor in {**factors, "the sign is wrong": -1.0}.items():
        if np.isclose(ratio, factor, rtol=1e-4):
            raise Mistake(f"{name}: {ratio:.3g} times what it should be: {sentence}.")
    if got.size > 1 and abs(ratio - 1) < 1e-3:
        raise Mistake(
            f"{name}: nearly right, and {error_of(got, want):.1g} of the largest entry off, which "
            "is more than rounding: is something cut to fewer digits, or a small constant in it?"
        )
    if got.size > 1:
        raise Mistake(f"{name}: right direction, wrong size: {ratio:.3g} times what it should be.")

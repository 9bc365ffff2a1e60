"""Judge: what an exercise's check compares with, and how it words what is wrong.

A check draws fresh float64 numbers from `judge.rng`, in odd sizes that all differ, calls the
learner's function through `judge.call`, and compares with finite differences or with a property.
Nothing is compared with a stored answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minilora.autograd import Tensor, no_grad


class Mistake(AssertionError):
    """An answer that is wrong; the text is for the learner."""


def slopes(f: Callable[[np.ndarray], float], x: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """Central differences (f(x + eps e_i) - f(x - eps e_i)) / 2 eps, with x's shape."""
    out = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[place] = eps
        out[place] = (float(f(x + step)) - float(f(x - step))) / (2 * eps)
    return out


class Judge:
    """Fresh numbers, calls, comparisons. `compared` counts the comparisons that were made."""

    def __init__(self, seed: int | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.compared = 0

    def normal(self, *shape: int) -> np.ndarray:
        """Standard normal float64 numbers."""
        return self.rng.standard_normal(shape)

    def call(self, fn: Callable[..., Any], **inputs: Any) -> Any:
        """fn(*inputs) in this order, whatever the learner named them.

        Mistake where it returns None, changes an input in place (an array, or what a list or
        dictionary holds), or multiplies shapes that do not fit (told with every shape).
        """
        arrays = {k: _array(v) for k, v in inputs.items() if _array(v) is not None}
        before = {k: _snapshot(v) for k, v in inputs.items()}
        try:
            out = fn(*inputs.values())
        except ValueError as error:
            if not any(word in str(error) for word in ("shape", "dimension", "broadcast", "axis")):
                raise
            shapes = ", ".join(f"{k} {v.shape}" for k, v in arrays.items())
            raise Mistake(
                f"shapes do not fit: {error}. Write the shape under every factor: {shapes}."
            ) from error
        for key, value in inputs.items():
            if not _unchanged(value, before[key]):
                raise Mistake(
                    f"your function changed its input {key} in place; others still need it. "
                    "Work on a copy."
                )
        if out is None:
            raise Mistake("your function returned None; is the return missing?")
        return out

    def true(self, condition: object, sentence: str) -> None:
        """A property that must hold; `sentence` tells the learner what does not."""
        self.compared += 1
        if not condition:
            raise Mistake(sentence)

    def parts(self, out: Any, count: int, wanted: str) -> tuple[Any, ...]:
        """The `count` things that a function returned together, as a tuple or a list.

        wanted: what it was to return, such as "two gradients, `return gx, gW`".
        """
        self.true(isinstance(out, (tuple, list)) and len(out) == count, f"return {wanted}.")
        return tuple(out)

    def number(self, name: str, got: Any, want: float, **how: Any) -> None:
        """One number; as `close`."""
        if isinstance(got, Tensor):
            got = got.data
        if got is not None and np.ndim(got) != 0:
            raise Mistake(f"{name}: got an array of shape {np.shape(got)}, expected one number.")
        self.close(name, got, np.asarray(float(want)), **how)

    def close(
        self,
        name: str,
        got: Any,
        want: np.ndarray,
        *,
        factors: Mapping[str, float] | None = None,
        instead: Mapping[str, np.ndarray] | None = None,
        tolerance: float = 1e-6,
        measured: str = "expected",
    ) -> None:
        """Compare an array with what was measured, on the scale of the largest entry.

        factors: what it means that the answer is c times what is wanted, by sentence ("alpha / r is
        missing": r / alpha). instead: what it means that the answer is this very array, by
        sentence; these go first. measured: how the wanted number was had, for the last resort.
        """
        self.compared += 1
        want = np.asarray(want, dtype=np.float64)
        got = _numbers(name, got)
        for sentence, other in (instead or {}).items():
            other = np.asarray(other, dtype=np.float64)
            if got.shape == other.shape and _error(got, other) < tolerance:
                raise Mistake(f"{name}: {sentence}")
        _require_shape(name, got, want, tolerance)
        if not np.isfinite(got).all():
            raise Mistake(f"{name}: holds {int((~np.isfinite(got)).sum())} numbers NaN or infinite")
        if _error(got, want) < tolerance:
            return
        _explain_size(name, got, want, factors or {})
        place = np.unravel_index(np.abs(got - want).argmax(), got.shape)
        where = f"{name}[{', '.join(str(int(i)) for i in place)}]" if place else name
        raise Mistake(f"{where}: yours is {got[place]:.5g}, {measured} {want[place]:.5g}.")

    def stable(
        self, name: str, run: Callable[[np.ndarray], Any], rows: np.ndarray, want: np.ndarray
    ) -> None:
        """run(rows), which no shift of a whole row changes, where exp overflows and underflows.

        rows (n, m) lie 800 higher, where they are, 800 lower, and so on.
        """
        shifts = np.resize([800.0, 0.0, -800.0], (len(rows), 1))
        with np.errstate(all="ignore"):
            got = _numbers(name, run(rows + shifts))
        _require_shape(name, got, want, 0.0)
        self.true(
            np.isfinite(got[0]).all(),
            f"{name}: for entries near 800 exp overflows: subtract each row's largest entry first, "
            "which changes nothing else.",
        )
        self.true(
            np.isfinite(got).all(),
            f"{name}: with one row near 800 and another near -800, the second holds numbers NaN or "
            "infinite; subtract the largest entry of each row, not that of the whole array.",
        )
        self.close(f"{name}, with rows 800 higher and lower, which changes nothing", got, want)

    def gradient(
        self,
        name: str,
        got: Any,
        f: Callable[[np.ndarray], float],
        x: np.ndarray,
        **how: Any,
    ) -> None:
        """Compare with the central differences of the scalar function f at x; as `close`."""
        how.setdefault("measured", "but nudging that entry moves the loss at rate")
        self.close(name, got, slopes(f, x), **how)

    def recorded_gradients(
        self,
        fn: Callable[..., Tensor],
        inputs: Mapping[str, np.ndarray],
        factors: Mapping[str, Mapping[str, float]] | None = None,
        instead: Mapping[str, Callable[[np.ndarray], Mapping[str, np.ndarray]]] | None = None,
    ) -> None:
        """Check what `fn` of Tensors records, for every input, with a random cotangent g.

        factors and instead: as in `close`, by input; instead gets g.
        """
        leaves = {key: Tensor(x.copy(), requires_grad=True) for key, x in inputs.items()}
        out = self.call(fn, **leaves)
        if not isinstance(out, Tensor):
            raise Mistake(f"your function returned {_kind(out)}, expected a Tensor.")
        if not out.requires_grad:
            raise Mistake("the result requires no gradient: was it made with Tensor.from_op?")
        g = self.normal(*out.shape)
        out.backward(g.copy())
        for key, x in inputs.items():
            if leaves[key].grad is None:
                raise Mistake(f"no gradient reached {key}: give Tensor.from_op a vjp for it.")

            def scalar(value: np.ndarray, key: str = key) -> float:
                with no_grad():
                    moved = {k: Tensor(value if k == key else v) for k, v in inputs.items()}
                    return float((g * fn(*moved.values()).data).sum())

            self.gradient(
                f"the gradient of {key}",
                leaves[key].grad,
                scalar,
                x,
                factors=(factors or {}).get(key),
                instead=(instead or {}).get(key, lambda _: {})(g),
            )


def _array(value: Any) -> np.ndarray | None:
    value = value.data if isinstance(value, Tensor) else value
    return value if isinstance(value, np.ndarray) else None


def _snapshot(value: Any) -> Any:
    """What _unchanged compares with: arrays copied, containers taken apart."""
    array = _array(value)
    if array is not None:
        return array.copy()
    if isinstance(value, (list, tuple)):
        return [_snapshot(part) for part in value]
    if isinstance(value, dict):
        return {key: _snapshot(part) for key, part in value.items()}
    return set(value) if isinstance(value, set) else value


def _unchanged(value: Any, before: Any) -> bool:
    array = _array(value)
    if array is not None:
        return isinstance(before, np.ndarray) and np.array_equal(
            array, before, equal_nan=array.dtype.kind == "f"
        )
    if isinstance(value, (list, tuple)):
        return len(value) == len(before) and all(map(_unchanged, value, before))
    if isinstance(value, dict):
        return list(value) == list(before) and all(_unchanged(value[k], before[k]) for k in before)
    return value is before or value == before


def _kind(value: Any) -> str:
    return f"an object of type {type(value).__name__}"


def _numbers(name: str, got: Any) -> np.ndarray:
    if got is None:
        raise Mistake(f"{name}: got None; is something missing in the return?")
    got = got.data if isinstance(got, Tensor) else got
    if np.iscomplexobj(got):
        raise Mistake(f"{name}: got complex numbers, expected real ones.")
    try:
        return np.asarray(got, dtype=np.float64)
    except (TypeError, ValueError):
        raise Mistake(f"{name}: got {_kind(got)}, expected numbers.") from None


def _error(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference on the scale of the largest entry; infinite for NaN."""
    if not want.size:
        return 0.0
    error = np.abs(got - want).max() / max(float(np.abs(want).max()), 1e-12)
    return float(error) if error == error else float("inf")


def _require_shape(name: str, got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    if got.shape == want.shape:
        return
    if got.ndim == 2 and got.shape == want.shape[::-1] and _error(got.T, want) < tolerance:
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


def _explain_size(
    name: str, got: np.ndarray, want: np.ndarray, factors: Mapping[str, float]
) -> None:
    """Mistake where the answer is a multiple of what is wanted."""
    if not got.any():
        raise Mistake(f"{name}: all zeros, and it is not zero.")
    square = float((want * want).sum())
    ratio = float((got * want).sum()) / square if square else 0.0
    if ratio == 0 or _error(got, ratio * want) > 1e-4 or (got.size == 1 and not factors):
        return
    for sentence, factor in {**factors, "the sign is wrong": -1.0}.items():
        if np.isclose(ratio, factor, rtol=1e-4):
            raise Mistake(f"{name}: {ratio:.3g} times what it should be: {sentence}.")
    if got.size > 1:
        raise Mistake(f"{name}: right direction, wrong size: {ratio:.3g} times what it should be.")

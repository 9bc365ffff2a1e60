"""Judge: what an exercise's check compares with, and how it words what is wrong.

A check draws fresh float64 numbers from `judge.rng`, in odd sizes that all differ, calls the
learner's function through `judge.call`, and compares with finite differences or with a property.
Nothing is compared with a stored answer.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from minilora.autograd import Tensor, no_grad
from minilora.course.comparing import (
    Mistake,
    as_array,
    as_numbers,
    error_of,
    explain_size,
    kind_of,
    require_shape,
    snapshot,
    unchanged,
)


def slopes(f: Callable[[np.ndarray], float], x: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """Central differences (f(x + eps e_i) - f(x - eps e_i)) / 2 eps, with x's shape."""
    out = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[place] = eps
        out[place] = (float(f(x + step)) - float(f(x - step))) / (2 * eps)
    return out


class _Counted:
    """A number that counts its multiplications with other such numbers."""

    done = 0

    def __init__(self, value: float) -> None:
        self.value = float(value)

    def __mul__(self, other: object) -> _Counted:
        if isinstance(other, np.ndarray):
            return NotImplemented  # the array then multiplies each of its entries
        if isinstance(other, _Counted):
            _Counted.done += 1
        return _Counted(self.value * float(other))

    __rmul__ = __mul__

    def __add__(self, other: object) -> _Counted:
        if isinstance(other, np.ndarray):
            return NotImplemented
        return _Counted(self.value + float(other))

    __radd__ = __add__

    def __float__(self) -> float:
        return self.value


class Judge:
    """Fresh numbers, calls, comparisons. `compared` counts the comparisons that were made."""

    def __init__(self, seed: int | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.compared = 0

    def normal(self, *shape: int) -> np.ndarray:
        """Standard normal float64 numbers."""
        return self.rng.standard_normal(shape)

    def sizes(self, *like: int) -> tuple[int, ...]:
        """Sizes like these, drawn anew: up to half as large again, all different.

        The order stays: what is the smallest of `like` is the smallest of what is returned, so a
        check may rely on r below in, or on rows above columns. Sizes that differ keep one mistake
        from looking like another.
        """
        while True:
            drawn = [n + int(self.rng.integers(max(2, n // 2) + 1)) for n in like]
            if len(set(drawn)) == len(like) and np.array_equal(np.argsort(drawn), np.argsort(like)):
                return tuple(drawn)

    def call(self, fn: Callable[..., Any], **inputs: Any) -> Any:
        """fn(*inputs) in this order, whatever the learner named them.

        Mistake where it returns None, changes an input in place (an array, or what a list or
        dictionary holds), or multiplies shapes that do not fit (told with every shape).
        """
        arrays = {k: as_array(v) for k, v in inputs.items() if as_array(v) is not None}
        before = {k: snapshot(v) for k, v in inputs.items()}
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
            if not unchanged(value, before[key]):
                raise Mistake(
                    f"your function changed its input {key} in place; others still need it. "
                    "Work on a copy."
                )
        if out is None:
            raise Mistake("your function returned None; is the return missing?")
        return out

    def call_measured(self, fn: Callable[..., Any], **inputs: Any) -> tuple[Any, int]:
        """As `call`, and the most bytes that fn held at a time besides its inputs."""
        held = 0

        def measured(*arguments: Any) -> Any:
            nonlocal held
            running = tracemalloc.is_tracing()
            if not running:
                tracemalloc.start()
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                return fn(*arguments)
            finally:
                held = tracemalloc.get_traced_memory()[1] - before
                if not running:
                    tracemalloc.stop()

        return self.call(measured, **inputs), held

    def multiplications(self, fn: Callable[..., Any], **inputs: Any) -> int:
        """How many numbers fn multiplies with each other when it is called with these arrays.

        Its arrays hold objects that count; what can't compute with objects is not counted, and
        then 0 is returned.
        """
        counted = {
            k: np.vectorize(_Counted, otypes=[object])(v) if isinstance(v, np.ndarray) else v
            for k, v in inputs.items()
        }
        _Counted.done = 0
        try:
            fn(*counted.values())
        except (TypeError, AttributeError):
            return 0
        return _Counted.done

    def refuses(self, fn: Callable[..., Any], *arguments: Any) -> bool:
        """Whether fn raises ValueError. Mistake for another exception, and for one by accident."""
        try:
            fn(*arguments)
        except ValueError as error:
            self.true(
                "truth value" not in str(error),
                "the ValueError is NumPy's own and came by accident: an array has no truth value. "
                "Ask `is None` or `is not None`.",
            )
            return True
        except NotImplementedError:
            raise
        except Exception as error:
            raise Mistake(
                f"your function raised {type(error).__name__} where ValueError was asked for."
            ) from error
        return False

    def true(self, condition: object, sentence: str) -> None:
        """A property that must hold; `sentence` tells the learner what does not."""
        self.compared += 1
        if not condition:
            raise Mistake(sentence)

    def parts(self, out: Any, count: int, wanted: str) -> tuple[Any, ...]:
        """The `count` things that a function returned together: tuple, list, array of numbers.

        wanted: what it was to return, such as "two gradients, `return gx, gW`".
        """
        together = isinstance(out, (tuple, list)) or (isinstance(out, np.ndarray) and out.ndim == 1)
        self.true(together and len(out) == count, f"return {wanted}.")
        return tuple(out)

    def number(self, name: str, got: Any, want: float, **how: Any) -> None:
        """One number; as `close`."""
        self.close(name, self.one(name, got), np.asarray(float(want)), **how)

    def one(self, name: str, got: Any) -> float:
        """What a function returned as one number; Mistake for an array, a text or None."""
        number = as_numbers(name, got)
        if number.ndim:
            raise Mistake(f"{name}: got an array of shape {number.shape}, expected one number.")
        return float(number)

    def numbers(self, cases: Sequence[tuple[str, Any, float, Mapping[str, float]]]) -> None:
        """One number of each of several calls: (name, got, want, instead).

        A sentence of `instead` is told where it is right about every call. On a single number one
        mistake soon looks like another.
        """
        got = [self.one(name, value) for name, value, _, _ in cases]
        want = [float(w) for _, _, w, _ in cases]
        for sentence in dict.fromkeys(text for *_, instead in cases for text in instead):
            other = [float(instead.get(sentence, w)) for _, _, w, instead in cases]
            shown = [i for i, w in enumerate(want) if not np.isclose(other[i], w, rtol=1e-6)]
            if shown and np.allclose(got, other, rtol=1e-6, atol=1e-12):
                raise Mistake(f"{cases[shown[0]][0]}: {sentence}")
        for (name, _, _, _), value, w in zip(cases, got, want, strict=True):
            self.number(name, value, w)

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
        sentence; these go first, but for one that on these numbers equals what is wanted.
        measured: how the wanted number was had, for the last resort.
        """
        self.compared += 1
        want = np.asarray(want, dtype=np.float64)
        got = as_numbers(name, got)
        for sentence, other in (instead or {}).items():
            other = np.asarray(other, dtype=np.float64)
            if other.shape == want.shape and error_of(other, want) < tolerance:
                continue  # these numbers do not show that mistake: the right answer is the same
            if got.shape == other.shape and error_of(got, other) < tolerance:
                raise Mistake(f"{name}: {sentence}")
        require_shape(name, got, want, tolerance)
        if not np.isfinite(got).all():
            count = f" in {(~np.isfinite(got)).sum()} of {got.size} entries" if got.ndim else ""
            raise Mistake(f"{name}: NaN or infinite{count}.")
        if error_of(got, want) < tolerance:
            return
        explain_size(name, got, want, factors or {})
        place = np.unravel_index(np.abs(got - want).argmax(), got.shape)
        where = f"{name}[{', '.join(str(int(i)) for i in place)}]" if place else name
        raise Mistake(f"{where}: yours is {got[place]:.5g}, {measured} {want[place]:.5g}.")

    def stable(
        self,
        name: str,
        run: Callable[[np.ndarray], Any],
        rows: np.ndarray,
        want: np.ndarray,
        steep: np.ndarray,
    ) -> None:
        """run(rows), which no shift of a whole row changes, where exp overflows and underflows.

        rows (n, m) lie 800 higher, 800 lower, where they are, and so on. steep: run(rows) where the
        second entry of every row lies 1600 higher.
        """
        shifts = np.resize([800.0, -800.0, 0.0], (len(rows), 1))
        with np.errstate(all="ignore"):
            got = as_numbers(name, run(rows + shifts))
        require_shape(name, got, want, 0.0)
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
        self.close(f"with rows 800 higher and lower, which changes nothing, {name}", got, want)
        with np.errstate(all="ignore"):
            got = as_numbers(name, run(rows + 1600.0 * (np.arange(rows.shape[1]) == 1)))
        self.true(
            np.isfinite(got).all(),
            f"{name}: with one entry 1600 above the others of its row exp overflows; what is "
            "subtracted must be the row's largest entry.",
        )
        self.close(f"with one entry of each row 1600 above the others, {name}", got, steep)

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
            raise Mistake(f"your function returned {kind_of(out)}, expected a Tensor.")
        if not out.requires_grad:
            raise Mistake("the result requires no gradient: was it made with Tensor.from_op?")
        g = self.normal(*out.shape)
        sent = g.copy()
        out.backward(sent)
        if not np.array_equal(sent, g):
            raise Mistake(
                "a vjp wrote into the cotangent g, which others still need; return a new array."
            )
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

"""Gradients against central differences: for any function of Tensors, in float64.

The reported error of an input is the worst of two comparisons:

- element by element: |analytic - numeric| / (largest entry of that input's gradient), so that an
  element whose gradient is zero is judged on the scale of its neighbours;
- along a random direction d: |<ga, d> - slope| / |ga|, which also sees inputs too large to probe
  element by element.

The cotangent is random: the sum of a softmax does not depend on its input, so an all-ones
cotangent is blind to it, and to most of a norm. A gradient that is zero everywhere proves nothing
and fails as vacuous, unless the caller says that zero is the right answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from minilora.autograd.tensor import Tensor, no_grad
from minilora.gradients.ownership import false_declarations

ALL = "(all)"
"""The row that moves every input at once along one random direction."""

Inputs = Mapping[str, "np.ndarray | Tensor"] | Sequence["np.ndarray | Tensor"]


@dataclass(frozen=True)
class Row:
    """What was found for one input: the worst relative error, and the element that shows it.

    `index` is None where the direction was worse than every element (then `analytic` and
    `numeric` are slopes along it). `problem` is empty, or says why the row fails whatever the
    error is.
    """

    op: str
    input: str
    error: float
    index: tuple[int, ...] | None
    analytic: float
    numeric: float
    seconds: float
    tolerance: float
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether the error is under the tolerance and nothing else is wrong."""
        return not self.problem and self.error < self.tolerance

    def __str__(self) -> str:
        place = "random direction" if self.index is None else f"element {list(self.index)}"
        state = "ok" if self.ok else f"FAILED{': ' + self.problem if self.problem else ''}"
        return (
            f"{self.op} {self.input}: {self.error:.2e} at {place} "
            f"(analytic {self.analytic:.9g}, numeric {self.numeric:.9g}) {state}"
        )


@dataclass(frozen=True)
class Report:
    """The rows of one check, one for each input and one for all of them together."""

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether something was compared and every row passed."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    @property
    def worst(self) -> Row:
        """The failing row, or else the row, with the largest error."""
        return max(self.rows, key=lambda row: (not row.ok, row.error))

    def __str__(self) -> str:
        return "\n".join(map(str, self.rows))


def check_gradients(
    fn: Callable[..., Tensor],
    inputs: Inputs,
    *,
    rng: np.random.Generator,
    eps: float = 1e-6,
    tolerance: float = 1e-6,
    elementwise: int | None = None,
    name: str = "fn",
    zero: Collection[str] = (),
) -> Report:
    """Compare the gradients that `fn` records with (fn(x + eps d) - fn(x - eps d)) / 2 eps.

    inputs: float64 arrays by name, passed to `fn` as keywords, or in a row, passed in order. A
    leaf Tensor (a Parameter) is used as it stands, so `fn` may also close over it: a whole model
    is checked with `check_gradients(lambda **_: model(ids), dict(model.named_parameters()), ...)`.
    Integers are for `fn` to close over. `fn` gives the same values each time it is called.
    elementwise: how many elements of each input to probe one by one (256 by default, all of them
    in a smaller input). zero: names of inputs whose gradient is rightly zero everywhere.
    Raises ValueError for no inputs, for dtypes other than float64, and where `fn` returns
    something else than a float64 Tensor.
    """
    probe = Probe(inputs, rng, eps=eps, elementwise=elementwise)
    probe.measure(fn)
    return probe.compare(fn, tolerance=tolerance, name=name, zero=zero)


@dataclass
class _Slopes:
    """Numeric derivatives of one leaf: along `direction`, and at flat `places`."""

    direction: np.ndarray
    along: float = 0.0
    places: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    at: np.ndarray = field(default_factory=lambda: np.empty(0))
    seconds: float = 0.0


class Probe:
    """Numeric slopes of a function, measured once and then compared with any recorded gradient.

    Apart from `check_gradients`, so that many wrong vjps can be judged by one measurement.
    """

    def __init__(
        self, inputs: Inputs, rng: np.random.Generator, *, eps: float, elementwise: int | None
    ) -> None:
        named = isinstance(inputs, Mapping)
        pairs = list(inputs.items()) if named else [(str(i), x) for i, x in enumerate(inputs)]
        if not pairs:
            raise ValueError("check_gradients got no inputs, expected at least one float64 array")
        self.leaves = {key: _leaf(key, value) for key, value in pairs}
        self.base = {key: leaf.data for key, leaf in self.leaves.items()}
        self.named, self.rng, self.eps = named, rng, eps
        self.limit = 256 if elementwise is None else elementwise

    def call(self, fn: Callable[..., Tensor]) -> Tensor:
        """`fn` at the leaves' present values."""
        out = fn(**self.leaves) if self.named else fn(*self.leaves.values())
        if not isinstance(out, Tensor) or out.dtype != np.float64:
            got = out.dtype if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"check_gradients got a function to {got}, expected a float64 Tensor")
        return out

    def measure(self, fn: Callable[..., Tensor]) -> None:
        """Take every numeric slope of `fn`: forward passes only."""
        with no_grad():
            self.value = self.call(fn).data.copy()
            self.g = np.asarray(self.rng.standard_normal(self.value.shape))
            # The rounding of a difference quotient; gradients below it count as zero.
            self.noise = 1e-15 * float(np.abs(self.g * self.value).sum()) / self.eps
            self.slopes = {key: self._measure_leaf(fn, key) for key in self.leaves}
            self.along_all = self._slope(fn, {k: s.direction for k, s in self.slopes.items()})

    def _measure_leaf(self, fn: Callable[..., Tensor], key: str) -> _Slopes:
        began, base = time.perf_counter(), self.base[key]
        slopes = _Slopes(self.rng.standard_normal(base.shape))
        slopes.along = self._slope(fn, {key: slopes.direction})
        slopes.places = np.arange(base.size)
        if base.size > self.limit:
            slopes.places = self.rng.choice(base.size, self.limit, replace=False)
        slopes.at = np.array([self._slope_at(fn, key, int(i)) for i in slopes.places])
        slopes.seconds = time.perf_counter() - began
        return slopes

    def _slope(self, fn: Callable[..., Tensor], moves: dict[str, np.ndarray]) -> float:
        """Derivative of <g, fn> along `moves`: outputs are subtracted before they are summed."""
        values = []
        try:
            for step in (self.eps, -self.eps):
                for key, direction in moves.items():
                    self.leaves[key].data = self.base[key] + step * direction
                values.append(self.call(fn).data)
        finally:
            for key in moves:
                self.leaves[key].data = self.base[key]
        return float(np.sum(self.g * (values[0] - values[1]))) / (2 * self.eps)

    def _slope_at(self, fn: Callable[..., Tensor], key: str, place: int) -> float:
        unit = np.zeros(self.base[key].shape)
        unit.flat[place] = 1.0
        return self._slope(fn, {key: unit})

    def gradients(self, fn: Callable[..., Tensor]) -> tuple[dict[str, np.ndarray | None], str]:
        """Recorded gradients of <g, fn> by input, and what else went wrong ("" if nothing)."""
        before = {key: leaf.grad for key, leaf in self.leaves.items()}
        kept = {key: data.copy() for key, data in self.base.items()}
        g, problem = self.g.copy(), ""
        try:
            for leaf in self.leaves.values():
                leaf.grad = None
            out = self.call(fn)
            if out.shape != self.value.shape or not np.allclose(out.data, self.value, 1e-9, 1e-12):
                problem = "two calls gave different values; fn must draw no random numbers"
            if out.requires_grad:
                problem = "; ".join([problem, *false_declarations(out, g)]).strip("; ")
                out.backward(g)
            found = {key: leaf.grad for key, leaf in self.leaves.items()}
        finally:
            for key, leaf in self.leaves.items():
                leaf.grad = before[key]
        if not np.array_equal(g, self.g):
            problem = "backward wrote into the cotangent"
        if not all(np.array_equal(kept[key], self.base[key]) for key in kept):
            problem = "the function wrote into an input"
        return found, problem

    def compare(
        self, fn: Callable[..., Tensor], *, tolerance: float, name: str, zero: Collection[str] = ()
    ) -> Report:
        """Report on `fn`'s recorded gradients against the slopes that were measured."""
        unknown = set(zero) - self.leaves.keys()
        if unknown:
            raise ValueError(f"got zero={sorted(unknown)}, expected names of {list(self.leaves)}")
        began = time.perf_counter()
        found, problem = self.gradients(fn)
        share = (time.perf_counter() - began) / len(self.leaves)
        rows = []
        for key, slopes in self.slopes.items():
            error, index, analytic, numeric, trouble = self._judge(key, found[key], key in zero)
            seconds = slopes.seconds + share
            rows.append(
                Row(
                    name,
                    key,
                    error,
                    index,
                    analytic,
                    numeric,
                    seconds,
                    tolerance,
                    problem or trouble,
                )
            )
        if len(rows) > 1:
            rows.append(self._row_of_all(found, name, tolerance))
        return Report(tuple(rows))

    def _judge(
        self, key: str, ga: np.ndarray | None, expect_zero: bool
    ) -> tuple[float, tuple[int, ...] | None, float, float, str]:
        """(error, index, analytic, numeric, problem) of one input."""
        slopes, shape = self.slopes[key], self.base[key].shape
        missing = ga is None
        ga = np.zeros(shape) if missing else ga
        slope = float(np.sum(ga * slopes.direction))
        norm = float(np.sqrt(np.sum(ga * ga)))
        scale = max(_largest(ga), _largest(slopes.at))
        if max(scale, norm, abs(slopes.along)) <= self.noise or ga.size == 0:
            trouble = "" if expect_zero else "vacuous: the gradient is zero everywhere"
            return 0.0, None, slope, slopes.along, trouble
        trouble = "the gradient was said to be zero" if expect_zero else ""
        if missing:
            trouble = "no gradient reached this input"
        error, index = abs(slope - slopes.along) / max(norm, abs(slopes.along)), None
        analytic, numeric = slope, slopes.along
        if slopes.places.size:
            at = ga.reshape(-1)[slopes.places]
            errors = np.abs(at - slopes.at) / scale
            worst = int(np.argmax(np.nan_to_num(errors, nan=np.inf)))
            if not errors[worst] <= error:
                error = float(errors[worst])
                place = np.unravel_index(slopes.places[worst], shape)
                index = tuple(int(i) for i in place)
                analytic, numeric = float(at[worst]), float(slopes.at[worst])
        return _finite(error), index, analytic, numeric, trouble

    def _row_of_all(self, found: dict[str, np.ndarray | None], name: str, limit: float) -> Row:
        began, slope, square = time.perf_counter(), 0.0, 0.0
        for key, ga in found.items():
            if ga is not None:
                slope += float(np.sum(ga * self.slopes[key].direction))
                square += float(np.sum(ga * ga))
        scale = max(square**0.5, abs(self.along_all))
        quiet = scale <= self.noise  # then every input's own row has said so already
        error = 0.0 if quiet else _finite(abs(slope - self.along_all) / scale)
        seconds = time.perf_counter() - began
        return Row(name, ALL, error, None, slope, self.along_all, seconds, limit)


def _leaf(key: str, value: np.ndarray | Tensor) -> Tensor:
    dtype = getattr(value, "dtype", type(value).__name__)
    if dtype != np.float64:
        raise ValueError(
            f"check_gradients got input {key!r} of dtype {dtype}, expected float64 (a step of 1e-6 "
            "drowns in float32's rounding; integers are for the function to close over)"
        )
    if not isinstance(value, Tensor):
        return Tensor(value.copy(), requires_grad=True)
    if not value.requires_grad or value.node is not None:
        raise ValueError(f"check_gradients got Tensor {key!r}, expected a leaf requiring gradients")
    return value


def _largest(x: np.ndarray) -> float:
    return float(np.abs(x).max()) if x.size else 0.0


def _finite(error: float) -> float:
    """NaN compares false with everything, so a NaN error is turned into an infinite one."""
    return error if error == error else float("inf")

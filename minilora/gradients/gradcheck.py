"""Gradients against central differences: for any function of Tensors, in float64.

The reported error of an input is the worst of two comparisons:

- element by element: |analytic - numeric| / (largest entry of that input's gradient), so that an
  element whose gradient is zero is judged on the scale of its neighbours;
- along a random direction d: |<ga, d> - slope| / |ga|, which also sees inputs too large to probe
  element by element.

The cotangent is random: the sum of a softmax does not depend on its input, so an all-ones
cotangent is blind to it, and to most of a norm. A gradient that is zero everywhere proves nothing
and fails as vacuous, unless the caller says that zero is the right answer.

A `Probe` measures the numeric slopes, with forward passes only; then the gradients that backward
records are compared with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
    probe = Probe(fn, inputs, rng, eps=eps, elementwise=elementwise)
    return probe.compare(probe.record(fn), tolerance=tolerance, name=name, zero=zero)


class _Slopes(NamedTuple):
    """Numeric derivatives of <g, fn> for one input."""

    direction: np.ndarray
    along_direction: float
    elements: np.ndarray  # flat numbers of the elements that were moved one by one
    by_element: np.ndarray  # the derivative for each of them
    seconds: float


class Recorded(NamedTuple):
    """What one forward and backward pass gave: gradients of <g, fn> by input, None for none.

    `problem` says what else went wrong, "" if nothing.
    """

    gradients: dict[str, np.ndarray | None]
    same_value: bool
    problem: str
    seconds: float


class Probe:
    """Numeric slopes of <g, fn> at one point, for a random cotangent g of fn's result.

    They are measured once, with forward passes only, and can then be compared with what any
    function of the same values records: so one measurement judges many planted mistakes.
    """

    def __init__(
        self,
        fn: Callable[..., Tensor],
        inputs: Inputs,
        rng: np.random.Generator,
        *,
        eps: float = 1e-6,
        elementwise: int | None = None,
    ) -> None:
        self.by_name = isinstance(inputs, Mapping)
        pairs = (
            list(inputs.items()) if self.by_name else [(str(i), x) for i, x in enumerate(inputs)]
        )
        if not pairs:
            raise ValueError("check_gradients got no inputs, expected at least one float64 array")
        self.leaves = {name: _leaf(name, value) for name, value in pairs}
        self.point = {name: leaf.data for name, leaf in self.leaves.items()}
        self.eps = eps
        most = 256 if elementwise is None else elementwise
        with no_grad():
            self.value = self.call(fn).data.copy()
            self.g = np.asarray(rng.standard_normal(self.value.shape))
            # The rounding error of a difference quotient; gradients below it count as zero.
            self.noise = 1e-15 * float(np.abs(self.g * self.value).sum()) / eps
            self.slopes = {name: self._measure(fn, name, rng, most) for name in self.leaves}
            directions = {name: slopes.direction for name, slopes in self.slopes.items()}
            self.slope_along_all = self._slope(fn, directions)

    def call(self, fn: Callable[..., Tensor]) -> Tensor:
        """`fn` at the leaves' present values."""
        out = fn(**self.leaves) if self.by_name else fn(*self.leaves.values())
        if not isinstance(out, Tensor) or out.dtype != np.float64:
            got = out.dtype if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"check_gradients got a function to {got}, expected a float64 Tensor")
        return out

    def _measure(
        self, fn: Callable[..., Tensor], name: str, rng: np.random.Generator, most: int
    ) -> _Slopes:
        """Slopes along one random direction of an input, and for at most so many elements."""
        began, shape, size = time.perf_counter(), self.point[name].shape, self.point[name].size
        direction = rng.standard_normal(shape)
        along = self._slope(fn, {name: direction})
        elements = np.arange(size) if size <= most else rng.choice(size, most, replace=False)
        by_element = np.empty(len(elements))
        for i, element in enumerate(elements):
            one_element = np.zeros(shape)
            one_element.flat[element] = 1.0
            by_element[i] = self._slope(fn, {name: one_element})
        return _Slopes(direction, along, elements, by_element, time.perf_counter() - began)

    def _slope(self, fn: Callable[..., Tensor], directions: dict[str, np.ndarray]) -> float:
        """Central difference of <g, fn>, each input moved along its direction.

        The outputs are subtracted before they are summed, which loses fewer digits.
        """
        values = []
        try:
            for step in (self.eps, -self.eps):
                for name, direction in directions.items():
                    self.leaves[name].data = self.point[name] + step * direction
                values.append(self.call(fn).data)
        finally:
            for name in directions:
                self.leaves[name].data = self.point[name]
        return float(np.sum(self.g * (values[0] - values[1]))) / (2 * self.eps)

    def record(self, fn: Callable[..., Tensor]) -> Recorded:
        """The gradients that `fn` records. The leaves' own `grad` stays as it was."""
        began, problems, g = time.perf_counter(), [], self.g.copy()
        grads_before = {name: leaf.grad for name, leaf in self.leaves.items()}
        point_before = {name: data.copy() for name, data in self.point.items()}
        try:
            for leaf in self.leaves.values():
                leaf.grad = None
            out = self.call(fn)
            same_value = self._is_value(out.data)
            if not same_value:
                problems.append("two calls gave different values; fn must draw no random numbers")
            if out.requires_grad:
                problems += false_declarations(out, g)
                out.backward(g)
            gradients = {name: leaf.grad for name, leaf in self.leaves.items()}
        finally:
            for name, leaf in self.leaves.items():
                leaf.grad = grads_before[name]
        if not np.array_equal(g, self.g):
            problems.append("backward wrote into the cotangent")
        if not all(np.array_equal(point_before[name], self.point[name]) for name in self.point):
            problems.append("the function wrote into an input")
        seconds = time.perf_counter() - began
        return Recorded(gradients, same_value, "; ".join(problems), seconds)

    def _is_value(self, value: np.ndarray) -> bool:
        """Whether a result is the one that was measured, up to rounding."""
        return value.shape == self.value.shape and np.allclose(value, self.value, 1e-9, 1e-12)

    def compare(
        self,
        recorded: Recorded,
        *,
        tolerance: float = 1e-6,
        name: str = "fn",
        zero: Collection[str] = (),
    ) -> Report:
        """Report on recorded gradients, against the slopes that were measured."""
        unknown = set(zero) - self.leaves.keys()
        if unknown:
            raise ValueError(f"got zero={sorted(unknown)}, expected names of {list(self.leaves)}")
        rows = []
        for key, slopes in self.slopes.items():
            worst, problem = self._judge(key, recorded.gradients[key], key in zero)
            seconds = slopes.seconds + recorded.seconds / len(self.leaves)
            rows.append(Row(name, key, *worst, seconds, tolerance, recorded.problem or problem))
        if len(rows) > 1:
            rows.append(Row(name, ALL, *self._along_all(recorded.gradients), 0.0, tolerance))
        return Report(tuple(rows))

    def _judge(
        self, name: str, gradient: np.ndarray | None, expect_zero: bool
    ) -> tuple[_Difference, str]:
        """The largest difference of one input, and what is wrong apart from it."""
        slopes = self.slopes[name]
        ga = np.zeros(self.point[name].shape) if gradient is None else gradient
        slope, norm = float(np.sum(ga * slopes.direction)), float(np.sqrt(np.sum(ga * ga)))
        scale = max(_largest(ga), _largest(slopes.by_element))
        if max(scale, norm, abs(slopes.along_direction)) <= self.noise or ga.size == 0:
            problem = "" if expect_zero else "vacuous: the gradient is zero everywhere"
            return _Difference(0.0, None, slope, slopes.along_direction), problem
        differences = [_along(slope, slopes.along_direction, norm)]
        if slopes.elements.size:
            differences.append(_worst_element(ga, slopes, scale))
        problem = "the gradient was said to be zero" if expect_zero else ""
        if gradient is None:
            problem = "no gradient reached this input"
        return max(differences, key=lambda difference: difference.error), problem

    def _along_all(self, gradients: dict[str, np.ndarray | None]) -> _Difference:
        """All inputs moved at once, each along its direction."""
        arrived = {name: ga for name, ga in gradients.items() if ga is not None}
        slope = sum(float(np.sum(ga * self.slopes[n].direction)) for n, ga in arrived.items())
        norm = sum(float(np.sum(ga * ga)) for ga in arrived.values()) ** 0.5
        if max(norm, abs(self.slope_along_all)) <= self.noise:
            # Then every input's own row has said so already.
            return _Difference(0.0, None, slope, self.slope_along_all)
        return _along(slope, self.slope_along_all, norm)


class _Difference(NamedTuple):
    """How far a recorded gradient is from a numeric slope, and where; as in `Row`."""

    error: float
    index: tuple[int, ...] | None
    analytic: float
    numeric: float


def _along(slope: float, numeric: float, norm: float) -> _Difference:
    """Along a random direction, relative to the length of the gradient."""
    error = abs(slope - numeric) / max(norm, abs(numeric))
    return _Difference(_finite(error), None, slope, numeric)


def _worst_element(ga: np.ndarray, slopes: _Slopes, scale: float) -> _Difference:
    """The worst of the elements that were moved, relative to the largest of the gradient."""
    analytic = ga.reshape(-1)[slopes.elements]
    errors = np.abs(analytic - slopes.by_element) / scale
    i = int(np.argmax(np.nan_to_num(errors, nan=np.inf)))
    index = tuple(int(k) for k in np.unravel_index(slopes.elements[i], ga.shape))
    error = _finite(float(errors[i]))
    return _Difference(error, index, float(analytic[i]), float(slopes.by_element[i]))


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

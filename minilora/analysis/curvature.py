"""The largest eigenvalue of the loss's Hessian, by power iteration on differences of gradients.

A step of gradient descent along a direction of curvature lambda overshoots where its rate is above
2 / lambda. So the steepest direction bounds the rate, and methods with other curvature want other
rates (arXiv 2602.04998 finds so among LoRA's variants).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from minilora.limits import require_count, require_finite
from minilora.nn import Module, Parameter

Vector = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Eigenvalue:
    """value: of largest magnitude, with its sign. residual: |Hv - value v| for |v| = 1, which
    bounds how far the nearest eigenvalue lies. steps: of power iteration.
    """

    value: float
    residual: float
    steps: int


def in_float64(model: Module) -> Module:
    """The model with float64 weights, in place: differences of float32 gradients are too coarse."""
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(np.float64)
    return model


def gradients_at(model: Module, loss: Callable[[], object]) -> dict[str, np.ndarray]:
    """Trained parameter's name -> its gradient of `loss()`, at the present weights."""
    model.zero_grad()
    loss().backward()
    found = {
        name: np.zeros_like(p.data) if p.grad is None else p.grad.copy()
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    model.zero_grad()
    return found


def hessian_times(
    model: Module, loss: Callable[[], object], direction: Vector, step: float = 1e-4
) -> dict[str, np.ndarray]:
    """H v = (g(theta + step v) - g(theta - step v)) / (2 step), for |v| = 1; theta is put back.

    The error is of order step^2 times the third derivative, and of the rounding of g over step:
    float64 is needed.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    origin = {name: p.data for name, p in trained.items()}
    sides = []
    try:
        for sign in (1.0, -1.0):
            for name, p in trained.items():
                p.data = origin[name] + (sign * step) * direction[name]
            sides.append(gradients_at(model, loss))
    finally:
        for name, p in trained.items():
            p.data = origin[name]
    plus, minus = sides
    return {name: (plus[name] - minus[name]) / (2 * step) for name in trained}


def top_eigenvalue(
    model: Module,
    loss: Callable[[], object],
    rng: np.random.Generator,
    *,
    most_steps: int = 50,
    tolerance: float = 1e-3,
) -> Eigenvalue:
    """The Hessian's eigenvalue of largest magnitude, over the parameters that are trained.

    Power iteration from a random direction, until the Rayleigh quotient v . H v changes by less
    than `tolerance` of itself. loss: makes the loss, a Tensor, at the present weights. Raises
    ValueError for a model without trained parameters or not in float64, and settings out of range.
    """
    require_count("most_steps", most_steps, 1)
    require_finite("tolerance", tolerance, above=True)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    _require_float64(trained)
    v = _unit({name: rng.standard_normal(p.shape) for name, p in trained})
    found = Eigenvalue(0.0, math.inf, 0)
    for step in range(1, most_steps + 1):
        product = hessian_times(model, loss, v)
        value = _dot(v, product)
        change = abs(value - found.value)
        residual = _norm({name: product[name] - value * v[name] for name in v})
        found = Eigenvalue(value, residual, step)
        if _norm(product) == 0 or change <= tolerance * abs(value):
            break
        v = _unit(product)
    return found


def _require_float64(trained: Sequence[tuple[str, Parameter]]) -> None:
    if not trained:
        raise ValueError("got a model in which nothing is trained, expected some parameters")
    narrow = [(n, p.dtype) for n, p in trained if p.dtype != np.float64]
    if narrow:
        raise ValueError(f"got {narrow[0][0]} in {narrow[0][1]}, expected float64 (in_float64)")


def _dot(a: Vector, b: Vector) -> float:
    return float(sum(np.vdot(a[name], b[name]) for name in a))


def _norm(a: Vector) -> float:
    return math.sqrt(_dot(a, a))


def _unit(a: Vector) -> dict[str, np.ndarray]:
    length = _norm(a)
    return {name: array / length for name, array in a.items()}

"""The largest eigenvalue of the loss's Hessian, by Lanczos' method on differences of gradients.

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
    """value: the largest. residual: |Hv - value v| for |v| = 1, which bounds how far the nearest
    eigenvalue lies. steps: of Lanczos' method, one product with H each.
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
    tolerance: float = 0.01,
) -> Eigenvalue:
    """The Hessian's largest eigenvalue, over the parameters that are trained: the steepest way up.

    Lanczos' method from a random direction, until the residual is below `tolerance` of the value.
    Power iteration would not do: where B = 0 every eigenvalue of the part of H that couples A and
    B has one of the other sign and equal size beside it. loss: makes the loss, a Tensor, at the
    present weights. Raises ValueError for a model without trained parameters or not in float64, and
    settings out of range.
    """
    require_count("most_steps", most_steps, 1)
    require_finite("tolerance", tolerance, above=True)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    _require_float64(trained)
    shapes = {name: p.shape for name, p in trained}
    start = _flat({name: rng.standard_normal(shape) for name, shape in shapes.items()})
    basis, diagonal, beside = [start / np.linalg.norm(start)], [], []
    for step in range(1, most_steps + 1):
        product = _flat(hessian_times(model, loss, _named(basis[-1], shapes)))
        diagonal.append(float(basis[-1] @ product))
        for _ in range(2):  # rounding leaves a part along earlier directions that grows otherwise
            for earlier in basis:
                product -= (earlier @ product) * earlier
        left = float(np.linalg.norm(product))
        T = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        values, vectors = np.linalg.eigh(T)
        found = Eigenvalue(float(values[-1]), left * abs(float(vectors[-1, -1])), step)
        scale = np.abs(values).max()
        if found.residual <= tolerance * abs(found.value) or left <= 1e-12 * scale:
            break
        if step == start.size:  # the whole space was seen
            break
        beside.append(left)
        basis.append(product / left)
    return found


def _require_float64(trained: Sequence[tuple[str, Parameter]]) -> None:
    if not trained:
        raise ValueError("got a model in which nothing is trained, expected some parameters")
    narrow = [(n, p.dtype) for n, p in trained if p.dtype != np.float64]
    if narrow:
        raise ValueError(f"got {narrow[0][0]} in {narrow[0][1]}, expected float64 (in_float64)")


def _flat(a: Vector) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for array in a.values()])


def _named(flat: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    edges = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    parts = np.split(flat, edges)
    return {n: part.reshape(shapes[n]) for n, part in zip(shapes, parts, strict=True)}

"""Forecast: how much will two adapters disturb each other, before they are joined?

Where ΔW_b answers the inputs of a's task, a is disturbed by what b writes there. So what counts is
||ΔW_b x|| beside ||ΔW_a x|| on a's inputs x; that two changes are orthogonal as matrices says
nothing of the inputs that they meet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from minilora.autograd import Tensor, no_grad
from minilora.backend import to_numpy
from minilora.lora.adapter import Adapter
from minilora.lora.deltas import (
    Factors,
    delta_norm,
    factors_of,
    inner_product,
    modules_of,
    subspace_overlap,
    thin_svd,
)
from minilora.nn import Module

Inputs = Mapping[str, np.ndarray]
"""Module -> inputs (n, in) that it met."""


@dataclass(frozen=True)
class Disturbance:
    """What b does to a, over all modules of both.

    on_inputs: sqrt(sum ||ΔW_b x||^2 / sum ||ΔW_a x||^2) over a's inputs x and all modules: the size
    of what b adds to what a adds. cosine: of the two ΔW, all entries of all modules as one vector.
    reads, writes: the mean over shared modules of the overlap of the rows' and the columns'
    subspaces, 0 for orthogonal ones and 1 where one lies in the other; None without a shared
    module.
    """

    on_inputs: float
    cosine: float
    reads: float | None
    writes: float | None

    def to_dict(self) -> dict:
        """JSON-ready."""
        return asdict(self)


def disturbance(
    a: Adapter, b: Adapter, inputs: Inputs, weights: tuple[float, float] = (1.0, 1.0)
) -> Disturbance:
    """How b at its weight disturbs a at its own; inputs: a's, of every module of either.

    Raises ValueError for a module without inputs, or inputs of another width.
    """
    sums, products, reads, writes = [0.0, 0.0], 0.0, [], []
    norms = [0.0, 0.0]
    for module in modules_of(a, b):
        pair = [factors_of(one, module) for one in (a, b)]
        x = _inputs_of(inputs, module, next(one for one in pair if one is not None))
        for i, one in enumerate(pair):
            if one is not None:
                sums[i] += response(one, x) ** 2
                norms[i] += delta_norm(one) ** 2
        if None not in pair:
            products += inner_product(*pair)
            one, other = (thin_svd(factors) for factors in pair)
            reads.append(subspace_overlap(one.Vt.T, other.Vt.T))
            writes.append(subspace_overlap(one.U, other.U))
    own, others = (math.sqrt(x) * abs(weight) for x, weight in zip(sums, weights, strict=True))
    length = math.sqrt(norms[0] * norms[1])
    return Disturbance(
        others / own if own else math.inf,
        products / length if length else 0.0,
        _mean(reads),
        _mean(writes),
    )


def response(factors: Factors, x: np.ndarray) -> float:
    """||ΔW x|| over all inputs x (n, in), as the root of the sum of squares.

    ||X A^T (s B)^T||^2 = tr(G_A G_B) with G_A = (X A^T)^T (X A^T), G_B = s^2 B^T B, both (r, r).
    """
    down = x.astype(np.float64) @ factors.A.astype(np.float64).T
    B = factors.B.astype(np.float64) * factors.scaling
    return math.sqrt(max(float(((down.T @ down) * (B.T @ B)).sum()), 0.0))


def _inputs_of(inputs: Inputs, module: str, factors: Factors) -> np.ndarray:
    x, width = inputs.get(module), factors.A.shape[1]
    if x is None or x.ndim != 2 or x.shape[1] != width:
        got = "none" if x is None else f"shape {x.shape}"
        raise ValueError(f"{module} got {got} as inputs, expected (n, {width})")
    return x


def _mean(values: list[float | None]) -> float | None:
    known = [x for x in values if x is not None]
    return sum(known) / len(known) if known else None


# ------------------------------------------------------------------------------------- the inputs


class Recorder(Module):
    """A layer that keeps what it is given, and otherwise is the layer that it stands for."""

    def __init__(self, layer: Module) -> None:
        super().__init__()
        self.layer, self.seen = layer, []

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> what the layer makes of it."""
        data = to_numpy(x.data)
        self.seen.append(np.array(data.reshape(-1, data.shape[-1])))
        return self.layer(x)


def layer_inputs(
    model: Module, rows: Iterable[np.ndarray], modules: Iterable[str]
) -> dict[str, np.ndarray]:
    """What these modules meet when the model reads each row of token ids: module -> (n, in).

    The model is as it was afterwards, also when reading fails. Raises ValueError for no row.
    """
    rows, recorders = list(rows), {}
    if not rows:
        raise ValueError("got 0 rows to read, expected at least 1")
    try:
        for name in modules:
            recorders[name] = Recorder(model.get_submodule(name))
            model.set_submodule(name, recorders[name])
        with no_grad():
            for ids in rows:
                model(np.asarray(ids)[None])
    finally:
        for name, recorder in recorders.items():
            model.set_submodule(name, recorder.layer)
    return {name: np.concatenate(recorder.seen) for name, recorder in recorders.items()}

"""Bottleneck adapters (Houlsby et al. 2019): small networks that are run after frozen layers.

What LoRA is compared with. A bottleneck is not linear, so it can't be added into a weight: it is
run for every token, for as long as the model is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from minilora.autograd import Tensor
from minilora.autograd import functional as F
from minilora.backend import get_array_module
from minilora.lora import AttachError, TargetError, is_adapted
from minilora.lora.layer import set_writeable
from minilora.nn import Linear, Module, Parameter

PLACES = ("o_proj", "down_proj")
"""The last layer of attention and of the MLP: what follows them stands before the residual sum."""

START = 0.01
"""Standard deviation of both weights at the start (Houlsby et al. 2019, Sec. 3.6)."""


class BottleneckLinear(Module):
    """y = h + gelu(h D^T + d) U^T + u with h = x W^T + b, around a frozen Linear.

    W (out, in) is `base_layer`'s; D (size, out), d (size,), U (out, size), u (out,) are trained.
    D and U start as N(0, 0.01^2) and the biases at zero, so that a fresh layer computes nearly
    what the Linear did. Houlsby et al. 2019, Fig. 2.
    """

    def __init__(self, base_layer: Linear, size: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        width = base_layer.out_features
        self.base_layer = base_layer
        self.down = Linear(width, size, rng, bias=True, std=START)
        self.up = Linear(size, width, rng, bias=True, std=START)
        like = base_layer.weight.data
        xp = get_array_module(like)
        for parameter in (*self.down.parameters(), *self.up.parameters()):
            parameter.data = xp.asarray(parameter.data, dtype=like.dtype)
        self.train(base_layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        h = self.base_layer(x)
        return h + self.up(F.gelu(self.down(h)))

    def matrix(self) -> None:
        """None: there is no matrix that does the same (see `Linear.matrix`)."""
        return None


@dataclass(frozen=True)
class _Frozen:
    """A base Parameter and what it was before `attach_bottlenecks`."""

    parameter: Parameter
    requires_grad: bool
    writeable: bool


def bottlenecks(model: Module) -> dict[str, BottleneckLinear]:
    """Dotted name -> BottleneckLinear, in the model's order."""
    return {n: m for n, m in model.named_modules() if isinstance(m, BottleneckLinear)}


def attach_bottlenecks(
    model: Module, size: int, rng: np.random.Generator, places: Sequence[str] = PLACES
) -> Module:
    """Wrap every Linear whose name ends in one of `places`, in place, and freeze the rest.

    size: width of the bottleneck. Each adds 2 size out + size + out trained numbers. Base
    parameters lose their gradients, and their host arrays refuse writes until
    `detach_bottlenecks`. Returns `model`. Raises ValueError for a size below 1 or no generator,
    AttachError for an adapted model, TargetError for a place that fits no Linear, all before
    anything changes.
    """
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
        raise ValueError(f"got size {size!r}, expected a whole number of at least 1")
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"got rng {rng!r}, expected a numpy.random.Generator")
    if is_adapted(model) or bottlenecks(model):
        raise AttachError("got a model with an adapter, expected a plain one; detach it first")
    linears = {name: m for name, m in model.named_modules() if isinstance(m, Linear)}
    chosen = {n: m for n, m in linears.items() if n.rpartition(".")[2] in places}
    missing = [p for p in places if not any(n.rpartition(".")[2] == p for n in chosen)]
    if missing or not chosen:
        known = sorted({name.rpartition(".")[2] for name in linears})
        raise TargetError(f"got places {missing}, which fit no Linear; expected some of {known}")
    layers = {name: BottleneckLinear(m, int(size), rng) for name, m in chosen.items()}
    frozen = []
    for parameter in model.parameters():
        writeable = set_writeable(parameter.data, False)
        frozen.append(_Frozen(parameter, parameter.requires_grad, writeable))
        parameter.requires_grad, parameter.read_only = False, True
        parameter.zero_grad()
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    model._bottleneck_frozen = frozen
    return model


def detach_bottlenecks(model: Module) -> Module:
    """Take the bottlenecks off, in place: the Linears, arrays and flags of before.

    Raises AttachError where `attach_bottlenecks` put none on this model.
    """
    layers = bottlenecks(model)
    if not layers or not hasattr(model, "_bottleneck_frozen"):
        raise AttachError("got a model without bottlenecks, expected one after attach_bottlenecks")
    for name, layer in layers.items():
        model.set_submodule(name, layer.base_layer)
    for was in model._bottleneck_frozen:
        was.parameter.requires_grad, was.parameter.read_only = was.requires_grad, False
        if was.writeable:
            set_writeable(was.parameter.data, True)
    del model._bottleneck_frozen
    return model

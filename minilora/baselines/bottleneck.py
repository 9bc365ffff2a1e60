"""Bottleneck adapters (Houlsby et al. 2019): small networks that are run after frozen layers.

What LoRA is compared with. A bottleneck is not linear, so it can't be added into a weight: it is
run for every token, for as long as the model is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from minilora.autograd import Tensor
from minilora.autograd import functional as F
from minilora.backend import get_array_module
from minilora.limits import require_count
from minilora.lora import AttachError, TargetError
from minilora.lora.fitting import require_plain
from minilora.nn import Linear, Module
from minilora.nn.freeze import Freeze

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


def attach_bottlenecks(
    model: Module, size: int, rng: np.random.Generator, places: Sequence[str] = PLACES
) -> BottleneckAttachment:
    """Wrap every Linear whose name ends in one of `places`, in place, and freeze the rest.

    size: width of the bottleneck. Each adds 2 size out + size + out trained numbers. Base
    parameters lose their gradients, and their host arrays refuse writes, until the handle that is
    returned gives them back. Raises ValueError for a size below 1 or no generator, AttachError
    for a model that carries an adapter, TargetError for a place that fits no Linear, all before
    anything changes.
    """
    require_count("size", size, 1)
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"got rng {rng!r}, expected a numpy.random.Generator")
    require_plain(model)
    linears = {name: m for name, m in model.named_modules() if isinstance(m, Linear)}
    chosen = {n: m for n, m in linears.items() if n.rpartition(".")[2] in places}
    missing = [p for p in places if not any(n.rpartition(".")[2] == p for n in chosen)]
    if missing or not chosen:
        known = sorted({name.rpartition(".")[2] for name in linears})
        raise TargetError(f"got places {missing}, which fit no Linear; expected some of {known}")
    layers = {name: BottleneckLinear(m, int(size), rng) for name, m in chosen.items()}
    freeze = Freeze(model)
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return BottleneckAttachment(model, layers, freeze)


class BottleneckAttachment:
    """Bottlenecks on a model, made by `attach_bottlenecks`: it owns the layers and the freeze.

    model: the one that they are on. layers: dotted name -> BottleneckLinear, in the model's order.
    """

    def __init__(
        self, model: Module, layers: Mapping[str, BottleneckLinear], freeze: Freeze
    ) -> None:
        self.model, self.layers, self._freeze = model, dict(layers), freeze

    def detach(self) -> Module:
        """Give the base back as it was, in place; returns the model.

        Raises AttachError where they are off already.
        """
        if self._freeze is None:
            raise AttachError("detach got bottlenecks that are off their model already")
        for name, layer in self.layers.items():
            self.model.set_submodule(name, layer.base_layer)
        self._freeze.release()
        self._freeze.restore_modes()
        self._freeze = None
        return self.model

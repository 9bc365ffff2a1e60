"""Gradient-check cases for bottleneck adapters: every weight random and far from its start.

At the start U is nearly zero, and with it the gradient of D: a mistake in it would not show.
"""

from __future__ import annotations

import numpy as np

from minilora.baselines.bottleneck import BottleneckLinear, attach_bottlenecks
from minilora.gradients.case import Case
from minilora.gradients.model_cases import (
    apply,
    loss_of,
    module_case,
    randomise_,
    tiny_config,
    token_batch,
)
from minilora.nn import Linear, Transformer


def bottleneck_model(size: int, seed: int, tied: bool = True) -> Transformer:
    """A tiny float64 Transformer with bottlenecks, all weights random."""
    rng = np.random.default_rng([seed, size])
    model = randomise_(Transformer(tiny_config(tied), rng), rng)
    attach_bottlenecks(model, size, rng)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.4 * rng.standard_normal(parameter.shape)
    return model


def bottleneck_cases(seed: int = 0) -> list[Case]:
    """A lone BottleneckLinear and whole Transformers with them, numbers drawn from `seed`."""
    rng = np.random.default_rng([seed, 3])
    ids, labels = token_batch(rng, tiny_config().vocab_size)
    base = randomise_(Linear(5, 7, rng, bias=True), rng).requires_grad_(False)
    layer = BottleneckLinear(base, 3, rng)
    for part in (layer.down, layer.up):
        part.weight.data = rng.standard_normal(part.weight.shape)
        part.bias.data = rng.standard_normal(part.bias.shape)
    x = {"x": rng.standard_normal((2, 3, 5))}
    tied, untied = bottleneck_model(3, seed), bottleneck_model(2, seed, tied=False)
    return [
        module_case("BottleneckLinear", "", layer, apply, x),
        module_case("bottlenecks", "tied", tied, loss_of, ids=ids, labels=labels),
        module_case("bottlenecks", "untied", untied, loss_of, ids=ids, labels=labels),
    ]

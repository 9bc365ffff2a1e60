"""Gradient-check cases for adapted models: A and B random and non-zero, lora_alpha not r.

With B = 0 the gradient of A is zero and a mistake in it would not show; with lora_alpha = r a
forgotten scaling would not.
"""

from __future__ import annotations

import numpy as np

from minilora.autograd import Tensor
from minilora.gradients.model_cases import PROBED, model_case, randomise_, tiny_config, token_batch
from minilora.gradients.op_cases import Case
from minilora.lora.attach import attach
from minilora.lora.config import ALL_LINEAR, LoRAConfig
from minilora.lora.layer import LoRALinear
from minilora.nn import Linear, Module, Transformer

CONFIGS = {
    "q and v": LoRAConfig(r=2, lora_alpha=3, target_modules=("q_proj", "v_proj")),
    "all linear": LoRAConfig(r=3, lora_alpha=5, target_modules=ALL_LINEAR),
    "all linear, rslora, dropout": LoRAConfig(
        r=3, lora_alpha=2, target_modules=ALL_LINEAR, use_rslora=True, lora_dropout=0.3
    ),
}
"""Variant -> the adapter that is attached."""


def adapted_model(config: LoRAConfig, seed: int, tied: bool = True) -> Transformer:
    """A tiny float64 Transformer with an adapter whose A and B are both random."""
    rng = np.random.default_rng([seed, config.r])
    model = randomise_(Transformer(tiny_config(tied), rng), rng)
    attach(model, config, rng)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Small enough to leave the base's activations in range, far from zero.
            parameter.data = 0.4 * rng.standard_normal(parameter.shape)
            assert "lora_" in name
    return model


def fixed_dropout_(model: Module) -> Module:
    """Set every dropout generator back to the same state, so that two calls draw the same masks."""
    for _, module in model.named_modules():
        if isinstance(module, LoRALinear):
            module.dropout_rng = np.random.default_rng(9)
    return model


def adapted_cases(seed: int = 0) -> list[Case]:
    """A lone LoRALinear and whole adapted Transformers, with numbers drawn from `seed`."""
    rng = np.random.default_rng([seed, 2])
    ids, labels = token_batch(rng, tiny_config().vocab_size)
    base = randomise_(Linear(5, 7, rng, bias=True), rng).requires_grad_(False)
    layer = LoRALinear(base, LoRAConfig(r=2, lora_alpha=3), rng)
    layer.lora_A.data = rng.standard_normal((2, 5))
    layer.lora_B.data = rng.standard_normal((7, 2))
    inputs = {
        "x": rng.standard_normal((2, 3, 5)),
        "lora_A": layer.lora_A,
        "lora_B": layer.lora_B,
    }

    def apply(target: Module, x: Tensor, **_: Tensor) -> Tensor:
        return target(x)

    def loss(model: Module) -> Tensor:
        return fixed_dropout_(model).loss(ids, labels)

    return [
        Case("LoRALinear", "", layer, apply, inputs, PROBED),
        *(
            model_case("adapted", variant, adapted_model(config, seed, tied), loss)
            for (variant, config), tied in zip(CONFIGS.items(), (True, False, True), strict=True)
        ),
    ]

"""Gradient-check cases over a stored base: the adapter's gradients, and x's through the blocks.

In float64: the stored numbers are read as float32 and widened, so the finite differences see the
same weights as the vjps. The stored weights themselves have no gradient.
"""

from __future__ import annotations

import numpy as np

from minilora.autograd import Tensor
from minilora.autograd import functional as F
from minilora.autograd.quantize import quantize
from minilora.autograd.stored_array import FORMATS
from minilora.gradients.case import Case
from minilora.gradients.model_cases import PROBED, loss_of, module_case, randomise_, token_batch
from minilora.lora.attach import attach
from minilora.lora.config import ALL_LINEAR, LoRAConfig
from minilora.nn import Transformer, TransformerConfig, store_base

WIDTH, OUT, RANK = 64, 5, 2
ADAPTED = {"float16": ("q_proj", "v_proj"), "q4": ALL_LINEAR, "nf4": ALL_LINEAR}
"""Base dtype -> targets of the adapter on it."""


def blocky_config(tied: bool) -> TransformerConfig:
    """Widths in blocks of 32, but for o_proj's 12 inputs, which stay float16 in a q4 base.

    down_proj's 64 inputs alone are a block of nf4.
    """
    return TransformerConfig(
        vocab_size=11,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=4,
        max_position_embeddings=16,
        rms_norm_eps=1e-3,
        tie_word_embeddings=tied,
    )


def adapted_stored_model(dtype: str, seed: int) -> Transformer:
    """A tiny float64 Transformer with a stored base and an adapter of random A and B."""
    rng = np.random.default_rng([seed, len(dtype)])
    model = randomise_(Transformer(blocky_config(tied=dtype == "q4"), rng), rng)
    store_base(model, dtype)
    attach(model, LoRAConfig(r=3, lora_alpha=5, target_modules=ADAPTED[dtype]), rng)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.2 * rng.standard_normal(parameter.shape)
    return model


def stored_cases(seed: int = 0) -> list[Case]:
    """`linear` and `lora_linear` over each format, and adapted models over each base dtype.

    lora_linear once with so many rows that s B A is folded into the numbers, once with so few
    that it is not.
    """
    rng = np.random.default_rng([seed, 3])
    cases = []
    for format in FORMATS:
        weight = Tensor(quantize(rng.standard_normal((OUT, WIDTH)), format))
        x = {"x": rng.standard_normal((2, 3, WIDTH))}
        cases.append(Case("linear", f"stored {format}", F.linear, x, {"weight": weight}))
        for variant, rows in (("folded", 3), ("not folded", 2)):
            inputs = {
                "x": rng.standard_normal((2, rows, WIDTH)),
                "lora_A": rng.standard_normal((RANK, WIDTH)),
                "lora_B": rng.standard_normal((OUT, RANK)),
            }
            constants = {"weight": weight, "scaling": 1.7}
            name = f"stored {format}, {variant}"
            cases.append(
                Case("lora_linear", name, F.lora_linear, inputs, constants, elementwise=PROBED)
            )
    ids, labels = token_batch(rng, blocky_config(True).vocab_size)
    for dtype in ADAPTED:
        model = adapted_stored_model(dtype, seed)
        variant = f"stored base, {dtype}"
        cases.append(module_case("adapted", variant, model, loss_of, ids=ids, labels=labels))
    return cases

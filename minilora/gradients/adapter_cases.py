"""Gradient-check cases for adapted models: A and B random and non-zero, lora_alpha not r.

With B = 0 the gradient of A is zero and a mistake in it would not show; with lora_alpha = r a
forgotten scaling would not.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from minilora.autograd import IGNORE, Tensor
from minilora.backend import Array, get_array_module
from minilora.gradients.case import Case
from minilora.gradients.model_cases import (
    apply,
    loss_of,
    module_case,
    randomise_,
    tiny_config,
    token_batch,
)
from minilora.lora.attach import attach
from minilora.lora.config import ALL_LINEAR, LoRAConfig, Vera
from minilora.lora.dora import DoraLinear
from minilora.lora.layer import LoRALinear
from minilora.nn import Linear, Module, Transformer
from minilora.nn.reading import read_past
from minilora.nn.rows import rows_of, seeing

CONFIGS = {
    "q and v": LoRAConfig(r=2, lora_alpha=3, target_modules=("q_proj", "v_proj")),
    "all linear": LoRAConfig(r=3, lora_alpha=5, target_modules=ALL_LINEAR),
    "all linear, rslora, dropout": LoRAConfig(
        r=3, lora_alpha=2, target_modules=ALL_LINEAR, use_rslora=True, lora_dropout=0.3
    ),
}
"""Variant -> the adapter that is attached."""
VERA = LoRAConfig(r=7, target_modules=ALL_LINEAR, lora_dropout=0.3, vera=Vera(3))
DORA = LoRAConfig(r=2, lora_alpha=3, target_modules=ALL_LINEAR, lora_dropout=0.3, use_dora=True)

Q, SOME = ("q_proj",), (7, 2, 0, 4, 5, 3)
TABLES = {
    "rows, tied": (LoRAConfig(2, 3, Q, trainable_token_indices={"embed_tokens": SOME}), True),
    "rows of both": (
        LoRAConfig(2, 3, Q, trainable_token_indices={"embed_tokens": SOME, "lm_head": (2, 4)}),
        False,
    ),
    "whole, tied": (LoRAConfig(2, 3, Q, modules_to_save=("embed_tokens", "lm_head")), True),
    "whole head": (LoRAConfig(2, 3, Q, modules_to_save=("lm_head",)), False),
    "products, tied": (LoRAConfig(2, 3, (*Q, "embed_tokens", "lm_head")), True),
    "product of the embedding": (LoRAConfig(2, 3, (*Q, "embed_tokens")), False),
}
"""Variant -> the adapter, and whether the model is tied."""


def adapted_model(config: LoRAConfig, seed: int, tied: bool = True) -> Transformer:
    """A tiny float64 Transformer with an adapter whose A and B are both random."""
    rng = np.random.default_rng([seed, config.r])
    model = randomise_(Transformer(tiny_config(tied), rng), rng)
    attach(model, config, rng)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Small enough to leave the base's activations in range, far from zero.
            parameter.data = 0.4 * rng.standard_normal(parameter.shape)
            assert any(part in name for part in ("lora_", "vera_lambda_", ".table.", ".head."))
    return model


def pissa_model(seed: int) -> Transformer:
    """As `adapted_model`, moved away from PiSSA's start, where the update is zero."""
    rng = np.random.default_rng([seed, 5])
    model = randomise_(Transformer(tiny_config(True), rng), rng)
    attach(model, CONFIGS["q and v"], rng, pissa=True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.2 * rng.standard_normal(parameter.shape)
    return model


def loss_with_fixed_dropout(model: Module, ids: Array, labels: Array) -> Tensor:
    """A model's mean loss, with the same dropout masks at each call."""
    for _, module in model.named_modules():
        if isinstance(module, LoRALinear):
            module.dropout_rng = np.random.default_rng(9)
    return model.loss(ids, labels)


class HeldDora(DoraLinear):
    """A DoraLinear whose lengths of rows are `held`, on whatever device and in whatever dtype."""

    held: Array

    def row_norms(self) -> Array:
        """The held ones."""
        like = self.lora_B.data
        return get_array_module(like).asarray(self.held, dtype=like.dtype)


def hold_norms(model: Module) -> None:
    """DoRA's lengths of rows stay those of now, since its gradient takes them as constants."""
    for _, module in model.named_modules():
        if isinstance(module, DoraLinear):
            held = module.row_norms()
            module.__class__ = HeldDora
            module.held = held


INVOCATION = (1, 4)
PROMPTS = (np.array([2, 7, 5]), np.array([9]))
"""Of unlike lengths, so that one row is padded."""


def loss_after_prompts(model: Module, ids: Array, labels: Array) -> Tensor:
    """An activated adapter's loss on answers, over constant keys and values of prompts."""
    rows = rows_of(len(ids)).all_acting(True)
    past = read_past(model, PROMPTS)
    with seeing(rows):
        return model.loss(ids, labels, past=past)


def loss_with_invocations(model: Module, ids: Array, labels: Array) -> Tensor:
    """An activated adapter's loss on whole rows, in which it acts from the invocation on."""
    return model.loss(np.concatenate([[[3], [8]], [INVOCATION] * 2, ids], 1), _padded(labels))


def _padded(labels: Array) -> Array:
    return np.concatenate([np.full((len(labels), 3), IGNORE), labels], axis=1)


def adapted_cases(seed: int = 0) -> list[Case]:
    """A lone LoRALinear and whole adapted Transformers, with numbers drawn from `seed`."""
    rng = np.random.default_rng([seed, 2])
    ids, labels = token_batch(rng, tiny_config().vocab_size)
    base = randomise_(Linear(5, 7, rng, bias=True), rng).requires_grad_(False)
    layer = LoRALinear(base, LoRAConfig(r=2, lora_alpha=3), rng)
    layer.lora_A.data = rng.standard_normal((2, 5))
    layer.lora_B.data = rng.standard_normal((7, 2))
    cases = [module_case("LoRALinear", "", layer, apply, {"x": rng.standard_normal((2, 3, 5))})]
    for (variant, config), tied in zip(CONFIGS.items(), (True, False, True), strict=True):
        model = adapted_model(config, seed, tied)
        cases.append(
            module_case("adapted", variant, model, loss_with_fixed_dropout, ids=ids, labels=labels)
        )
    cases.append(
        module_case("adapted", "pissa", pissa_model(seed), loss_of, ids=ids, labels=labels)
    )
    model = adapted_model(DORA, seed)
    hold_norms(model)
    cases.append(
        module_case("adapted", "dora, dropout", model, loss_with_fixed_dropout, ids=ids,
                    labels=labels)
    )  # fmt: skip
    cases.append(
        module_case("adapted", "vera, dropout", adapted_model(VERA, seed), loss_with_fixed_dropout,
                    ids=ids, labels=labels)
    )  # fmt: skip
    for variant, (config, tied) in TABLES.items():
        cases.append(
            module_case("adapted", f"tables: {variant}", adapted_model(config, seed, tied), loss_of,
                        ids=ids, labels=labels)
        )  # fmt: skip
    everywhere = dataclasses.replace(CONFIGS["all linear"], invocation=INVOCATION)
    for variant, target in (
        ("activated, after prompts", loss_after_prompts),
        ("activated, whole rows", loss_with_invocations),
    ):
        model = adapted_model(everywhere, seed)
        cases.append(module_case("adapted", variant, model, target, ids=ids, labels=labels))
    return cases

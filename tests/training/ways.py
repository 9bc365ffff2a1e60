"""Every way to train beside plain LoRA, on tiny models: for the tests that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.lora import Attachment, LoRAConfig, Vera, attach
from minilora.nn import Transformer

TARGETS = ("q_proj", "v_proj", "down_proj")


def _attached(**settings) -> Callable[[Transformer], Attachment]:
    how = {name: settings.pop(name) for name in ("pissa",) if name in settings}
    config = LoRAConfig(**{"r": 2, "lora_alpha": 3, "target_modules": TARGETS, **settings})
    return lambda model: attach(model, config, np.random.default_rng(1), **how)


def _frozen(model: Transformer) -> Attachment:
    handle = _attached()(model)
    handle.freeze_A()
    return handle


WAYS: dict[str, Callable[[Transformer], Attachment]] = {
    "rslora": _attached(use_rslora=True, lora_dropout=0.2),
    "lora-fa": _frozen,
    "dora": _attached(use_dora=True, lora_dropout=0.2),
    "pissa": _attached(pissa=True),
    "vera": _attached(r=6, vera=Vera(3), lora_dropout=0.2),
    "rows": _attached(trainable_token_indices={"embed_tokens": (1, 5, 2, 9)}),
    "whole": _attached(modules_to_save=("embed_tokens", "lm_head")),
    "products": _attached(target_modules=(*TARGETS, "embed_tokens", "lm_head")),
}
"""Way -> what puts its fresh adapter on a plain model."""


def stirred(handle: Attachment) -> Attachment:
    """Away from the start, where for most ways the update is zero."""
    rng = np.random.default_rng(2)
    for parameter in handle.model.parameters():
        if parameter.requires_grad:
            noise = 0.2 * rng.standard_normal(parameter.shape)
            parameter.data = (parameter.data + noise).astype(np.float32)
    return handle

"""The AdamW of a run, made in one place, so that whoever trains it again has the same."""

from __future__ import annotations

from minilora.nn import Module
from minilora.training.config import TrainingConfig
from minilora.training.optim import AdamW


def adamw_for(model: Module, config: TrainingConfig) -> AdamW:
    """AdamW over what the model trains, with the config's betas, decay and ratio of rates.

    Every B learns at loraplus_lr_ratio times the rate of A and of all else (Hayou et al. 2024,
    "LoRA+", Sec. 4; PEFT's name for the ratio). Raises ValueError for a ratio other than 1 where
    no B is trained, and where nothing is.
    """
    ratio, scales = config.loraplus_lr_ratio, {}
    if ratio != 1.0:
        named = model.named_parameters()
        scales = {name: ratio for name, p in named if p.requires_grad and name.endswith("lora_B")}
        if not scales:
            raise ValueError(
                f"got loraplus_lr_ratio {ratio:g} for a model that trains no lora_B, expected 1"
            )
    return AdamW(
        model.named_parameters(),
        betas=config.betas,
        weight_decay=config.weight_decay,
        lr_scales=scales,
    )

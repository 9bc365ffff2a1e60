"""LoRA around a model that does not know of it: attach, merge, save, load (PEFT's format)."""

from minilora.lora.attach import AttachError, attach, detach, merge, merge_and_unload, unmerge
from minilora.lora.config import ALL_LINEAR, LoRAConfig
from minilora.lora.layer import LoRALinear, MergeError
from minilora.lora.state import (
    adapter_state,
    base_fingerprint,
    base_state,
    is_adapted,
    lora_layers,
    merged_state,
    trainable_parameters,
)
from minilora.lora.targets import TargetError

__all__ = [
    "ALL_LINEAR",
    "AttachError",
    "LoRAConfig",
    "LoRALinear",
    "MergeError",
    "TargetError",
    "adapter_state",
    "attach",
    "base_fingerprint",
    "base_state",
    "detach",
    "is_adapted",
    "lora_layers",
    "merge",
    "merge_and_unload",
    "merged_state",
    "trainable_parameters",
    "unmerge",
]

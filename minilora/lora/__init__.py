"""LoRA around a model that does not know of it: attach, merge, save, load (PEFT's format)."""

from minilora.lora.adapter import BaseMismatchError, load_adapter, save_adapter
from minilora.lora.attach import AttachError, attach, detach, merge, merge_and_unload, unmerge
from minilora.lora.config import ALL_LINEAR, LoRAConfig
from minilora.lora.layer import LoRALinear, MergeError
from minilora.lora.peft_format import AdapterError, AdapterFolder, read_adapter
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
    "AdapterError",
    "AdapterFolder",
    "AttachError",
    "BaseMismatchError",
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
    "load_adapter",
    "lora_layers",
    "merge",
    "merge_and_unload",
    "merged_state",
    "read_adapter",
    "save_adapter",
    "trainable_parameters",
    "unmerge",
]

"""LoRA around a model that does not know of it, and the Adapter, which needs no model."""

from minilora.lora.adapter import Adapter
from minilora.lora.attach import Attachment, attach
from minilora.lora.base import BaseMark, mark_base
from minilora.lora.compose import Composition, combine, take_out
from minilora.lora.config import ALL_LINEAR, LoRAConfig, Vera
from minilora.lora.fitting import AttachError, BaseMismatchError
from minilora.lora.layer import LoRALinear, MergeError
from minilora.lora.peft_format import AdapterError
from minilora.lora.state import (
    adapter_state,
    base_fingerprint,
    base_state,
    is_adapted,
    lora_layers,
    trainable_parameters,
)
from minilora.lora.targets import TargetError

__all__ = [
    "ALL_LINEAR",
    "Adapter",
    "AdapterError",
    "AttachError",
    "Attachment",
    "BaseMark",
    "BaseMismatchError",
    "Composition",
    "LoRAConfig",
    "LoRALinear",
    "MergeError",
    "TargetError",
    "Vera",
    "adapter_state",
    "attach",
    "base_fingerprint",
    "base_state",
    "combine",
    "is_adapted",
    "lora_layers",
    "mark_base",
    "take_out",
    "trainable_parameters",
]

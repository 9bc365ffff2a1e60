"""Layers and the Transformer; nothing here knows of LoRA."""

from minilora.nn.base_dtype import (
    BASE_DTYPES,
    StoredParameter,
    bytes_by_format,
    formats_for,
    require_base_dtype,
    store_base,
)
from minilora.nn.finite import NotFiniteError, quiet_overflow, require_finite_logits
from minilora.nn.generate import generate, next_logits
from minilora.nn.layers import Embedding, Linear, RMSNorm
from minilora.nn.module import Module, ModuleList, Parameter
from minilora.nn.transformer import Transformer, TransformerConfig

__all__ = [
    "BASE_DTYPES",
    "Embedding",
    "Linear",
    "Module",
    "ModuleList",
    "NotFiniteError",
    "Parameter",
    "RMSNorm",
    "StoredParameter",
    "Transformer",
    "TransformerConfig",
    "bytes_by_format",
    "formats_for",
    "generate",
    "next_logits",
    "quiet_overflow",
    "require_base_dtype",
    "require_finite_logits",
    "store_base",
]

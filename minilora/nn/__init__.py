"""Layers and the Transformer; nothing here knows of LoRA."""

from minilora.nn.generate import generate
from minilora.nn.layers import Embedding, Linear, RMSNorm
from minilora.nn.module import Module, ModuleList, Parameter
from minilora.nn.transformer import Transformer, TransformerConfig

__all__ = [
    "Embedding",
    "Linear",
    "Module",
    "ModuleList",
    "Parameter",
    "RMSNorm",
    "Transformer",
    "TransformerConfig",
    "generate",
]

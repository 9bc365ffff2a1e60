"""One more token for each row: what `Transformer.hidden` computes, on arrays alone.

A single position is little work for BLAS, so in a small model most of a token's time is Python's.
This is the same block without Tensors: no shape checks, no tape, and buffers that the next layer
uses again. `generate` reads the prompt with the model and goes on from its caches with this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from minilora.autograd import Tensor
from minilora.autograd import functional as F
from minilora.autograd.pointwise import row_dot
from minilora.backend import Array, get_array_module
from minilora.nn.layers import Linear, RMSNorm
from minilora.nn.module import Module
from minilora.nn.transformer import Block, LayerCache, Transformer


def _product(layer: Linear | Module) -> Callable[[Array], Array]:
    """h (B, in) -> (B, out) by a layer, as one matrix product where it is one."""
    matrix = layer.matrix() if hasattr(layer, "matrix") else None
    if matrix is None:  # a bias, or weights that are made anew for each product
        return lambda h: layer(Tensor(h)).data
    columns, xp = matrix.T, get_array_module(matrix)
    return lambda h: xp.matmul(h, columns)


def _normalised(x: Array, norm: RMSNorm) -> Array:
    """`rms_norm` of x (B, C)."""
    rms = row_dot(x, x)
    rms *= 1.0 / x.shape[-1]
    rms += norm.eps
    get_array_module(x).sqrt(rms, out=rms)
    h = x / rms
    h *= norm.weight.data
    return h


class _BlockStep:
    """A block at one position a row, with that layer's keys and values."""

    def __init__(self, block: Block, cache: LayerCache) -> None:
        attention, mlp = block.self_attn, block.mlp
        config = attention.config
        self.norms = block.input_layernorm, block.post_attention_layernorm
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        self.q, self.k, self.v, self.o = (_product(getattr(attention, n)) for n in names)
        self.gate, self.up, self.down = map(_product, (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        self.cache, self.dim = cache, config.head_dim
        self.groups = config.num_key_value_heads
        self.keys = cache.keys.transpose(0, 2, 3, 1)  # (B, Hkv, dh, S)
        self.values = cache.values.transpose(0, 2, 1, 3)  # (B, Hkv, S, dh)
        self.scale = 1.0 / math.sqrt(self.dim)

    def _turned(self, x: Array, cos: Array, sin: Array) -> Array:
        """x (B, heads, dh) turned by this position's angles, cos and sin (2, dh/2)."""
        halves = x.reshape(len(x), -1, 2, self.dim // 2)
        y = halves * cos
        y += halves[:, :, ::-1] * sin
        return y

    def __call__(self, x: Array, turn: tuple[Array, Array], hidden: Array | None) -> None:
        """Add the block's two branches to x (B, C), in place.

        hidden (B, 1, 1, S): minus infinity at padding, 0 elsewhere; None where there is none.
        """
        xp, rows, at = get_array_module(x), len(x), self.cache.length
        h = _normalised(x, self.norms[0])
        self.cache.keys[:, at] = self._turned(self.k(h), *turn).reshape(rows, -1, self.dim)
        self.cache.values[:, at] = self.v(h).reshape(rows, -1, self.dim)
        self.cache.length = at + 1
        q = self._turned(self.q(h), *turn).reshape(rows, self.groups, -1, self.dim)
        q *= self.scale
        weights = xp.matmul(q, self.keys[..., : at + 1])
        if hidden is not None:
            weights += hidden[..., : at + 1]
        weights -= weights.max(axis=-1, keepdims=True)
        xp.exp(weights, out=weights)
        mixed = xp.matmul(weights, self.values[:, :, : at + 1])
        mixed /= xp.add.reduce(weights, axis=-1, keepdims=True)
        x += self.o(mixed.reshape(rows, -1))
        h = _normalised(x, self.norms[1])
        gate = self.gate(h)
        half = gate * 0.5
        act = xp.tanh(half)  # silu(gate) = gate/2 (1 + tanh(gate/2))
        act += 1.0
        act *= half
        act *= self.up(h)
        x += self.down(act)


class Decoding:
    """Steps of one token a row over filled caches; weights must not change meanwhile.

    start (B,): the number of padding positions on the left of each row, None for none.
    """

    def __init__(
        self, model: Transformer, caches: Sequence[LayerCache], start: Array | None
    ) -> None:
        config, decoder = model.config, model.model
        self.model, self.norm = model, decoder.norm
        self.embedding = decoder.embed_tokens
        self.blocks = [_BlockStep(b, c) for b, c in zip(decoder.layers, caches, strict=True)]
        self.caches = caches
        like = caches[0].keys
        xp, length = get_array_module(like), like.shape[1]
        cos, sin = F.rope_tables(np.arange(length), config.head_dim, config.rope_theta)
        shape = (length, 2, config.head_dim // 2)
        self.cos, self.sin = (xp.asarray(t.reshape(shape), like.dtype) for t in (cos, sin))
        self.hidden = None
        if start is not None:
            padded = xp.arange(length) < xp.asarray(start)[:, None]
            self.hidden = xp.where(padded, -math.inf, 0.0).astype(like.dtype)[:, None, None]

    def step(self, tokens: Array) -> Array:
        """Token ids (B,) -> logits (B, V) of the tokens after them."""
        at = self.caches[0].length
        x = self.embedding(tokens).data
        turn = self.cos[at], self.sin[at]
        for block in self.blocks:
            block(x, turn, self.hidden)
        return F.linear(Tensor(_normalised(x, self.norm)), self.model.head_weight).data

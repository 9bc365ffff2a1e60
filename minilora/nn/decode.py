"""The twin of `nn/transformer.py` for one more token of each row, checked against it by the tests.

A single position is little work for BLAS, so in a small model most of a token's time is Python's.
This is the same block on arrays alone: without Tensors, without shape checks, and with the same few
buffers for every layer and token. `generate` reads the prompt with the model and goes on from its
caches here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from minilora.autograd import Tensor
from minilora.autograd import functional as F
from minilora.autograd.pointwise import row_dot
from minilora.autograd.products import is_stored, take_rows
from minilora.backend import Array, get_array_module
from minilora.nn.cache import LayerCache
from minilora.nn.layers import Linear, RMSNorm
from minilora.nn.rows import Rows, rows_of, seeing
from minilora.nn.transformer import Block, Transformer, TransformerConfig

WIDE = 65536
"""Numbers in a matrix W from which several rows h (B, in) are multiplied as (W h^T)^T.

BLAS then has the long side of W where it is fastest, which is worth more than the copy that turns
the result; for a small W the copy costs more. The measurements are in data/bench/README.md.
"""


def times(matrix: Array) -> Callable[[Array, Array], Array]:
    """(h, out) -> out, in which h (B, in) W^T is written, for W (out, in)."""
    columns, xp = matrix.T, get_array_module(matrix)

    def as_it_is(h: Array, out: Array) -> Array:
        return xp.matmul(h, columns, out)

    def turned(h: Array, out: Array) -> Array:
        if len(h) == 1:
            return as_it_is(h, out)
        out[...] = xp.matmul(matrix, h.T).T
        return out

    return turned if xp is np and matrix.size >= WIDE else as_it_is


def _product(layer: Linear) -> Callable[[Array, Array], Array]:
    """(h, out) -> out, in which a layer's output for h (B, in) is written.

    A plain weight is one product; a bias, or weights that are made anew, go through the layer. One
    that treats rows differently has a product of its own.
    """
    own = getattr(layer, "row_product", None)
    if own is not None:
        return own()
    matrix = layer.matrix()
    return product_through(layer) if matrix is None else times(matrix)


def product_through(layer: Linear) -> Callable[[Array, Array], Array]:
    """(h, out) -> out, in which the layer's own output for h (B, in) is written."""

    def through_the_layer(h: Array, out: Array) -> Array:
        out[...] = layer(Tensor(h)).data
        return out

    return through_the_layer


class _Norm:
    """`rms_norm` of x (B, C), as x (w sqrt(C)) / sqrt(x . x + C eps)."""

    def __init__(self, norm: RMSNorm) -> None:
        weight = norm.weight.data
        self.weight = weight * math.sqrt(weight.size)
        self.eps = weight.size * norm.eps
        self.sqrt = get_array_module(weight).sqrt

    def __call__(self, x: Array) -> Array:
        square = row_dot(x, x)
        square += self.eps
        h = x / self.sqrt(square, out=square)
        h *= self.weight
        return h


class _Buffers:
    """Arrays that every block writes anew: nothing in them outlives a block."""

    def __init__(self, config: TransformerConfig, batch: int, like: Array) -> None:
        heads, groups, dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        xp = get_array_module(like)

        def new(*shape: int) -> Array:
            return xp.empty((batch, *shape), dtype=like.dtype)

        # q and k side by side, so that one pass turns both
        both, self.v = new((heads + groups) * dim), new(groups * dim)
        self.q, self.k = both[:, : heads * dim], both[:, heads * dim :]
        self.halves = both.reshape(batch, -1, 2, dim // 2)
        self.swapped = self.halves[:, :, ::-1]
        self.turned, self.other = xp.empty_like(self.halves), xp.empty_like(self.halves)
        turned = self.turned.reshape(batch, -1, dim)
        self.turned_q = turned[:, :heads].reshape(batch, groups, -1, dim)
        self.turned_k, self.v_heads = turned[:, heads:], self.v.reshape(batch, groups, dim)
        self.mixed = new(groups, heads // groups, dim)
        self.joined = self.mixed.reshape(batch, -1)
        self.branch = new(config.hidden_size)
        self.gate, self.up = new(config.intermediate_size), new(config.intermediate_size)
        self.act = new(config.intermediate_size)


class _BlockStep:
    """A block at one position a row, with that layer's keys and values."""

    def __init__(self, block: Block) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.norms = _Norm(block.input_layernorm), _Norm(block.post_attention_layernorm)
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        self.q, self.k, self.v, self.o = (_product(getattr(attention, n)) for n in names)
        self.gate, self.up, self.down = map(_product, (mlp.gate_proj, mlp.up_proj, mlp.down_proj))

    def hold(self, cache: LayerCache, buffers: _Buffers) -> None:
        """Take the cache to add to, and buffers for as many rows."""
        self.cache, self.buffers = cache, buffers
        self.keys = cache.keys.swapaxes(-1, -2)  # (B, Hkv, dh, S)
        self.values = cache.values  # (B, Hkv, S, dh)

    def attend(self, h: Array, turn: tuple[Array, Array], padding: Array | None) -> Array:
        """The attention branch for h (B, C): (B, C)."""
        xp, b = get_array_module(h), self.buffers
        self.q(h, b.q)
        self.k(h, b.k)
        self.v(h, b.v)
        xp.multiply(b.halves, turn[0], out=b.turned)
        xp.multiply(b.swapped, turn[1], out=b.other)
        b.turned += b.other
        length = self.cache.put(b.turned_k, b.v_heads)
        weights = xp.matmul(b.turned_q, self.keys[..., :length])
        if padding is not None:
            weights += padding[..., :length]
        weights -= weights.max(axis=-1, keepdims=True)
        xp.exp(weights, out=weights)
        xp.matmul(weights, self.values[:, :, :length], out=b.mixed)
        b.mixed /= xp.add.reduce(weights, axis=-1, keepdims=True)
        return self.o(b.joined, b.branch)

    def __call__(self, x: Array, turn: tuple[Array, Array], padding: Array | None) -> None:
        """Add the block's two branches to x (B, C), in place.

        turn: cos and sin of this position, with q's scale. padding (B, 1, 1, S), added to the
        scores: minus infinity where a position is padding, 0 elsewhere; None where nothing is.
        """
        xp, b = get_array_module(x), self.buffers
        x += self.attend(self.norms[0](x), turn, padding)
        h = self.norms[1](x)
        half = self.gate(h, b.gate)
        half *= 0.5
        act = xp.tanh(half, out=b.act)  # silu(gate) = gate/2 (1 + tanh(gate/2))
        act += 1.0
        act *= half
        act *= self.up(h, b.up)
        x += self.down(act, b.branch)


class Decoding:
    """Steps of one token a row over filled caches; weights must not change meanwhile.

    start (B,): the number of padding positions on the left of each row, None for none.
    """

    def __init__(
        self, model: Transformer, caches: Sequence[LayerCache], start: Array | None
    ) -> None:
        config, decoder, like = model.config, model.model, caches[0].keys
        xp, length = get_array_module(like), like.shape[2]
        self.norm, self.caches = _Norm(decoder.norm), caches
        table, self.head = decoder.embed_tokens.weight.data, model.head_weight
        self.embed = partial(take_rows, table)
        head = self.head.data
        self.logits = None if is_stored(head) else times(head)
        self.config = config
        self.rows, self.start, self.padding = rows_of(len(like)), start, None
        with seeing(self.rows.placed(caches[0].length, start)):
            self.blocks = [_BlockStep(block) for block in decoder.layers]
        self._set_turns(length)
        if start is not None:
            padded = xp.arange(length) < xp.asarray(start)[:, None]
            self.padding = xp.where(padded, -math.inf, 0.0).astype(like.dtype)[:, None, None]
        self._lay_out()

    def _set_turns(self, length: int) -> None:
        """cos and sin of so many positions, with q's scale."""
        config, like = self.config, self.caches[0].keys
        xp, heads = get_array_module(like), config.num_attention_heads + config.num_key_value_heads
        tables = F.rope_tables(np.arange(length), config.head_dim, config.rope_theta, heads)
        shape = (length, heads, 2, config.head_dim // 2)
        self.cos, self.sin = (xp.asarray(t.reshape(shape), like.dtype) for t in tables)
        for table in (self.cos, self.sin):
            table[:, : config.num_attention_heads] *= 1.0 / math.sqrt(config.head_dim)

    def _lay_out(self) -> None:
        """Buffers for as many rows as the caches hold."""
        like = self.caches[0].keys
        buffers = _Buffers(self.config, len(like), like)
        for block, cache in zip(self.blocks, self.caches, strict=True):
            block.hold(cache, buffers)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone (indices): the others' answers have ended."""
        indices = get_array_module(self.caches[0].keys).asarray(rows)
        for cache in self.caches:
            cache.keep(indices)
        if self.padding is not None:
            self.padding, self.start = self.padding[indices], self.start[indices]
        self.rows = self.rows.cut(rows)
        self._lay_out()

    def step(self, tokens: Array) -> Array:
        """Token ids (B,) -> logits (B, V) of the tokens after them."""
        position = self.caches[0].length
        turn = self.cos[position], self.sin[position]
        return self._through(tokens, turn, self.padding, self.rows.placed(position, self.start))

    def _through(
        self, tokens: Array, turn: tuple[Array, Array], padding: Array | None, rows: Rows
    ) -> Array:
        """Logits (B, V); turn and padding as a block takes them, rows for layers that ask."""
        x = self.embed(tokens)
        with seeing(rows):
            for block in self.blocks:
                block(x, turn, padding)
        h = self.norm(x)
        if self.logits is None:
            return F.linear(Tensor(h), self.head).data
        out = get_array_module(h).empty((len(h), self.config.vocab_size), dtype=h.dtype)
        return self.logits(h, out)

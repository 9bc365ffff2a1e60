"""Decoding steps of rows that have read different numbers of positions, and that come and go.

In `generate` all rows of a batch are at one column, padded on the left, and only leave. Here each
row begins at column 0 of its own place in a pool, as it does alone, so that a new one may join at
any step; what lies behind its last position is masked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from minilora.backend import Array, get_array_module
from minilora.nn.cache import LayerCache
from minilora.nn.decode import Decoding
from minilora.nn.generate import last_logits
from minilora.nn.rows import Rows, seeing
from minilora.nn.transformer import Transformer


class _Cache(LayerCache):
    """A layer's keys and values in a pool of rows; the first of them are in use.

    each (n,), at (n,): the rows, and the column where each one's next position goes. width: how
    many columns are looked at.
    """

    each: Array
    at: Array
    width: int

    def __init__(self, heads: int, head_dim: int, like: Array) -> None:
        super().__init__(0, 0, heads, head_dim, like)
        self.pool = self.keys, self.values

    def grow(self, rows: int, length: int) -> None:
        """Room for so many rows of so many positions, with what is held."""
        grown = []
        for old in self.pool:
            held, heads, columns, dim = old.shape
            new = get_array_module(old).zeros((rows, heads, length, dim), old.dtype)
            new[:held, :, :columns] = old
            grown.append(new)
        self.pool = grown[0], grown[1]

    def use(self, count: int) -> None:
        """The first `count` rows of the pool are in use."""
        self.keys, self.values = (array[:count] for array in self.pool)

    def slot(self, row: int) -> LayerCache:
        """One row of the pool, empty, as a cache of its own."""
        slot = LayerCache.__new__(LayerCache)
        slot.keys, slot.values = (array[row : row + 1] for array in self.pool)
        slot.length = 0
        return slot

    def keep(self, rows: Sequence[int]) -> None:
        """Row i becomes what rows[i] was; what moves comes from further on."""
        for i, row in enumerate(rows):
            if i != row:
                for array in self.pool:
                    array[i] = array[row]

    def put(self, k: Array, v: Array) -> int:
        """As LayerCache's, each row at its own position."""
        self.keys[self.each, :, self.at], self.values[self.each, :, self.at] = k, v
        return self.width


class RaggedDecoding(Decoding):
    """Steps of one token a row, each row at its own position; rows are read in and dropped.

    lengths (n,): how many positions each row has read. Weights must not change meanwhile.
    most_rows, longest: what the pool need never have more of, though it may.
    """

    def __init__(self, model: Transformer, most_rows: int, longest: int) -> None:
        config, like = model.config, model.model.norm.weight.data
        shape = config.num_key_value_heads, config.head_dim
        caches = [_Cache(*shape, like) for _ in range(config.num_hidden_layers)]
        self.model, self.lengths = model, np.zeros(0, dtype=np.int64)
        self.most_rows, self.longest = most_rows, longest
        super().__init__(model, caches, None)

    def _lay_out(self) -> None:
        if len(self.lengths):
            super()._lay_out()

    def read(
        self,
        prompt: Sequence[int],
        room: int,
        known: int = 0,
        layers: Sequence[tuple[Array, Array]] = (),
    ) -> np.ndarray:
        """Read a prompt as one more row, the last; logits (V,) after it.

        room: how many tokens may follow. known: how many of its first tokens need not be read,
        because `layers` has their keys and values (Hkv, known or more, dh), as `held` gave them.
        Whatever the rows before it are doing, it is read as it would be alone.
        """
        count, ids = len(self.lengths), np.array([prompt])
        self.make_room(count + 1, len(prompt) + room)
        slots = [cache.slot(count) for cache in self.caches]
        for slot, (keys, values) in zip(slots if known else (), layers, strict=True):
            slot.keys[0, :, :known], slot.values[0, :, :known] = keys[:, :known], values[:, :known]
            slot.length = known
        with seeing(Rows(1, np.zeros(1, dtype=np.int64)).saying(ids, None)):
            logits = last_logits(self.model, ids[:, known:], None, slots)[0]
        self._have(np.append(self.lengths, len(prompt)))
        return logits

    def held(self, row: int, length: int) -> list[tuple[Array, Array]]:
        """Copies of the keys and values (Hkv, length, dh) of a row's first positions."""
        return [
            (cache.keys[row, :, :length].copy(), cache.values[row, :, :length].copy())
            for cache in self.caches
        ]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows: row i becomes what rows[i] was.

        rows[i] is i, or a row beyond the last that is kept; or they rise.
        """
        for cache in self.caches:
            cache.keep(rows)
        self._have(self.lengths[list(rows)])

    def _have(self, lengths: np.ndarray) -> None:
        """These are the rows now."""
        self.lengths = lengths
        self.rows = Rows(len(lengths), np.arange(len(lengths)))
        for cache in self.caches:
            cache.use(len(lengths))
        self._lay_out()

    def make_room(self, rows: int, length: int) -> None:
        """Room for so many rows of up to so many positions, made at once where it is foreseen."""
        held, _, columns, _ = self.caches[0].pool[0].shape
        if rows <= held and length <= columns:
            return
        rows = held if rows <= held else max(rows, min(2 * held, self.most_rows))
        length = columns if length <= columns else max(length, min(2 * columns, self.longest))
        for cache in self.caches:
            cache.grow(rows, length)
        self._set_turns(length)

    def step(self, tokens: np.ndarray) -> Array:
        """Token ids (n,) -> logits (n, V) of the tokens after them."""
        xp = get_array_module(self.caches[0].pool[0])
        at, width = xp.asarray(self.lengths), int(self.lengths.max()) + 1
        each = xp.arange(len(self.lengths))
        for cache in self.caches:
            cache.each, cache.at, cache.width = each, at, width
        unread = xp.arange(width) > at[:, None]
        padding = xp.where(unread, -math.inf, 0.0).astype(self.cos.dtype)[:, None, None]
        logits = self._through(xp.asarray(tokens), (self.cos[at], self.sin[at]), padding, self.rows)
        self.lengths = self.lengths + 1
        return logits

"""LayerCache: the keys and values of the positions read so far, so that none is read again."""

from __future__ import annotations

import copy

from minilora.autograd import Tensor
from minilora.backend import Array, get_array_module


class LayerCache:
    """Keys and values of one layer for the positions seen so far, in arrays of fixed size.

    (B, Hkv, S, dh): a head's positions lie together, so that the attention of one more token reads
    memory from end to end.
    """

    def __init__(self, batch: int, length: int, heads: int, head_dim: int, like: Array) -> None:
        shape = (batch, heads, length, head_dim)
        xp = get_array_module(like)
        self.keys, self.values = xp.zeros(shape, like.dtype), xp.zeros(shape, like.dtype)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, T, Hkv, dh); return all that are held, as views."""
        start, stop = self.length, self.length + k.shape[1]
        if stop > self.keys.shape[2]:
            raise ValueError(f"cache got position {stop}, expected at most {self.keys.shape[2]}")
        held = []
        for array, new in ((self.keys, k.data), (self.values, v.data)):
            array[:, :, start:stop] = new.swapaxes(1, 2)
            held.append(Tensor(array[:, :, :stop].swapaxes(1, 2)))
        self.length = stop
        return held[0], held[1]

    def put(self, k: Array, v: Array) -> int:
        """Store one more position of every row, k and v (B, Hkv, dh); how many are held now."""
        position = self.length
        self.keys[:, :, position], self.values[:, :, position] = k, v
        self.length = position + 1
        return self.length

    def part(self, rows: slice, length: int) -> LayerCache:
        """A view of these rows that says it holds `length` positions.

        What is appended to the view is stored in this cache, whose own length does not change.
        """
        view = copy.copy(self)
        view.keys, view.values, view.length = self.keys[rows], self.values[rows], length
        return view

    def longer(self, length: int) -> LayerCache:
        """A copy of what is held, with room for `length` positions."""
        batch, heads, _, dim = self.keys.shape
        copied = LayerCache(batch, length, heads, dim, self.keys)
        for mine, its in ((self.keys, copied.keys), (self.values, copied.values)):
            its[:, :, : self.length] = mine[:, :, : self.length]
        copied.length = self.length
        return copied

    def keep(self, rows: Array) -> None:
        """Forget all rows but these (indices)."""
        self.keys, self.values = self.keys[rows], self.values[rows]

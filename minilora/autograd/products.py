"""Products with a matrix W (out, in), whether it is held as numbers or stored in fewer bits.

This is the one file that asks which of the two a matrix is. Arrays run (..., C): the leading axes
are flattened into rows, so that BLAS sees one tall matrix and not a loop over the batch. Every
result is a new array. Of a stored matrix one part of the outputs is read at a time, multiplied
with, and forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minilora.autograd.stored_array import StoredArray
from minilora.backend import Array, get_array_module


@dataclass(frozen=True)
class _StoredSum:
    """W + b a over a stored W: the update is added to each part of W when that part is read."""

    stored: StoredArray
    b: Array
    a: Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.stored.shape

    def parts(self, dtype: np.dtype) -> Iterator[tuple[slice, Array]]:
        """As `StoredArray.parts`."""
        for outputs, columns in self.stored.parts(dtype):
            columns += self.a.T @ self.b[outputs].T
            yield outputs, columns


Matrix = Array | StoredArray | _StoredSum
_STORED = (StoredArray, _StoredSum)


def is_stored(w: Matrix) -> bool:
    """Whether the numbers of `w` are made for each product, from fewer bits."""
    return isinstance(w, _STORED)


def as_rows(x: Array) -> Array:
    """x (..., C) as a matrix (N, C): a view where x is contiguous."""
    return x.reshape(-1, x.shape[-1])


def times_transpose(x: Array, w: Matrix) -> Array:
    """x W^T: (..., in) -> (..., out)."""
    xp = get_array_module(x)
    out = xp.empty((*x.shape[:-1], w.shape[0]), dtype=x.dtype)
    rows, result = as_rows(x), as_rows(out)
    if not isinstance(w, _STORED):
        xp.matmul(rows, w.T, out=result)
        return out
    for outputs, columns in w.parts(x.dtype):
        xp.matmul(rows, columns, out=result[:, outputs])
    return out


def times(g: Array, w: Matrix) -> Array:
    """g W: (..., out) -> (..., in)."""
    xp = get_array_module(g)
    out = xp.empty((*g.shape[:-1], w.shape[1]), dtype=g.dtype)
    rows, result = as_rows(g), as_rows(out)
    if not isinstance(w, _STORED):
        xp.matmul(rows, w, out=result)
        return out
    for outputs, columns in w.parts(g.dtype):
        if outputs.start == 0:
            xp.matmul(rows[:, outputs], columns.T, out=result)
        else:
            result += rows[:, outputs] @ columns.T
    return out


def plus(w: Array | StoredArray, b: Array, a: Array) -> Matrix:
    """W + b a to multiply with, for b (out, r) and a (r, in); W itself is not written."""
    return _StoredSum(w, b, a) if is_stored(w) else w + b @ a


def row_norms(w: Matrix, dtype: np.dtype) -> Array:
    """The Euclidean lengths of the rows of W, (out,), in this dtype."""
    if not is_stored(w):
        xp = get_array_module(w)
        return xp.sqrt(xp.einsum("oi,oi->o", w, w)).astype(dtype, copy=False)
    norms = [
        get_array_module(columns).sqrt((columns * columns).sum(axis=0))
        for _, columns in w.parts(dtype)
    ]
    return get_array_module(norms[0]).concatenate(norms)


def take_rows(w: Array | StoredArray, ids: Array) -> Array:
    """W[ids], (*ids.shape, in): of a stored matrix only these rows are read."""
    return w.take(ids) if is_stored(w) else w[ids]


def dense(w: Array | StoredArray) -> Array:
    """W as numbers: itself, or for a stored matrix a new array."""
    return w.dense() if is_stored(w) else w

"""Primitive ops with their vjps, and the operators of Tensor.

They are the specification of the fused ops: each fused op has a twin in `gradients/twins.py` that
is written with these, and must agree with it in value and in every gradient. The model itself runs
the fused ones (`functional.py`), which make fewer passes over memory.

`unbroadcast` undoes broadcasting: where NumPy repeated an input, its cotangent is summed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minilora.autograd.tensor import Tensor
from minilora.backend import Array, get_array_module


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum g over the axes along which an input of `shape` was repeated to g's shape."""
    if g.shape == shape:
        return g
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(
        i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1
    )
    return g.sum(axis=axes, keepdims=True).reshape(shape) if axes else g.reshape(shape)


def as_tensor(value: Tensor | Array | float, like: Tensor) -> Tensor:
    """`value` as a constant Tensor of `like`'s dtype and device (a Python number never widens)."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (int, float)):
        return Tensor(get_array_module(like.data).asarray(value, dtype=like.dtype))
    return Tensor(value)


# -- arithmetic ------------------------------------------------------------------------------


def add(a: Tensor, b: Tensor | float) -> Tensor:
    """a + b.   ga = g,   gb = g   (each summed back to its input's shape)"""
    b = as_tensor(b, a)
    a_shape, b_shape = a.shape, b.shape
    return Tensor.from_op(
        a.data + b.data,
        (a, lambda g: unbroadcast(g, a_shape)),
        (b, lambda g: unbroadcast(g, b_shape)),
    )


def sub(a: Tensor, b: Tensor | float) -> Tensor:
    """a - b.   ga = g,   gb = -g"""
    b = as_tensor(b, a)
    a_shape, b_shape = a.shape, b.shape
    return Tensor.from_op(
        a.data - b.data,
        (a, lambda g: unbroadcast(g, a_shape)),
        (b, lambda g: unbroadcast(-g, b_shape)),
    )


def mul(a: Tensor, b: Tensor | float) -> Tensor:
    """a * b.   ga = g b,   gb = g a"""
    b = as_tensor(b, a)
    x, y = a.data, b.data
    return Tensor.from_op(
        x * y,
        (a, lambda g: unbroadcast(g * y, x.shape)),
        (b, lambda g: unbroadcast(g * x, y.shape)),
        fresh=True,
    )


def div(a: Tensor, b: Tensor | float) -> Tensor:
    """a / b.   ga = g / b,   gb = -g a / b^2"""
    b = as_tensor(b, a)
    x, y = a.data, b.data
    return Tensor.from_op(
        x / y,
        (a, lambda g: unbroadcast(g / y, x.shape)),
        (b, lambda g: unbroadcast(-g * x / (y * y), y.shape)),
        fresh=True,
    )


def neg(a: Tensor) -> Tensor:
    """-a.   ga = -g"""
    return Tensor.from_op(-a.data, (a, lambda g: -g), fresh=True)


def power(a: Tensor, exponent: float) -> Tensor:
    """a ** n for a Python number n.   ga = g n a^(n-1)"""
    if not isinstance(exponent, (int, float)):
        raise ValueError(f"got an exponent of type {type(exponent).__name__}, expected a number")
    x = a.data
    return Tensor.from_op(
        x**exponent, (a, lambda g: g * (exponent * x ** (exponent - 1))), fresh=True
    )


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b over the last two axes.   ga = g b^T,   gb = a^T g"""
    x, y = a.data, b.data
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-2]:
        raise ValueError(f"matmul got shapes {x.shape} and {y.shape}, expected (..., m, k) (k, n)")
    return Tensor.from_op(
        x @ y,
        (a, lambda g: unbroadcast(g @ y.swapaxes(-1, -2), x.shape)),
        (b, lambda g: unbroadcast(x.swapaxes(-1, -2) @ g, y.shape)),
        fresh=True,
    )


# -- element by element ----------------------------------------------------------------------


def exp(a: Tensor) -> Tensor:
    """e^a.   ga = g e^a"""
    y = get_array_module(a.data).exp(a.data)
    return Tensor.from_op(y, (a, lambda g: g * y), fresh=True)


def log(a: Tensor) -> Tensor:
    """Natural logarithm.   ga = g / a"""
    x = a.data
    return Tensor.from_op(get_array_module(x).log(x), (a, lambda g: g / x), fresh=True)


def tanh(a: Tensor) -> Tensor:
    """tanh(a).   ga = g (1 - tanh(a)^2)"""
    y = get_array_module(a.data).tanh(a.data)
    return Tensor.from_op(y, (a, lambda g: g * (1 - y * y)), fresh=True)


def sqrt(a: Tensor) -> Tensor:
    """Square root.   ga = g / (2 sqrt(a))"""
    y = get_array_module(a.data).sqrt(a.data)
    return Tensor.from_op(y, (a, lambda g: g / (2 * y)), fresh=True)


def where(condition: Array, a: Tensor, b: Tensor | float) -> Tensor:
    """a where the boolean array is true, else b.   ga = g where true,   gb = g where false"""
    b = as_tensor(b, a)
    xp = get_array_module(a.data)
    a_shape, b_shape = a.shape, b.shape
    return Tensor.from_op(
        xp.where(condition, a.data, b.data),
        (a, lambda g: unbroadcast(g * condition, a_shape)),
        (b, lambda g: unbroadcast(g * ~condition, b_shape)),
        fresh=True,
    )


# -- reductions ------------------------------------------------------------------------------


def sum(a: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Sum over `axis` (all axes by default).   ga = g repeated along the summed axes"""
    x_shape = a.shape
    xp = get_array_module(a.data)

    def vjp(g: Array) -> Array:
        if axis is not None and not keepdims:
            g = xp.expand_dims(g, axis)
        return xp.broadcast_to(g, x_shape)

    return Tensor.from_op(xp.asarray(a.data.sum(axis=axis, keepdims=keepdims)), (a, vjp))


def mean(a: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Mean over `axis` (all axes by default).   ga = g / n repeated along the axes"""
    total = sum(a, axis, keepdims)
    return mul(total, 1.0 / (a.size // max(total.size, 1)))


# -- shape -----------------------------------------------------------------------------------


def reshape(a: Tensor, shape: Sequence[int]) -> Tensor:
    """The same elements in another shape.   ga = g in a's shape"""
    x_shape = a.shape
    return Tensor.from_op(a.data.reshape(tuple(shape)), (a, lambda g: g.reshape(x_shape)))


def transpose(a: Tensor, axes: Sequence[int]) -> Tensor:
    """Permute the axes.   ga = g permuted back"""
    axes = tuple(axes)
    inverse = tuple(int(i) for i in np.argsort(axes))
    return Tensor.from_op(a.data.transpose(axes), (a, lambda g: g.transpose(inverse)))


def swapaxes(a: Tensor, i: int, j: int) -> Tensor:
    """Exchange two axes.   ga = g with the same two exchanged"""
    return Tensor.from_op(a.data.swapaxes(i, j), (a, lambda g: g.swapaxes(i, j)))


def getitem(a: Tensor, index: object) -> Tensor:
    """a[index] for slices and integers (for rows by number see `embedding`).

    ga = zeros with g written at the index. An index array may repeat, which would need a sum, so
    it is refused with a ValueError.
    """
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        if not (part is None or part is Ellipsis or isinstance(part, (int, slice))):
            raise ValueError(f"got an index of type {type(part).__name__}, expected slice or int")
    x_shape, xp = a.shape, get_array_module(a.data)

    def vjp(g: Array) -> Array:
        ga = xp.zeros(x_shape, dtype=g.dtype)
        ga[index] = g
        return ga

    return Tensor.from_op(xp.asarray(a.data[index]), (a, vjp), fresh=True)


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join along an axis.   Each input gets its own slice of g"""
    xp = get_array_module(tensors[0].data)
    stops = np.cumsum([t.shape[axis] for t in tensors])

    def slice_of(i: int) -> tuple[Tensor, object]:
        start, stop = int(stops[i]) - tensors[i].shape[axis], int(stops[i])
        return tensors[i], lambda g: xp.moveaxis(xp.moveaxis(g, axis, 0)[start:stop], 0, axis)

    return Tensor.from_op(
        xp.concatenate([t.data for t in tensors], axis=axis),
        *(slice_of(i) for i in range(len(tensors))),
    )


# -- operators -------------------------------------------------------------------------------

Tensor.__add__ = add
Tensor.__radd__ = add
Tensor.__sub__ = sub
Tensor.__rsub__ = lambda a, b: sub(as_tensor(b, a), a)
Tensor.__mul__ = mul
Tensor.__rmul__ = mul
Tensor.__truediv__ = div
Tensor.__rtruediv__ = lambda a, b: div(as_tensor(b, a), a)
Tensor.__neg__ = neg
Tensor.__pow__ = power
Tensor.__matmul__ = matmul
Tensor.__getitem__ = getitem
Tensor.__array_ufunc__ = None  # array + Tensor must reach Tensor.__radd__, not NumPy's loop
Tensor.sum = sum
Tensor.mean = mean
Tensor.reshape = lambda a, *shape: reshape(a, shape[0] if isinstance(shape[0], tuple) else shape)
Tensor.transpose = lambda a, *axes: transpose(a, axes)
Tensor.swapaxes = swapaxes

"""The matrix products that code on NumPy makes, noted down with their layouts and not carried out.

Inside `recording()`, new arrays are of a kind whose products come out as zeros, and so is all that
NumPy makes of them. What the code does between products is carried out, on zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any
from unittest.mock import patch

import numpy as np

NEW_ARRAYS = ("empty", "zeros", "ones")


@dataclass(frozen=True)
class Layout:
    """How an operand lies in memory: shape, and strides in elements, over the axes of the shape.

    weight: the name of the weight that it is a view of, "" for anything else.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    weight: str = ""

    @property
    def extent(self) -> int:
        """Elements from the first to the last."""
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))


@dataclass(frozen=True)
class Product:
    """left (..., m, k) @ right (..., k, n) -> out (..., m, n). op: what it belongs to."""

    op: str
    left: Layout
    right: Layout
    out: Layout

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * prod(self.out.shape) * self.left.shape[-1]


class Recording:
    """The products so far. `op` is noted with each of the next ones."""

    def __init__(self) -> None:
        self.op = ""
        self.products: list[Product] = []
        self._names: dict[int, str] = {}

    def weight(self, name: str, array: np.ndarray) -> np.ndarray:
        """The array as one of those whose products are noted; views of it are told by its name."""
        self._names[_address(array)] = name
        return array.view(_Recorded)

    def take(self, left: np.ndarray, right: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """Note a product, and give zeros for its result.

        A product with a column of ones is a sum: it is carried out, and not noted.
        """
        if right.shape[-1] == 1 and (right == 1.0).all():
            return np.matmul(left, right, out)
        shape = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        if out is None:
            out = np.zeros((*shape, left.shape[-2], right.shape[-1]), np.result_type(left, right))
        else:
            out[...] = 0.0
        self.products.append(Product(self.op, *map(self._layout, (left, right, out))))
        return out

    def _layout(self, array: np.ndarray) -> Layout:
        strides = tuple(step // array.itemsize for step in array.strides)
        return Layout(array.shape, strides, self._names.get(_address(array), ""))


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


_now: Recording | None = None


class _Recorded(np.ndarray):
    """An array whose products are noted by the recording in progress."""

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple = (), **settings: Any
    ) -> Any:
        plain = [_plain(value) for value in inputs]
        plain_out = tuple(_plain(value) for value in out)
        if ufunc is np.matmul and method == "__call__" and _now is not None:
            result = _now.take(*plain, *(plain_out or (None,)))
        else:
            settings |= {"out": plain_out} if out else {}
            result = getattr(ufunc, method)(*plain, **settings)
        if out:
            return out[0] if len(out) == 1 else out
        return result.view(_Recorded) if isinstance(result, np.ndarray) else result


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, _Recorded) else value


@contextmanager
def recording() -> Iterator[Recording]:
    """Inside the `with`, note down all products of new arrays and of what is made of them.

    Not for two at a time, nor in a program with other threads on NumPy.
    """
    global _now
    with ExitStack() as patches:
        for name in NEW_ARRAYS:
            make = getattr(np, name)

            def new(*args: Any, make: Any = make, **settings: Any) -> _Recorded:
                return make(*args, **settings).view(_Recorded)

            patches.enter_context(patch.object(np, name, new))
        _now = Recording()
        try:
            yield _now
        finally:
            _now = None

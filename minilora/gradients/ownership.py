"""Whether the vjps of an op that declared fresh=True do return new arrays.

A fresh array is one that nothing else holds, so a vjp that is called twice must return two arrays
without a byte in common. One that returns its cotangent, an input, an array that it captured, a
view of one of these, or what `prepare` made for all vjps, returns the same memory both times.
"""

from __future__ import annotations

import numpy as np

from minilora.autograd.tensor import Node, Tensor, topological_order


def false_declarations(out: Tensor, cotangent: np.ndarray) -> list[str]:
    """A line for each vjp below `out` that was declared fresh and is not; [] where all are.

    cotangent: of out's shape. Every vjp is called twice, and the graph stays as it was.
    """
    if out.node is None:
        return []
    faults: list[str] = []
    cotangents: dict[Node | Tensor, np.ndarray] = {out.node: cotangent}
    for node in topological_order(out.node):
        g = cotangents.pop(node)
        shared = g if node.prepare is None else node.prepare(g)
        for parent, vjp in zip(node.parents, node.vjps, strict=True):
            first = vjp(shared)
            if node.fresh:
                again = vjp(shared)
                if np.shares_memory(first, again) or not _writeable(first):
                    faults.append(_fault(vjp))
            before = cotangents.get(parent)
            cotangents[parent] = first if before is None else before + first
    return faults


def _writeable(array: np.ndarray) -> bool:
    """Whether it can be added into; NumPy's scalars are never added into, but replaced."""
    return isinstance(array, np.generic) or array.flags.writeable


def _fault(vjp: object) -> str:
    name = getattr(vjp, "__qualname__", repr(vjp))
    return f"{name} was declared fresh, but returns memory that something else holds"

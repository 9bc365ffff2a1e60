"""Lets something stand around each op of the engine: around its forward, and around its vjps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

from minilora.autograd import Tensor, ops
from minilora.autograd import functional as F

FUSED = (
    "linear", "lora_linear", "embedding", "rms_norm", "rope", "swiglu", "causal_attention",
    "linear_cross_entropy",
)  # fmt: skip
FORWARD, BACKWARD = "forward", "backward"
Around = Callable[[str, str, Callable], Callable]


@contextmanager
def watching(around: Around) -> Iterator[None]:
    """Inside the `with`, ops call around(name, part, function) in place of function.

    name: of the op; part: FORWARD for the op itself, BACKWARD for what its node does.
    """
    places = [(F, name) for name in FUSED]
    places += [(ops, "reshape"), (Tensor, "__add__")]
    before = [(place, name, getattr(place, name)) for place, name in places]
    try:
        for place, name, function in before:
            setattr(place, name, _watched(name.strip("_"), function, around))
        yield
    finally:
        for place, name, function in before:
            setattr(place, name, function)


def _watched(name: str, function: Callable, around: Around) -> Callable:
    """An op with its forward watched, and the vjps of the node that it leaves."""
    forward = around(name, FORWARD, function)

    @wraps(function)
    def run(*args: object, **kwargs: object) -> Tensor:
        out = forward(*args, **kwargs)
        node = out.node
        if node is not None:
            node.vjps = tuple(around(name, BACKWARD, vjp) for vjp in node.vjps)
            if node.prepare is not None:
                node.prepare = around(name, BACKWARD, node.prepare)
        return out

    return run

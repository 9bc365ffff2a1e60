"""Tensor and Node: the recorded graph and the walk that sends cotangents back through it.

A `Node` holds its parents and one vjp per parent, never a value: an array stays alive only while
some vjp still needs it. An input that needs no gradient gets no vjp at all, so freezing a weight
removes its work and lets its layer's input die. Vjps work on raw arrays; gradients of gradients
are not recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from minilora.backend import Array, get_array_module

Vjp = Callable[[Array], Array]

_state = threading.local()


def is_grad_enabled() -> bool:
    """True unless the current thread is inside `no_grad()`."""
    return getattr(_state, "grad_enabled", True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing in this thread: results of ops do not require gradients."""
    before = is_grad_enabled()
    _state.grad_enabled = False
    try:
        yield
    finally:
        _state.grad_enabled = before


class Node:
    """One recorded op: `parents` (Nodes, or leaf Tensors) and one vjp for each of them.

    `prepare(g)`, where given, runs once per backward pass and its result goes to every vjp in
    place of g: that is how a fused op shares work among the gradients of its inputs.
    """

    __slots__ = ("parents", "prepare", "vjps")

    def __init__(
        self, parents: tuple[Node | Tensor, ...], vjps: tuple[Vjp, ...], prepare: Callable | None
    ) -> None:
        self.parents = parents
        self.vjps = vjps
        self.prepare = prepare

    def cotangents(self, g: Array) -> Iterator[tuple[Node | Tensor, Array]]:
        """Yield (parent, cotangent of that parent), then forget vjps and what they captured."""
        shared = g if self.prepare is None else self.prepare(g)
        for parent, vjp in zip(self.parents, self.vjps, strict=True):
            yield parent, vjp(shared)
        self.parents, self.vjps, self.prepare = (), (), _spent


def _spent(_: Array) -> Array:
    raise ValueError(
        "backward was called a second time through the same graph; got a graph whose arrays are "
        "already freed, expected a fresh forward pass"
    )


class Tensor:
    """An array, and where gradients are wanted the Node that made it.

    `data` is the array, `grad` the accumulated gradient (same shape, leaves only, None until the
    first backward). Lists and Python numbers become float32; arrays keep their dtype.
    Raises ValueError when a gradient is asked of a dtype that is not floating.
    """

    __slots__ = ("_requires_grad", "data", "grad", "node")

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            raise ValueError("got a Tensor as data, expected an array; use detach() for a new leaf")
        if isinstance(data, np.generic):  # first: a NumPy float64 is a Python float as well
            data = np.asarray(data)
        elif isinstance(data, (list, tuple, int, float)):
            data = np.asarray(data, dtype=np.float32)
        self.data = data
        self.grad: Array | None = None
        self.node: Node | None = None
        self._requires_grad = False
        self.requires_grad = requires_grad

    @property
    def requires_grad(self) -> bool:
        """Whether backward passes send a gradient to, or through, this tensor."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value and self.data.dtype.kind != "f":
            raise ValueError(f"got dtype {self.data.dtype}, expected a float to require a gradient")
        if not value and self.node is not None:
            raise ValueError("got the result of an op, expected a leaf; use detach() instead")
        self._requires_grad = bool(value)

    @staticmethod
    def from_op(
        data: Array, *inputs: tuple[Tensor, Vjp], prepare: Callable[[Array], object] | None = None
    ) -> Tensor:
        """The Tensor of an op's result, recorded with the vjps of the inputs that need one.

        A vjp maps the cotangent g of the result (or `prepare(g)`) to the cotangent of its input.
        It may return g itself, a view, or a fresh array that nothing else holds; it never writes
        into g.
        """
        out = Tensor(data)
        if is_grad_enabled():
            kept = [(x.node or x, vjp) for x, vjp in inputs if x._requires_grad]
            if kept:
                parents, vjps = zip(*kept, strict=True)
                out.node = Node(parents, vjps, prepare)
                out._requires_grad = True
        return out

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the array."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.data.size

    def __len__(self) -> int:
        return len(self.data)

    def item(self) -> float:
        """The value of a one-element tensor as a Python float (waits for the device)."""
        return float(self.data)

    def detach(self) -> Tensor:
        """A leaf on the same array that no gradient passes."""
        return Tensor(self.data)

    def zero_grad(self) -> None:
        """Forget the accumulated gradient."""
        self.grad = None

    def backward(self, g: Array | None = None) -> None:
        """Add d(self . g)/d(leaf) to `grad` of every leaf that requires one.

        g: cotangent with the tensor's shape; 1 by default, and then the tensor must be a scalar.
        Raises ValueError for a missing or misshapen g, or where nothing requires a gradient.
        """
        backward(self, g)

    def __repr__(self) -> str:
        grad = ", requires_grad=True" if self._requires_grad else ""
        return f"Tensor(shape={self.shape}, dtype={self.dtype}{grad})"


def topological_order(root: Node) -> list[Node]:
    """Every Node below `root`, each after all the Nodes that use it (root first).

    Iterative, so a deep graph does not meet Python's recursion limit. A node must wait for all
    its users, or it would send on a cotangent that is not complete: the diamond x*x + x.
    """
    order: list[Node] = []
    seen: set[int] = {id(root)}
    stack: list[tuple[Node, Iterator[Node | Tensor]]] = [(root, iter(root.parents))]
    while stack:
        node, parents = stack[-1]
        for parent in parents:
            if isinstance(parent, Node) and id(parent) not in seen:
                seen.add(id(parent))
                stack.append((parent, iter(parent.parents)))
                break
        else:
            order.append(node)
            stack.pop()
    order.reverse()
    return order


class _Sums:
    """Running sums of cotangents, keyed by Node or leaf; adds in place only into arrays it owns.

    A fresh array (not g itself, not a view) belongs to us once a vjp has returned it, so the
    second cotangent of a residual stream costs one pass and no allocation.
    """

    def __init__(self) -> None:
        self.values: dict[int, tuple[Array, bool]] = {}

    def add(self, key: object, value: Array, owned: bool) -> None:
        held = self.values.get(id(key))
        if held is None:
            self.values[id(key)] = (value, owned)
            return
        total, total_owned = held
        xp = get_array_module(total)
        if total_owned:
            xp.add(total, value, out=total)
        elif owned:
            xp.add(total, value, out=value)
            total = value
        else:
            total = total + value
        self.values[id(key)] = (total, total.ndim > 0)

    def pop(self, key: object) -> tuple[Array, bool]:
        return self.values.pop(id(key))


def backward(root: Tensor, g: Array | None = None) -> None:
    """Send the cotangent `g` of `root` back to its leaves; see `Tensor.backward`."""
    if not root.requires_grad:
        raise ValueError("backward got a tensor that requires no gradient, expected one that does")
    g = _initial_cotangent(root, g)
    if root.node is None:
        _accumulate_leaf(root, g, owned=False)
        return
    sums = _Sums()
    sums.add(root.node, g, owned=False)
    leaves: dict[int, Tensor] = {}
    for node in topological_order(root.node):
        g, _ = sums.pop(node)
        for parent, cotangent in node.cotangents(g):
            if isinstance(parent, Tensor):
                leaves[id(parent)] = parent
            # Arithmetic on 0-d arrays gives scalars, into which nothing can be added in place.
            fresh = cotangent is not g and cotangent.base is None and cotangent.ndim > 0
            sums.add(parent, cotangent, owned=fresh)
    for leaf in leaves.values():
        _accumulate_leaf(leaf, *sums.pop(leaf))


def _initial_cotangent(root: Tensor, g: Array | None) -> Array:
    xp = get_array_module(root.data)
    if g is None:
        if root.data.size != 1:
            raise ValueError(f"got shape {root.shape} without a cotangent, expected a scalar")
        return xp.ones_like(root.data)
    if tuple(g.shape) != root.shape:
        raise ValueError(f"got a cotangent of shape {tuple(g.shape)}, expected {root.shape}")
    return g.astype(root.dtype, copy=False)


def _accumulate_leaf(leaf: Tensor, g: Array, owned: bool) -> None:
    if g.shape != leaf.shape:
        raise ValueError(f"a vjp returned shape {g.shape}, expected {leaf.shape}")
    if leaf.grad is None:
        leaf.grad = g if owned else get_array_module(g).array(g)
    else:
        get_array_module(g).add(leaf.grad, g, out=leaf.grad)

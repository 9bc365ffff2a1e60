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
    place of g: that is how a fused op shares work among the gradients of its inputs. `fresh` is
    what the op declared about the results of its vjps (see `Tensor.from_op`).
    """

    __slots__ = ("fresh", "parents", "prepare", "vjps")

    def __init__(
        self,
        parents: tuple[Node | Tensor, ...],
        vjps: tuple[Vjp, ...],
        prepare: Callable | None = None,
        fresh: bool = False,
    ) -> None:
        self.parents = parents
        self.vjps = vjps
        self.prepare = prepare
        self.fresh = fresh

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
        data: Array,
        *inputs: tuple[Tensor, Vjp],
        prepare: Callable[[Array], object] | None = None,
        fresh: bool = False,
    ) -> Tensor:
        """The Tensor of an op's result, recorded with the vjps of the inputs that need one.

        A vjp maps the cotangent g of the result (or `prepare(g)`) to the cotangent of its input,
        and never writes into what it was given. It may return any array: g itself, a view, one
        that it captured. fresh=True declares that every vjp of this op returns a new array that
        nothing else holds. Only such an array is added into, and becomes a leaf's `grad` without
        a copy; `gradients.ownership` finds a declaration that is not true.
        """
        out = Tensor(data)
        if is_grad_enabled():
            kept = [(x.node or x, vjp) for x, vjp in inputs if x._requires_grad]
            if kept:
                parents, vjps = zip(*kept, strict=True)
                out.node = Node(parents, vjps, prepare, fresh)
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
    seen: set[Node] = {root}
    stack: list[tuple[Node, Iterator[Node | Tensor]]] = [(root, iter(root.parents))]
    while stack:
        node, parents = stack[-1]
        for parent in parents:
            if isinstance(parent, Node) and parent not in seen:
                seen.add(parent)
                stack.append((parent, iter(parent.parents)))
                break
        else:
            order.append(node)
            stack.pop()
    order.reverse()
    return order


class _Cotangents:
    """What has reached each Node or leaf so far, added up.

    `owned` holds those whose array nothing else holds. The next cotangent is added in its place, so
    that the branches of a residual stream cost one pass each and no memory.
    """

    def __init__(self) -> None:
        self.sums: dict[Node | Tensor, Array] = {}
        self.owned: set[Node | Tensor] = set()

    def add(self, place: Node | Tensor, array: Array, fresh: bool) -> None:
        """Add a cotangent of `place`; fresh: whether nothing else holds the array."""
        total = self.sums.get(place)
        if place in self.owned:
            get_array_module(total).add(total, array, out=total)
            return
        # Arithmetic on 0-d arrays gives NumPy scalars, into which nothing can be added in place.
        if total is not None and fresh and array.ndim > 0:
            get_array_module(total).add(total, array, out=array)
        elif total is not None:
            array, fresh = total + array, True
        self.sums[place] = array
        if fresh and array.ndim > 0:
            self.owned.add(place)


def backward(root: Tensor, g: Array | None = None) -> None:
    """Send the cotangent `g` of `root` back to its leaves; see `Tensor.backward`."""
    if not root.requires_grad:
        raise ValueError("backward got a tensor that requires no gradient, expected one that does")
    g = _initial_cotangent(root, g)
    if root.node is None:
        _add_to_grad(root, g, owned=False)
        return
    arrived = _Cotangents()
    arrived.add(root.node, g, fresh=False)
    for node in topological_order(root.node):
        for parent, cotangent in node.cotangents(arrived.sums.pop(node)):
            if isinstance(parent, Tensor) and cotangent.shape != parent.shape:
                raise ValueError(f"a vjp returned shape {cotangent.shape}, expected {parent.shape}")
            arrived.add(parent, cotangent, node.fresh)
    for leaf, total in arrived.sums.items():  # each Node's sum was taken out in its turn
        _add_to_grad(leaf, total, leaf in arrived.owned)


def _initial_cotangent(root: Tensor, g: Array | None) -> Array:
    xp = get_array_module(root.data)
    if g is None:
        if root.data.size != 1:
            raise ValueError(f"got shape {root.shape} without a cotangent, expected a scalar")
        return xp.ones_like(root.data)
    if tuple(g.shape) != root.shape:
        raise ValueError(f"got a cotangent of shape {tuple(g.shape)}, expected {root.shape}")
    return g.astype(root.dtype, copy=False)


def _add_to_grad(leaf: Tensor, g: Array, owned: bool) -> None:
    xp = get_array_module(g)
    if leaf.grad is None:
        leaf.grad = g if owned else xp.array(g)
    else:
        xp.add(leaf.grad, g, out=leaf.grad)

"""kept_arrays: what a recorded graph keeps alive for its backward pass, found by looking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType

from minilora.autograd.tensor import Node, Tensor
from minilora.backend import Array


def kept_arrays(result: Tensor, apart_from: Iterable[Array] = ()) -> list[Array]:
    """The arrays that vjps below `result` captured, each piece of memory once.

    A view counts as the array that owns its memory. apart_from: arrays (or stored arrays) that
    would live anyway, as the weights. Raises ValueError for a result that nothing was recorded for.
    """
    if result.node is None:
        raise ValueError("got the result of no recorded op, expected one that needs a gradient")
    left_out = {id(owner) for array in apart_from for owner in _owners(array)}
    found: dict[int, Array] = {}
    for node in _nodes(result.node):
        for array in _captured([*node.vjps, node.prepare], set()):
            for owner in _owners(array):
                if id(owner) not in left_out:
                    found[id(owner)] = owner
    return list(found.values())


def _nodes(root: Node) -> Iterator[Node]:
    seen, waiting = {root}, [root]
    while waiting:
        node = waiting.pop()
        yield node
        for parent in node.parents:
            if isinstance(parent, Node) and parent not in seen:
                seen.add(parent)
                waiting.append(parent)


def _owners(array: Array) -> Iterator[Array]:
    """The arrays whose memory this one shows: its base's, or the fields of a stored one."""
    if hasattr(array, "fields"):
        for field in array.fields:
            yield from _owners(field)
        return
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    yield array


def _captured(things: Iterable[object], seen: set[int]) -> Iterator[Array]:
    """Arrays in closures, defaults, bound methods and the containers in them."""
    for thing in things:
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            yield from _captured([thing.data], seen)
        elif hasattr(thing, "nbytes") and hasattr(thing, "shape"):
            yield thing
        elif isinstance(thing, FunctionType):
            cells = thing.__closure__ or ()
            inside = [cell.cell_contents for cell in cells if _is_filled(cell)]
            yield from _captured([*inside, *(thing.__defaults__ or ())], seen)
        elif isinstance(thing, MethodType):
            yield from _captured([thing.__func__, *_held(thing.__self__)], seen)
        elif isinstance(thing, partial):
            yield from _captured([thing.func, *thing.args, *thing.keywords.values()], seen)
        elif isinstance(thing, Mapping):
            yield from _captured(thing.values(), seen)
        elif isinstance(thing, (list, tuple)):
            yield from _captured(thing, seen)
        elif hasattr(thing, "parts"):  # a stored matrix with an update, a small dataclass
            yield from _captured(vars(thing).values(), seen)


def _held(owner: object) -> list[object]:
    return [owner, *getattr(owner, "__dict__", {}).values()]


def _is_filled(cell: object) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def total_bytes(arrays: Iterable[Array]) -> int:
    """Bytes of all of them."""
    return sum(array.nbytes for array in arrays)

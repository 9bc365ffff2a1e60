"""A batch whose rows use different adapters: one base product, and a low-rank one by groups.

Rows of one adapter lie together, so that a layer is two batched products (Chen et al. 2023,
"Punica", Sec. 4: rows grouped by adapter; here on BLAS):

    y[rows of k] = x[rows of k] W^T + s_k (x[rows of k] A_k^T) B_k^T

An activated adapter's x is 0 before its invocation. How rows are grouped is worked out once for the
rows of a batch, and the factors that its groups need are put side by side once a layer, ranks
filled up with zeros. All layers and steps share both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from minilora.autograd import Tensor, is_grad_enabled
from minilora.autograd import functional as F
from minilora.backend import Array, get_array_module
from minilora.nn import Linear
from minilora.nn.decode import product_through, times
from minilora.nn.rows import Picked, Rows, rows_seen

CALL = 4
"""What one more product costs, in rows of one: a group is cut in several, or filled up with rows
that are thrown away, whichever is less work."""
GROUPINGS = 4
"""Groupings that are kept: those of the rows that are read now, and of their chosen positions."""


class Factors(NamedTuple):
    """What one adapter adds to one Linear: A (r, in), B (out, r) and s."""

    A: Array
    B: Array
    scaling: float


class Loaded(NamedTuple):
    """An adapter beside its base: module -> its factors, and from which tokens on it acts.

    invocation: as in LoRAConfig; None for an adapter that acts at every position.
    """

    factors: Mapping[str, Factors]
    invocation: tuple[int, ...] | None = None


class Groups(NamedTuple):
    """Rows laid out as `of` groups of equal size, for batched products.

    of (K,): the adapter of each group. take (K n,): the row in each place, None where rows lie so
    already. rows: those that have an adapter, None where all have. place: where each of them is.
    """

    of: np.ndarray
    take: np.ndarray | None
    rows: np.ndarray | None
    place: np.ndarray | None


EVERY = Groups(np.zeros(1, dtype=np.int64), None, None, None)
"""One group of every row, however many there are."""


def group(adapter_of: np.ndarray, positions: int = 1) -> Groups:
    """Groups of rows; adapter_of (N,): the adapter of each row, -1 for none.

    positions: of each row, by which a product grows.
    """
    order = np.argsort(adapter_of, kind="stable")
    order = order[np.searchsorted(adapter_of[order], 0) :]
    of, counts = np.unique(adapter_of[order], return_counts=True)
    size = _size(counts, positions)
    if size == 1:  # each row is a group: there is nothing to sort
        order = np.flatnonzero(adapter_of >= 0)
        of, counts = adapter_of[order], np.ones(len(order), dtype=np.int64)
    groups = -(-counts // size)
    first = np.repeat(np.cumsum(groups * size) - groups * size, counts)
    place = first + np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    take = np.zeros(int(groups.sum()) * size, dtype=np.int64)
    take[place] = order
    everywhere = len(order) == len(adapter_of)
    if everywhere and np.array_equal(take, np.arange(len(adapter_of))):
        return Groups(np.repeat(of, groups), None, None, None)
    by_row = np.argsort(order)
    rows = None if everywhere else order[by_row]
    return Groups(np.repeat(of, groups), take, rows, place[by_row])


def _size(counts: np.ndarray, positions: int) -> int:
    """The size of groups that costs least, filled up and called."""
    sizes = {1 << i for i in range(int(counts.max()).bit_length())} | set(counts.tolist())
    return min(sorted(sizes), key=lambda n: int((-(-counts // n)).sum()) * (n * positions + CALL))


class Update:
    """What a grouping adds to one Linear: A (K, r, in) and s B^T (K, r, out) of its groups."""

    def __init__(self, groups: Groups, factors: Sequence[Factors]) -> None:
        """factors: of every group."""
        first = factors[0]
        xp, rank = get_array_module(first.A), max(len(one.A) for one in factors)
        a = xp.zeros((len(factors), rank, first.A.shape[1]), first.A.dtype)
        self.b = xp.zeros((len(factors), rank, len(first.B)), first.B.dtype)
        for i, one in enumerate(factors):
            a[i, : len(one.A)] = one.A
            xp.multiply(one.B.T, one.scaling, out=self.b[i, : len(one.A)])
        self.a = a.swapaxes(1, 2)
        self.take, self.rows, self.place = (
            None if part is None else xp.asarray(part) for part in groups[1:]
        )

    def add(self, x: Array, y: Array, acting: Array | bool = True) -> None:
        """Add to y (N, ..., out) what the rows' adapters make of x (N, ..., in), in place.

        acting: 1 where they act and 0 elsewhere (N, ..., 1), or one for all.
        """
        if acting is False:
            return
        xp = get_array_module(x)
        x = x if acting is True else x * acting
        laid = x if self.take is None else x.take(self.take, axis=0)
        change = xp.matmul(xp.matmul(laid.reshape(len(self.a), -1, x.shape[-1]), self.a), self.b)
        change = change.reshape(*laid.shape[:-1], y.shape[-1])
        if self.place is not None:
            change = change.take(self.place, axis=0)
        if self.rows is None:
            y += change
        else:
            y[self.rows] += change


class Mix:
    """The adapters of a batch's rows, with the groupings of the rows that are being read."""

    def __init__(self, adapters: Sequence[Loaded], adapter_of: Sequence[int]) -> None:
        """adapter_of: for each row of the batch a number among the adapters, -1 for the base."""
        self.assign(adapters, adapter_of)

    def assign(self, adapters: Sequence[Loaded], adapter_of: Sequence[int]) -> None:
        """Make this the mix of another batch; layers that hold it go on with that."""
        self.adapters, self.adapter_of = list(adapters), np.array(adapter_of, dtype=np.int64)
        self._groupings: dict[int, _Grouping] = {}
        own = [one.invocation for one in self.adapters] + [None]  # the last is the base
        self._waiting = {
            tokens: np.array([tokens == other for other in own])
            for tokens in dict.fromkeys(own)
            if tokens is not None
        }
        self._acting: tuple[Rows | Picked | None, Array | bool] = None, True

    def acting(self, rows: Rows | Picked, x: Array) -> Array | bool:
        """Where the adapters of these rows act on x (N, ..., in): 1 or 0 (N, ..., 1), or for all.

        One that waits for an invocation acts from its row's last one on.
        """
        if not self._waiting:
            return True
        if self._acting[0] is not rows:
            used = self.adapter_of[rows.of]
            own = {tokens: waits[used] for tokens, waits in self._waiting.items()}
            self._acting = rows, acting_on(x, rows, own)
        return self._acting[1]

    def update(self, module: str, rows: Rows | Picked | None, x: Array) -> Update | None:
        """What is added to the module's output for x; None where no row's adapter has it.

        Raises ValueError where the batch that is read has another number of rows.
        """
        batch = len(self.adapter_of)
        if rows is None or rows.batch != batch:
            got = "a layer outside its model" if rows is None else f"a batch of {rows.batch} rows"
            raise ValueError(f"got {got}, expected the {batch} rows that were named")
        grouping = self._groupings.get(id(rows.of))
        if grouping is None:
            grouping = _Grouping(rows.of, self.adapter_of[rows.of], x.size // x.shape[-1])
            while len(self._groupings) >= GROUPINGS:
                self._groupings.pop(next(iter(self._groupings)))
            self._groupings[id(rows.of)] = grouping
        return grouping.update(module, self.adapters)


def acting_on(
    x: Array, rows: Rows | Picked, waiting: Mapping[tuple[int, ...], np.ndarray]
) -> Array | bool:
    """As `Mix.acting`; waiting: invocation -> which of the rows (N,) wait for it."""
    time = 1 if x.ndim == 2 else x.shape[1]
    acts = np.ones((len(rows.of), time), dtype=bool)
    for tokens, own in waiting.items():
        if own.any():
            where = rows.acting(tokens, time)
            acts[own] = where if isinstance(where, bool) else where.reshape(acts.shape)[own]
    if acts.all() or not acts.any():
        return bool(acts.all())
    return get_array_module(x).asarray(acts.reshape(*x.shape[:-1], 1), dtype=x.dtype)


class _Grouping:
    """Groups of some rows of a batch, for each set of adapters that have a module, and its parts.

    of: the array that says which rows these are; it is held, so that no other gets its id.
    """

    def __init__(self, of: np.ndarray, adapter_of: np.ndarray, positions: int) -> None:
        self.of, self.adapter_of = of, adapter_of
        self.positions = positions // max(1, len(of))
        self._groups: dict[bytes, Groups | None] = {}
        self._updates: dict[str, Update | None] = {}

    def update(self, module: str, adapters: Sequence[Loaded]) -> Update | None:
        """As `Mix.update`."""
        if module not in self._updates:
            has = np.array([module in one.factors for one in adapters] + [False])  # and the base
            groups = self._grouped(has)
            factors = () if groups is None else [adapters[k].factors[module] for k in groups.of]
            self._updates[module] = Update(groups, factors) if len(factors) else None
        return self._updates[module]

    def _grouped(self, has: np.ndarray) -> Groups | None:
        key = has.tobytes()
        if key not in self._groups:
            own = np.where(has[self.adapter_of], self.adapter_of, -1)
            self._groups[key] = group(own, self.positions) if (own >= 0).any() else None
        return self._groups[key]


class Chosen:
    """What a bank's layers add now: nothing, one adapter for every row, or a mix."""

    def __init__(self) -> None:
        self.alone: Loaded | None = None
        self.mix: Mix | None = None


class BankLinear(Linear):
    """A Linear of the base with the same parameters, to whose output the chosen adapters add."""

    def __init__(self, base_layer: Linear, name: str, chosen: Chosen) -> None:
        super(Linear, self).__init__()
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.weight, self.bias = base_layer.weight, base_layer.bias
        self.name, self.chosen = name, chosen
        self.train(base_layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        one = self._alone()
        if one is not None and self.chosen.alone.invocation is None:
            A, B, scaling = one
            return F.lora_linear(x, self.weight, Tensor(A), Tensor(B), scaling, self.bias)
        y, add = F.linear(x, self.weight, self.bias), self._addition()
        if add is not None:
            if is_grad_enabled() and x.requires_grad:
                raise ValueError(
                    "got an input that asks for a gradient, expected none: mixed and activated "
                    "adapters are in a bank for answers"
                )
            add(x.data, y.data)
        return y

    def _alone(self) -> Factors | None:
        """The factors of the adapter that every row uses, where it has this module."""
        alone = self.chosen.alone if self.chosen.mix is None else None
        return None if alone is None else alone.factors.get(self.name)

    def _addition(self) -> Callable[[Array, Array], None] | None:
        """(x, y), which adds to y (N, ..., out) what is chosen; None where that is nothing."""
        mix, name, of, update = self.chosen.mix, self.name, None, None
        if mix is not None:

            def add(x: Array, y: Array) -> None:
                nonlocal of, update
                rows = rows_seen()
                if of is None or rows.of is not of:
                    update = mix.update(name, rows, x)
                    of = rows.of
                if update is not None:
                    update.add(x, y, mix.acting(rows, x))

            return add
        one = self._alone()
        if one is None:
            return None
        every, tokens = Update(EVERY, [one]), self.chosen.alone.invocation

        def add_to_all(x: Array, y: Array) -> None:
            rows = rows_seen()
            every.add(x, y, acting_on(x, rows, {tokens: np.ones(len(rows.of), dtype=bool)}))

        return add_to_all

    def matrix(self) -> Array | None:
        """W, or W + ΔW of the adapter that is used alone; None where it is no single matrix."""
        held, one = super().matrix(), self._alone()
        if held is None or self.chosen.mix is not None:
            return None
        if one is None:
            return held
        if self.chosen.alone.invocation is not None:
            return None
        return held + (one.B * one.scaling) @ one.A

    def row_product(self) -> Callable[[Array, Array], Array]:
        """(h, out) -> out, in which the outputs for one position of each row h (B, in) go.

        One adapter for all rows is one product with W + ΔW. Of a mix, W's product comes first.
        """
        held, matrix = super().matrix(), self.matrix()
        if matrix is not None:
            return times(matrix)
        if held is None:
            return product_through(self)
        base, add = times(held), self._addition()

        def mixed(h: Array, out: Array) -> Array:
            base(h, out)
            add(h, out)
            return out

        return mixed

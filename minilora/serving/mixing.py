"""A batch whose rows use different adapters: one base product, and a low-rank one by groups.

Rows of one adapter lie together, so that a layer is two batched products (Chen et al. 2023,
"Punica", Sec. 4: rows grouped by adapter; here on BLAS):

    y[rows of k] = x[rows of k] W^T + s_k (x[rows of k] A_k^T) B_k^T

How rows are grouped is worked out once for the rows of a batch, and the factors that its groups
need are put side by side once a layer, ranks filled up with zeros. All layers and steps share both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from minilora.autograd import Tensor, is_grad_enabled
from minilora.autograd import functional as F
from minilora.backend import Array, get_array_module
from minilora.nn import Linear
from minilora.nn.decode import times
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


Loaded = Mapping[str, Factors]
"""An adapter beside its base: module -> its factors."""


class Groups(NamedTuple):
    """Rows laid out as `of` groups of equal size, for batched products.

    of (K,): the adapter of each group. take (K n,): the row in each place, None where rows lie so
    already. rows: those that have an adapter, None where all have. place: where each of them is.
    """

    of: np.ndarray
    take: np.ndarray | None
    rows: np.ndarray | None
    place: np.ndarray | None


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

    def add(self, x: Array, y: Array) -> None:
        """Add to y (N, ..., out) what the rows' adapters make of x (N, ..., in), in place."""
        xp = get_array_module(x)
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
        self.adapters, self.adapter_of = list(adapters), np.array(adapter_of, dtype=np.int64)
        self._groupings: dict[int, _Grouping] = {}

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
            has = np.array([module in one for one in adapters] + [False])  # the last is the base
            groups = self._grouped(has)
            factors = () if groups is None else [adapters[k][module] for k in groups.of]
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
        mix, alone = self.chosen.mix, self.chosen.alone
        if mix is not None:
            return self._mixed(x, mix.update(self.name, rows_seen(), x.data))
        if alone is None or self.name not in alone:
            return F.linear(x, self.weight, self.bias)
        A, B, scaling = alone[self.name]
        return F.lora_linear(x, self.weight, Tensor(A), Tensor(B), scaling, self.bias)

    def _mixed(self, x: Tensor, update: Update | None) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        if update is None:
            return y
        if is_grad_enabled() and x.requires_grad:
            raise ValueError(
                "got an input that asks for a gradient, expected none: a batch of several adapters "
                "is for answers"
            )
        update.add(x.data, y.data)
        return y

    def matrix(self) -> Array | None:
        """W, or W + ΔW of the adapter that is used alone; None where it is no single matrix."""
        held = super().matrix()
        if held is None or self.chosen.mix is not None:
            return None
        one = (self.chosen.alone or {}).get(self.name)
        return held if one is None else held + (one.B * one.scaling) @ one.A

    def row_product(self) -> Callable[[Array, Array], Array]:
        """(h, out) -> out, in which the outputs for one position of each row h (B, in) go.

        One adapter for all rows is one product with W + ΔW. Of a mix, W's product comes first.
        """
        mix, held = self.chosen.mix, super().matrix()
        matrix = held if mix is not None else self.matrix()
        whole = self._through_forward if matrix is None else times(matrix)
        if mix is None or matrix is None:
            return whole
        name, of, update = self.name, None, None

        def mixed(h: Array, out: Array) -> Array:
            nonlocal of, update
            whole(h, out)
            rows = rows_seen()
            if rows.of is not of:
                of, update = rows.of, mix.update(name, rows, h)
            if update is not None:
                update.add(h, out)
            return out

        return mixed

    def _through_forward(self, h: Array, out: Array) -> Array:
        out[...] = self(Tensor(h)).data
        return out

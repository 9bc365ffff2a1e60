"""Rows: which rows of a batch a layer's input stands for, and from which position on.

A batch does not reach a layer as it was given: prompts are read a few at a time, rows whose answers
have ended leave, training cuts a batch in pieces, and the last block flattens the positions that
are wanted. A layer that treats rows differently asks `rows_seen` which ones its input holds; each
place that cuts rows says so with `seeing`. Layers that don't ask pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from minilora.backend import Array, to_numpy


@dataclass(frozen=True, eq=False)
class Rows:
    """What the rows of a layer's input (N, T, C), or (N, C) in a step of one token, stand for.

    batch: how many rows the whole batch has. of (N,): which of them each row here is; it stays the
    same array while the same rows go on, so that what is worked out for it can be kept. column:
    where the input's first position stands in the padded batch. padding (N,): how many columns of
    padding each row has on its left, None for none. said: what each row said at first, None where
    that is not known. invoked: for every row at once, whether its layers that wait for an
    invocation act; None where `said` decides.
    """

    batch: int
    of: np.ndarray
    column: int = 0
    padding: Array | None = None
    said: Said | None = None
    invoked: bool | None = None

    @property
    def at(self) -> int | np.ndarray:
        """The first position of every row, counted from its own first token: one, or (N,).

        Negative where the row begins with padding.
        """
        return self.column if self.padding is None else self.column - to_numpy(self.padding)

    def cut(self, rows: Array | slice) -> Rows:
        """These rows of it alone: indices on the host, or a slice."""
        return replace(
            self,
            of=self.of[rows],
            padding=None if self.padding is None else self.padding[rows],
            said=None if self.said is None else self.said.cut(rows),
        )

    def placed(self, column: int, padding: Array | None) -> Rows:
        """The same rows, with what is known of their positions."""
        return replace(self, column=column, padding=padding)

    def saying(self, ids: Array, padding: Array | None) -> Rows:
        """The same rows, whose first tokens are ids (N, T), `padding` (N,) of each none of them."""
        return replace(self, said=Said(ids, padding))

    def all_acting(self, invoked: bool) -> Rows:
        """The same rows, in all of which layers that wait for an invocation act, or in none."""
        return replace(self, invoked=invoked)

    def acting(self, invocation: tuple[int, ...], time: int) -> bool | np.ndarray:
        """Where a layer acts that waits for these tokens: True or False for all, or (N, time).

        It acts from the first token of their last occurrence in what the row said at first; in a
        row without them nowhere. Raises ValueError where it is not known what the rows said.
        """
        if self.invoked is not None:
            return self.invoked
        if self.said is None:
            raise ValueError(
                "got positions after others whose tokens are not known, expected rows that said "
                "what they hold: an activated adapter looks for its invocation there"
            )
        first = np.asarray(self.at)
        since = self.said.since(invocation) - first
        if (since >= time).all():
            return False
        return True if (since <= 0).all() else np.arange(time) >= since[:, None]

    def picked(self, only: Array, time: int) -> Picked:
        """What the rows of a flat input (len(only), C) stand for, `only` among N x `time`."""
        return Picked(self, only, time)


class Said:
    """What the rows of a batch said at first: ids (N, T), `padding` (N,) of each none of them.

    The ids may be on a device: they are looked at when a layer asks, once for each invocation.
    """

    def __init__(self, ids: Array, padding: Array | None) -> None:
        self._ids, self._padding = ids, padding
        self._since: dict[tuple[int, ...], np.ndarray] = {}

    def cut(self, rows: Array | slice) -> Said:
        """What these rows said."""
        return Said(self._ids[rows], None if self._padding is None else self._padding[rows])

    def since(self, invocation: tuple[int, ...]) -> np.ndarray:
        """(N,): where each row's last occurrence of these tokens begins, NEVER without one.

        Counted from the row's own first token.
        """
        if invocation not in self._since:
            ids = to_numpy(self._ids)
            padding = np.zeros(len(ids), int) if self._padding is None else to_numpy(self._padding)
            own = [row[blank:] for row, blank in zip(ids, padding, strict=True)]
            self._since[invocation] = np.array([last_place(row, invocation) for row in own])
        return self._since[invocation]


NEVER = 1 << 40
"""A place that no row reaches."""


def last_place(ids: np.ndarray, tokens: Sequence[int]) -> int:
    """Where the last occurrence of these tokens in ids (T,) begins, NEVER for none (as in PEFT)."""
    count = len(ids) - len(tokens) + 1
    if count < 1:
        return NEVER
    fits = np.ones(count, bool)
    for i, token in enumerate(tokens):
        fits &= ids[i : i + count] == token
    places = np.flatnonzero(fits)
    return int(places[-1]) if len(places) else NEVER


class Picked:
    """Single positions, each a row of a flat input: `batch`, `of` and `at` as in `Rows`, (N,) each.

    `only` may be on a device, so it is looked at when a layer asks, and not before.
    """

    def __init__(self, rows: Rows, only: Array, time: int) -> None:
        self.batch, self._rows, self._only, self._time = rows.batch, rows, only, time
        self._acting: dict[tuple[int, ...], bool | np.ndarray] = {}

    @cached_property
    def _place(self) -> tuple[np.ndarray, np.ndarray]:
        only = to_numpy(self._only)
        return only // self._time, only % self._time

    @cached_property
    def of(self) -> np.ndarray:
        """Which row of the batch each position belongs to."""
        return self._rows.of[self._place[0]]

    @cached_property
    def at(self) -> np.ndarray:
        """Each position, counted from its row's own first token."""
        row, column = self._place
        first = self._rows.at
        return column + (first if isinstance(first, int) else first[row])

    def acting(self, invocation: tuple[int, ...], time: int = 1) -> bool | np.ndarray:
        """As `Rows.acting`: True or False for all positions, or (N,)."""
        if invocation not in self._acting:
            where = self._rows.acting(invocation, self._time)
            self._acting[invocation] = where if isinstance(where, bool) else where[self._place]
        return self._acting[invocation]


_SEEN: ContextVar[Rows | Picked | None] = ContextVar("rows", default=None)


def rows_seen() -> Rows | Picked | None:
    """What a layer's input stands for now; None outside a model's own forward pass."""
    return _SEEN.get()


class seeing:
    """In the `with`, the rows that are read are these."""

    __slots__ = ("rows", "token")

    def __init__(self, rows: Rows | Picked | None) -> None:
        self.rows = rows

    def __enter__(self) -> None:
        self.token = _SEEN.set(self.rows)

    def __exit__(self, *_: object) -> None:
        _SEEN.reset(self.token)


def rows_of(count: int) -> Rows:
    """What `count` rows that are about to be read stand for: those that are seen now, or a batch.

    Raises ValueError where another number of rows is seen.
    """
    rows = _SEEN.get()
    if rows is None:
        return Rows(count, np.arange(count))
    if len(rows.of) != count:
        raise ValueError(f"got {count} rows to read, expected the {len(rows.of)} that are seen")
    return rows

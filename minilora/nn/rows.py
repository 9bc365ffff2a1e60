"""Rows: which rows of a batch a layer's input stands for, and from which position on.

A batch does not reach a layer as it was given: prompts are read a few at a time, rows whose answers
have ended leave, training cuts a batch in pieces, and the last block flattens the positions that
are wanted. A layer that treats rows differently asks `rows_seen` which ones its input holds; each
place that cuts rows says so with `seeing`. Layers that don't ask pay nothing for it.
"""

from __future__ import annotations

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
    padding each row has on its left, None for none.
    """

    batch: int
    of: np.ndarray
    column: int = 0
    padding: Array | None = None

    @property
    def at(self) -> int | np.ndarray:
        """The first position of every row, counted from its own first token: one, or (N,).

        Negative where the row begins with padding.
        """
        return self.column if self.padding is None else self.column - to_numpy(self.padding)

    def cut(self, rows: Array | slice) -> Rows:
        """These rows of it alone: indices on the host, or a slice."""
        return replace(
            self, of=self.of[rows], padding=None if self.padding is None else self.padding[rows]
        )

    def placed(self, column: int, padding: Array | None) -> Rows:
        """The same rows, with what is known of their positions."""
        return replace(self, column=column, padding=padding)

    def picked(self, only: Array, time: int) -> Picked:
        """What the rows of a flat input (len(only), C) stand for, `only` among N x `time`."""
        return Picked(self, only, time)


class Picked:
    """Single positions, each a row of a flat input: `batch`, `of` and `at` as in `Rows`, (N,) each.

    `only` may be on a device, so it is looked at when a layer asks, and not before.
    """

    def __init__(self, rows: Rows, only: Array, time: int) -> None:
        self.batch, self._rows, self._only, self._time = rows.batch, rows, only, time

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

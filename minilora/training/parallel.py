"""Data-parallel training in forked processes that share the trainable parameters.

Each process takes some rows of every batch with one BLAS thread. On two cores this beats one
process with two BLAS threads, because nothing waits at the end of each small product; and with
LoRA only the adapter's gradients have to be added up. They are added in a fixed order, so a run
repeats bit for bit with the same number of workers.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

import numpy as np

from minilora.autograd import Tensor
from minilora.backend import get_array_module, keep_freed_memory, to_floats
from minilora.limits import require_count
from minilora.nn import Module, Parameter, Transformer
from minilora.nn.reading import read_past
from minilora.nn.rows import Rows, rows_of, seeing
from minilora.nn.transformer import Past
from minilora.processes import Child, answer_of, fork_child, send, serve

MOST_WORKERS = 64
"""Processes at most: a mistyped number would fork until the memory is gone."""
PIECE_TOKENS = 1024
"""Positions worked on at a time. Each piece costs Python's share of a step once more, and a large
one more memory; data/bench/README.md compares sizes."""
CACHE_LINE = 64
"""Bytes: shared arrays begin at multiples of it, so that no two share one."""


@dataclass(frozen=True)
class Piece:
    """Rows of one step's batch, with the seed of the dropout masks drawn on them.

    rows: which rows of the batch these are; None where they are the whole of it. prompts: of each
    row what comes before its ids, where that is read without gradients; None where nothing does.
    examples: the numbers of the examples that the rows are, beside prompts.
    """

    ids: np.ndarray
    labels: np.ndarray
    seed: tuple[int, ...]
    rows: Rows | None = None
    prompts: tuple[np.ndarray, ...] | None = None
    examples: np.ndarray | None = None

    @property
    def positions(self) -> int:
        """How many are read, padding included."""
        read = self.prompts or ()
        return self.ids.size + len(read) * max(map(len, read), default=0)


def seed_dropout(model: Module, seed: tuple[int, ...]) -> None:
    """Give every layer that draws dropout masks a generator that depends on `seed` alone."""
    for i, (_, module) in enumerate(model.named_modules()):
        if hasattr(module, "dropout_rng"):
            module.dropout_rng = np.random.default_rng([*seed, i])


Read = Callable[[Transformer, Piece], Past]
"""What reads the prompts of a piece."""


def read_prompts(model: Transformer, piece: Piece) -> Past:
    """Keys and values of a piece's prompts, read now."""
    return read_past(model, piece.prompts)


def piece_loss(model: Transformer, piece: Piece, normalizer: float, past: Past | None) -> Tensor:
    """The loss of a piece; past: its prompts as they were read, None for a piece without."""
    rows = piece.rows
    if past is not None:
        rows = (rows_of(len(piece.ids)) if rows is None else rows).all_acting(True)
    with seeing(rows):
        return model.loss(piece.ids, piece.labels, normalizer, past)


def accumulate_gradients(
    model: Transformer, pieces: Sequence[Piece], normalizer: float, read: Read = read_prompts
) -> float:
    """Forward and backward of one piece after another; gradients add up, losses are summed.

    Depth first: a piece's arrays are gone before the next begins, so memory is that of one piece.
    The losses are read after the last piece, so that a device is waited for once.
    """
    losses, total = [], 0.0
    for piece in pieces:
        seed_dropout(model, piece.seed)
        past = None if piece.prompts is None else read(model, piece)
        loss = piece_loss(model, piece, normalizer, past)
        loss.backward()
        losses.append(loss.data)
    for value in to_floats(losses):
        total += value
    return total


def _shared_arrays(parameters: Sequence[Parameter]) -> list[np.ndarray]:
    """One array per parameter, of its shape and dtype, in memory that forked processes share."""
    sizes = [-(-p.data.nbytes // CACHE_LINE) * CACHE_LINE for p in parameters]
    memory = mmap.mmap(-1, max(sum(sizes), CACHE_LINE))  # lives as long as an array on it does
    starts = np.cumsum([0, *sizes[:-1]])
    return [
        np.frombuffer(memory, p.dtype, p.size, offset=int(start)).reshape(p.shape)
        for p, start in zip(parameters, starts, strict=True)
    ]


class Workers:
    """`count` processes, this one the first; use as a context manager around the steps.

    Each forked process has the whole model. For every step it is sent some pieces of the batch,
    writes the sum of their gradients into shared arrays, and sends back the sum of their losses.
    This process does its own pieces meanwhile, adds everything up in the order of the processes,
    and takes the step; the trainable parameters are in shared memory too, so all see the new ones.
    At the end their values go back to ordinary arrays. With count 1 nothing is forked.

    accumulate: (pieces, normalizer) -> the summed loss, or an array of several losses, with the
    gradients added to `grad` of the parameters; by default `accumulate_gradients` of the model.
    parameters: those that it trains; by default all of the model's that ask for gradients.

    Raises ValueError for a count below 1 or beyond MOST_WORKERS, or above 1 on a GPU or where the
    system can't fork.
    """

    def __init__(
        self,
        model: Transformer,
        count: int,
        accumulate: Callable[[Sequence[Piece], float], float | np.ndarray] | None = None,
        parameters: Sequence[Parameter] | None = None,
    ) -> None:
        require_count("workers", count, 1, MOST_WORKERS)
        self.model, self.count = model, count
        self.accumulate = accumulate or partial(accumulate_gradients, model)
        trained = [p for p in model.parameters() if p.requires_grad]
        self.parameters = trained if parameters is None else list(parameters)
        on_host = all(get_array_module(p.data) is np for p in self.parameters)
        if count > 1 and not (on_host and hasattr(os, "fork")):
            raise ValueError(f"got {count} workers, expected 1 on a GPU or where fork is missing")

    def __enter__(self) -> Workers:
        self.children: list[Child] = []
        self.shared: list[list[np.ndarray]] = []  # each child's gradients
        keep_freed_memory()  # Called before the fork, so that it holds in every process.
        try:
            if self.count > 1:
                self._share_parameters()
                for _ in range(self.count - 1):
                    self._fork_one()
        except BaseException:  # Python calls no __exit__ for an __enter__ that failed.
            self.__exit__()
            raise
        return self

    def _share_parameters(self) -> None:
        """Move the trainable parameters into shared memory, where every process sees each step."""
        arrays = _shared_arrays(self.parameters)
        for parameter, array in zip(self.parameters, arrays, strict=True):
            array[...] = parameter.data
            parameter.data = array

    def _fork_one(self) -> None:
        gradients = _shared_arrays(self.parameters)
        self.children.append(fork_child(self._serve, self.children, gradients))
        self.shared.append(gradients)

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.pipe.close()  # The child reads the end of its pipe and leaves.
            child.process.join(timeout=5)
            if child.process.is_alive():
                child.process.kill()
                child.process.join()
        if self.count > 1:
            for parameter in self.parameters:
                parameter.data = parameter.data.copy()

    def _serve(self, pipe: Connection, gradients: list[np.ndarray]) -> None:
        """A child's life: for each message of pieces, gradients into shared memory and the loss."""

        def answer(message: tuple[Sequence[Piece], float]) -> float | np.ndarray:
            loss = self._own_gradients(*message)
            for parameter, array in zip(self.parameters, gradients, strict=True):
                array[...] = 0.0 if parameter.grad is None else parameter.grad
            return loss

        serve(pipe, answer)

    def _own_gradients(self, pieces: Sequence[Piece], normalizer: float) -> float | np.ndarray:
        """Gradients of these pieces in `grad`, computed in this process; the summed loss."""
        for parameter in self.parameters:
            parameter.zero_grad()
        return self.accumulate(pieces, normalizer)

    def gradients(self, pieces: Sequence[Piece], normalizer: float) -> float | np.ndarray:
        """Leave the summed gradient of all pieces in `grad`; the summed loss.

        Each process gets an equal run of the pieces, in their order. Raises what a worker raised,
        or ChildProcessError when one has died.
        """
        shares = np.array_split(np.arange(len(pieces)), self.count)
        own, *others = ([pieces[i] for i in share] for share in shares)
        for child, share in zip(self.children, others, strict=True):
            send(child, (share, normalizer))
        total = self._own_gradients(own, normalizer)
        answers = [answer_of(child) for child in self.children]  # of all, before one is raised
        for gradients, answer in zip(self.shared, answers, strict=True):
            if isinstance(answer, Exception):
                raise answer
            total = total + answer
            self._add(gradients)
        return total

    def _add(self, gradients: Sequence[np.ndarray]) -> None:
        """Add a child's gradients to those of this process."""
        for parameter, array in zip(self.parameters, gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = array.copy()
            else:
                parameter.grad += array

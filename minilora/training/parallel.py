"""Data-parallel training in forked processes that share the trainable parameters.

Each process takes some rows of every batch with one BLAS thread. On two cores this beats one
process with two BLAS threads, because nothing waits at the end of each small product; and with
LoRA only the adapter's gradients have to be added up. They are added in a fixed order, so a run
repeats bit for bit with the same number of workers.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import signal
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minilora.backend import get_array_module, keep_freed_memory, to_floats
from minilora.machine import usable_cores
from minilora.nn import Module, Parameter, Transformer

MOST_WORKERS = 64
"""Processes at most: a mistyped number would fork until the memory is gone."""


@dataclass(frozen=True)
class Piece:
    """Rows of one step's batch, with the seed of the dropout masks drawn on them."""

    ids: np.ndarray
    labels: np.ndarray
    seed: tuple[int, ...]


def recommended_workers() -> int:
    """One process a core, at most four; one where the system can't fork."""
    forks = "fork" in multiprocessing.get_all_start_methods() and os.name == "posix"
    return min(usable_cores(), 4) if forks else 1


def seed_dropout(model: Module, seed: tuple[int, ...]) -> None:
    """Give every layer that draws dropout masks a generator that depends on `seed` alone."""
    for i, (_, module) in enumerate(model.named_modules()):
        if hasattr(module, "dropout_rng"):
            module.dropout_rng = np.random.default_rng([*seed, i])


def accumulate_gradients(model: Transformer, pieces: Sequence[Piece], normalizer: float) -> float:
    """Forward and backward of one piece after another; gradients add up, losses are summed.

    Depth first: a piece's arrays are gone before the next begins, so memory is that of one piece.
    The losses are read after the last piece, so that a device is waited for once.
    """
    losses, total = [], 0.0
    for piece in pieces:
        seed_dropout(model, piece.seed)
        loss = model.loss(piece.ids, piece.labels, normalizer)
        loss.backward()
        losses.append(loss.data)
    for value in to_floats(losses):
        total += value
    return total


class _SharedArrays:
    """One array per parameter in memory that forked processes share."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        sizes = [-(-p.data.nbytes // 64) * 64 for p in parameters]
        self.memory = mmap.mmap(-1, max(sum(sizes), 64))
        starts = np.cumsum([0, *sizes[:-1]])
        self.arrays = [
            np.frombuffer(self.memory, p.dtype, p.size, offset=int(start)).reshape(p.shape)
            for p, start in zip(parameters, starts, strict=True)
        ]


class Workers:
    """`count` processes, this one the first; use as a context manager around the steps.

    Inside, trainable parameters live in shared memory (their values go back to ordinary arrays at
    the end). With count 1 nothing is forked. Raises ValueError for a count below 1 or beyond
    MOST_WORKERS, or above 1 on a GPU or where the system can't fork.
    """

    def __init__(self, model: Transformer, count: int) -> None:
        self.model, self.count = model, count
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not 1 <= count <= MOST_WORKERS:
            raise ValueError(f"got {count} workers, expected 1 to {MOST_WORKERS}")
        on_host = all(get_array_module(p.data) is np for p in self.parameters)
        if count > 1 and not (on_host and recommended_workers() > 0 and hasattr(os, "fork")):
            raise ValueError(f"got {count} workers, expected 1 on a GPU or where fork is missing")

    def __enter__(self) -> Workers:
        self.children: list[tuple[multiprocessing.Process, object]] = []
        self.grads: list[_SharedArrays] = []
        keep_freed_memory()  # before the fork, so that every process does
        try:
            if self.count > 1:
                self._fork()
        except BaseException:  # Python calls no __exit__ for an __enter__ that failed
            self.__exit__()
            raise
        return self

    def _fork(self) -> None:
        shared = _SharedArrays(self.parameters)
        for parameter, array in zip(self.parameters, shared.arrays, strict=True):
            array[...] = parameter.data
            parameter.data = array
        self.grads = [_SharedArrays(self.parameters) for _ in range(self.count - 1)]
        context = multiprocessing.get_context("fork")
        for i in range(self.count - 1):
            ours, theirs = context.Pipe()
            others = [pipe for _, pipe in self.children] + [ours]
            args = (theirs, others, self.grads[i].arrays)
            child = context.Process(target=self._serve, args=args, daemon=True)
            child.start()
            theirs.close()
            self.children.append((child, ours))

    def __exit__(self, *_: object) -> None:
        for child, pipe in self.children:
            pipe.close()  # the child reads end-of-file and leaves
            child.join(timeout=5)
            if child.is_alive():
                child.kill()
                child.join()
        if self.count > 1:
            for parameter in self.parameters:
                parameter.data = parameter.data.copy()

    def _serve(self, pipe: object, inherited: list, arrays: list[np.ndarray]) -> None:
        """A child's life: read pieces, leave gradients in shared memory, answer with the loss."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
        for other in inherited:
            other.close()  # or the parent's end would never read as closed
        while True:
            try:
                pieces, normalizer = pipe.recv()
            except (EOFError, OSError):  # the parent is gone, or done with us
                os._exit(0)
            try:
                self.model.zero_grad()
                answer = accumulate_gradients(self.model, pieces, normalizer)
                for parameter, array in zip(self.parameters, arrays, strict=True):
                    array[...] = 0.0 if parameter.grad is None else parameter.grad
            except Exception as error:  # told to the parent, which raises it there
                answer = _portable(error)
            try:
                pipe.send(answer)
            except OSError:  # nobody waits for it any more
                os._exit(1)

    def gradients(self, pieces: Sequence[Piece], normalizer: float) -> float:
        """Leave the summed gradient of all pieces in `grad`; the summed loss.

        Pieces go to the processes in equal runs. Raises what a worker raised, or
        ChildProcessError when one has died.
        """
        self.model.zero_grad()
        runs = np.array_split(np.arange(len(pieces)), self.count)
        shares = [[pieces[i] for i in run] for run in runs]
        for (child, pipe), share in zip(self.children, shares[1:], strict=True):
            try:
                pipe.send((share, normalizer))
            except OSError:
                raise _death(child) from None
        total = accumulate_gradients(self.model, shares[0], normalizer)
        answers = [self._answer(child, pipe) for child, pipe in self.children]
        for answer, shared in zip(answers, self.grads, strict=True):
            if isinstance(answer, Exception):
                raise answer
            total += answer
            for parameter, array in zip(self.parameters, shared.arrays, strict=True):
                if parameter.grad is None:
                    parameter.grad = array.copy()
                else:
                    parameter.grad += array
        return total

    @staticmethod
    def _answer(child: multiprocessing.Process, pipe: object) -> float | Exception:
        try:
            return pipe.recv()
        except (EOFError, OSError):
            return _death(child)


def _portable(error: Exception) -> Exception:
    """The error itself where it survives pickling, its text where it does not."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"a worker raised {type(error).__name__}: {error}")
    return error


def _death(child: multiprocessing.Process) -> ChildProcessError:
    child.join(timeout=1)  # its pipe closes a moment before it has an exit code
    return ChildProcessError(f"a worker process died (exit code {child.exitcode})")

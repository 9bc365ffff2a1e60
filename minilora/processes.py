"""Work dealt to forked processes, which share every array with the one that forked them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, TypeVar

import numpy as np

from minilora.machine import usable_cores

AT_MOST = 4
"""Processes that are recommended at most: beyond that they wait for the memory."""

Job = TypeVar("Job")
Result = TypeVar("Result")


def may_fork() -> bool:
    """Whether the system can fork, and this process is not itself one that may have no children."""
    forks = "fork" in multiprocessing.get_all_start_methods() and os.name == "posix"
    return forks and not multiprocessing.current_process().daemon


def recommended_workers() -> int:
    """One process a core, at most four; one where nothing may be forked (`may_fork`).

    One with Apple's Accelerate too: a product in a forked process may hang there, because its
    threads are gone.
    """
    return min(usable_cores(), AT_MOST) if may_fork() and not uses_accelerate() else 1


def uses_accelerate() -> bool:
    """Whether this NumPy was built on Apple's Accelerate, as the wheels for new Macs are."""
    found = np.show_config(mode="dicts")["Build Dependencies"]
    return "accelerate" in str(found.get("blas", {}).get("name", "")).lower()


class Child(NamedTuple):
    """A forked process and our end of its pipe."""

    process: multiprocessing.Process
    pipe: Connection


def side_by_side(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int | None = None,
    done: Callable[[int], object] | None = None,
) -> list[Result]:
    """function(job) for every job, in the jobs' order, in `workers` forked processes.

    Runs that are apart anyway are best spread this way; `fit(workers=...)` splits a single one.
    Each process takes the next job when it is free. What a function changes, it changes in its
    process alone; what it returns is pickled. workers: None for `recommended_workers`; with one,
    with one job, and where nothing may be forked, all is done in this process. done: called with
    the number of each job that has ended.

    Raises what a job raised, or ChildProcessError where a process has died; the others are stopped.
    """
    count = min(workers or recommended_workers(), len(jobs))
    if count < 2 or not may_fork():
        results = []
        for number, job in enumerate(jobs):
            results.append(function(job))
            if done is not None:
                done(number)
        return results
    children: list[Child] = []
    try:
        for _ in range(count):
            children.append(fork_child(_serve, children, function, jobs))
        return _collect(children, len(jobs), done)
    finally:
        for child in children:
            child.process.kill()  # Each waits for its next job; after an error some still work.
            child.process.join()
            child.pipe.close()


def _collect(
    children: Sequence[Child], count: int, done: Callable[[int], object] | None
) -> list[Any]:
    results: list[Any] = [None] * count
    numbers = iter(range(count))
    at_work: dict[Connection, tuple[Child, int]] = {}

    def give(child: Child) -> None:
        number = next(numbers, None)
        if number is not None:
            send(child, number)
            at_work[child.pipe] = child, number

    for child in children:
        give(child)
    while at_work:
        for pipe in wait(list(at_work)):
            child, number = at_work.pop(pipe)
            answer = answer_of(child)
            if isinstance(answer, Exception):
                raise answer
            (results[number],) = answer
            if done is not None:
                done(number)
            give(child)
    return results


def _serve(pipe: Connection, function: Callable[[Any], Any], jobs: Sequence[Any]) -> None:
    """A child's life: for each number that comes, that job's result in a tuple, or its error."""

    def answer(number: int) -> tuple[Any] | Exception:
        return (function(jobs[number]),)

    serve(pipe, answer)


# ------------------------------------------------------------------------- a process and its parent


def fork_child(life: Callable[..., None], elders: Sequence[Child], *arguments: Any) -> Child:
    """A process that runs life(its end of a pipe, *arguments); elders: those forked before it.

    The fork copies the parent's ends of the elders' pipes. They are closed in the new process, or
    no elder would ever read that the parent has closed its end.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    inherited = [ours, *(child.pipe for child in elders)]

    def begin() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle.
        for other in inherited:
            other.close()
        life(theirs, *arguments)

    process = context.Process(target=begin, daemon=True)
    process.start()
    theirs.close()
    return Child(process, ours)


def serve(pipe: Connection, answer: Callable[[Any], Any]) -> None:
    """Answer every message with answer(message), or with the error it raised, until none comes."""
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):  # The parent is gone, or has no more work.
            os._exit(0)
        try:
            told = answer(message)
        except Exception as error:  # The parent raises it.
            told = _portable(error)
        try:
            pipe.send(told)
        except OSError:  # Nobody waits for it any more.
            os._exit(1)
        except Exception as error:  # The result can't be pickled; nothing was sent of it.
            pipe.send(_portable(error))


def send(child: Child, message: Any) -> None:
    """Send a message to a child. Raises ChildProcessError when it has died."""
    try:
        child.pipe.send(message)
    except OSError:
        raise _death(child) from None


def answer_of(child: Child) -> Any:
    """What a child sends back, which may be the error that it ran into; its death is one too."""
    try:
        return child.pipe.recv()
    except (EOFError, OSError):
        return _death(child)


def _portable(error: Exception) -> Exception:
    """The error itself where it survives pickling, its text where it does not."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"a worker raised {type(error).__name__}: {error}")
    return error


def _death(child: Child) -> ChildProcessError:
    child.process.join(timeout=1)  # Its pipe closes a moment before it has an exit code.
    return ChildProcessError(f"a worker process died (exit code {child.process.exitcode})")

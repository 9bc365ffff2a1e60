"""Where the runs of a sweep happen: processes of this machine, one a card, or a Dask cluster's.

Only paths and settings are sent. Each run trains in one process with one BLAS thread.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.queues import SimpleQueue
from typing import TYPE_CHECKING

from minilora.backend import device_count
from minilora.machine import usable_cores
from minilora.runs.sweep.file import Point
from minilora.runs.sweep.point import run_point
from minilora.storage import one_line

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 10
LOOK_SECONDS = 0.5
"""How often a process looks whether the one that began it is still there."""
RETRIES = 2
"""How often a run is begun again on another worker when its worker dies."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run: its result, or the error in one line."""

    point: Point
    result: dict | None
    error: str = ""


def guarded(point: Point) -> Outcome:
    """`run_point`, its error as part of the outcome: one run that fails stops no other.

    Any error, as a device's own are kinds of their own, and a fault in one run is one run's.
    """
    try:
        return Outcome(point, run_point(point))
    except Exception as error:
        return Outcome(point, None, f"{type(error).__name__}: {one_line(error)}")


Work = Callable[[Point], Outcome]


def on_this_machine(
    points: Sequence[Point], jobs: int = 0, work: Work = guarded
) -> Iterator[Outcome]:
    """Outcomes as they come, from `jobs` processes, 0 for one a core.

    A process that dies takes those of its neighbours with it; the runs of which nothing was heard
    are begun again, RETRIES times, and fail after that.
    """
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import BrokenProcessPool as BrokenPool

    waiting = {point.id: point for point in points}
    work = partial(_while_parent_lives, work, os.getpid())
    jobs = min(jobs or usable_cores(), len(points))
    for tries_left in reversed(range(RETRIES + 1)):
        try:
            with parallel_config("loky", inner_max_num_threads=1):
                pool = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
                for outcome in pool(delayed(work)(point) for point in list(waiting.values())):
                    del waiting[outcome.point.id]
                    yield outcome
            return
        except BrokenPool as error:
            if not tries_left:
                for point in waiting.values():
                    yield Outcome(point, None, f"its process died: {one_line(error)}")


CARD = "CUDA_VISIBLE_DEVICES"


def on_cards(
    points: Sequence[Point], cards: Sequence[str] | None = None, work: Work = guarded
) -> Iterator[Outcome]:
    """Outcomes as they come, from one process a CUDA device, which sees that device alone.

    cards: their names to CUDA, None for all that CuPy sees. A process that dies ends the pool; the
    runs of which nothing was heard are begun again, RETRIES times, and fail after that. Raises
    ValueError where there is no device.
    """
    cards = visible_cards() if cards is None else cards
    if not cards:
        raise ValueError("got --device gpu, but CuPy sees no CUDA device; expected one or more")
    waiting = {point.id: point for point in points}
    work = partial(_while_parent_lives, work, os.getpid())
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    for tries_left in reversed(range(RETRIES + 1)):
        free = context.SimpleQueue()
        for card in cards:
            free.put(card)
        count, elders = min(len(cards), len(waiting)), multiprocessing.active_children()
        pool = ProcessPoolExecutor(count, context, _take_card, (free,))
        try:
            futures = [pool.submit(work, point) for point in waiting.values()]
            for future in as_completed(futures):
                outcome = future.result()
                del waiting[outcome.point.id]
                yield outcome
            return
        except (KeyboardInterrupt, GeneratorExit):
            for process in multiprocessing.active_children():
                if process not in elders:
                    process.kill()  # else it goes on with its run, and one more after it
            raise
        except BrokenProcessPool as error:
            if not tries_left:
                for point in waiting.values():
                    yield Outcome(point, None, f"its process died: {one_line(error)}")
        finally:
            pool.shutdown(cancel_futures=True)


def _while_parent_lives(work: Work, parent: int, point: Point) -> Outcome:
    """`work`, in a process that ends when the one that hands out the runs does, and not before.

    Else the processes of a killed sweep would go on with the runs that they were given, of which
    nobody hears any more, and the next sweep would wait for them and do the runs again. One that
    took Ctrl-C for its own would end its run and begin the next.
    """
    if os.getppid() == parent:
        _end_with(parent)
    return work(point)


@cache
def _end_with(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle.

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def visible_cards() -> list[str]:
    """The CUDA devices that this process sees, by the names that CUDA_VISIBLE_DEVICES takes."""
    told = os.environ.get(CARD, "")
    names = [name.strip() for name in told.split(",") if name.strip()]
    return (names or [str(number) for number in range(device_count())])[: device_count()]


def _take_card(free: SimpleQueue) -> None:
    """Before CuPy is imported: this process sees one card, and no other process takes it."""
    os.environ[CARD] = free.get()


def on_a_cluster(points: Sequence[Point], address: str, work: Work = guarded) -> Iterator[Outcome]:
    """Outcomes as they come, from the workers of the Dask scheduler at `address`.

    The workers need minilora and the same folders. A run whose worker dies is begun again on
    another, RETRIES times. Raises ValueError as `connect` does.
    """
    from distributed import as_completed

    client = connect(address)
    with client, client.as_current():
        futures = {
            client.submit(work, point, key=_key(point), pure=False, retries=RETRIES): point
            for point in points
        }
        for future in as_completed(futures):
            if future.cancelled():  # the scheduler has gone, and with it all that it knew
                yield Outcome(futures[future], None, f"the scheduler at {address} was lost")
                continue
            error = future.exception()
            if error is None:
                yield future.result()
            else:
                yield Outcome(futures[future], None, f"{type(error).__name__}: {one_line(error)}")


def connect(address: str) -> Client:
    """A client of the Dask scheduler at `address`.

    Raises ValueError where no scheduler answers there, or dask.distributed is missing.
    """
    try:
        from distributed import Client  # slow to import, and an extra
    except ImportError:
        raise ValueError(
            "got --scheduler, but dask.distributed is not installed; expected the extra 'cluster'"
        ) from None
    # A scheduler that is lost is one line of ours for each run, and pages of this log.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ValueError(
            f"got scheduler {address!r}, where none answers: {one_line(error)}"
        ) from None


def _key(point: Point) -> str:
    """What the scheduler knows a run by: two sweeps of one file into two folders are two runs."""
    place = hashlib.sha256(str(point.out).encode(errors="surrogateescape")).hexdigest()[:12]
    return f"minilora-{point.id}-{place}"

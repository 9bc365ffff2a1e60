"""Where the runs of a sweep happen: processes of this machine, one a card, or a Dask cluster's.

Only paths and settings are sent. Each run trains in one process with one BLAS thread.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue

from minilora.backend import device_count
from minilora.machine import usable_cores
from minilora.runs.sweep.file import Point
from minilora.runs.sweep.point import run_point
from minilora.storage import one_line

CONNECT_SECONDS = 10
RETRIES = 2
"""How often a run is begun again on another worker when its worker dies."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run: its result, or the error in one line."""

    point: Point
    result: dict | None
    error: str = ""


def guarded(point: Point) -> Outcome:
    """`run_point`, its error as part of the outcome: one run that fails stops no other."""
    try:
        return Outcome(point, run_point(point))
    except (ValueError, OSError, ArithmeticError, MemoryError) as error:
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
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    for tries_left in reversed(range(RETRIES + 1)):
        free = context.SimpleQueue()
        for card in cards:
            free.put(card)
        count = min(len(cards), len(waiting))
        with ProcessPoolExecutor(count, context, _take_card, (free,)) as pool:
            futures = [pool.submit(work, point) for point in waiting.values()]
            try:
                for future in as_completed(futures):
                    outcome = future.result()
                    del waiting[outcome.point.id]
                    yield outcome
                return
            except BrokenProcessPool as error:
                if not tries_left:
                    for point in waiting.values():
                        yield Outcome(point, None, f"its process died: {one_line(error)}")


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
    another, RETRIES times. Raises ValueError where no scheduler answers there, or dask is missing.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise ValueError(
            "got --scheduler, but dask.distributed is not installed; expected the extra 'cluster'"
        ) from None
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ValueError(
            f"got scheduler {address!r}, where none answers: {one_line(error)}"
        ) from None
    with client, client.as_current():
        futures = {
            client.submit(work, point, key=f"minilora-{point.id}", pure=False, retries=RETRIES): (
                point
            )
            for point in points
        }
        for future in as_completed(futures):
            error = future.exception()
            if error is None:
                yield future.result()
            else:
                yield Outcome(futures[future], None, f"{type(error).__name__}: {one_line(error)}")

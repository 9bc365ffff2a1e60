"""Many short runs at once, one a core: what chapters compare things with."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

from minilora.training.parallel import recommended_workers


def side_by_side(function: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
    """function(job) for every job, in order: one process a core where the system can fork.

    Runs that are apart anyway are best spread this way; `fit(workers=...)` splits a single one.
    """
    count = min(recommended_workers(), len(jobs))
    if count < 2:
        return [function(job) for job in jobs]
    with multiprocessing.get_context("fork").Pool(count) as pool:
        return pool.map(function, jobs, chunksize=1)

"""Where a training step's time goes: a stopwatch around each op's forward and each of its vjps.

Measured in one process with one BLAS thread. What an op spends beyond its bare products
(`matmuls.py`, timed alone at the same shapes) are passes over elements, memory and Python; the
system's CPU time is the cost of fresh memory (page faults); Python's part is the time of the same
step on one row of two tokens, where arrays are next to nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minilora.backend import blas_threads
from minilora.bench import matmuls
from minilora.bench import workloads as w
from minilora.bench.watching import BACKWARD, FORWARD, watching
from minilora.machine import system_seconds
from minilora.training import AdamW, clip_grad_norm_
from minilora.training.batches import pad_examples
from minilora.training.parallel import Workers
from minilora.training.step import split_batch


class Stopwatch:
    """Seconds by (op, part), and calls by op; `timed` is what stands around each (watching.py)."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def timed(self, name: str, part: str, function: Callable) -> Callable:
        """`function`, timed."""

        def run(*args: object, **kwargs: object) -> object:
            self.calls[name] += part == FORWARD
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name, part] += time.perf_counter() - began

        return run


@dataclass
class Profile:
    """Seconds a step. ops: name -> (calls, forward, backward, bare matmul seconds).

    fault_count: page faults a step, None where the system doesn't tell.
    """

    total: float
    update: float
    matmul: float
    faults: float
    fault_count: float | None
    python: float
    ops: dict[str, tuple[int, float, float, float]]

    @property
    def passes(self) -> float:
        """Passes over elements: what is neither matmul, nor fresh memory, nor Python."""
        return self.total - self.matmul - self.faults - self.python

    def to_dict(self) -> dict:
        """JSON-ready."""
        return {**vars(self), "passes": self.passes}


class Step:
    """A training step on one worker, made of the parts that `fit` makes it of."""

    def __init__(self, workload: w.Workload, job: w.Job, folder: str) -> None:
        self.model = w.load_model(workload, job, folder).train()
        self.optimizer = AdamW(self.model.named_parameters(), weight_decay=w.WEIGHT_DECAY)
        rows = workload.examples()
        self.batch = pad_examples(rows, np.arange(len(rows)))
        self.pieces = split_batch(self.batch, len(matmuls.piece_rows(workload, 1)[0]), (0, 0))
        self.updating = 0.0

    def run(self, pool: Workers) -> None:
        """One step."""
        pool.gradients(self.pieces, float(self.batch.tokens))
        began = time.perf_counter()
        clip_grad_norm_(self.optimizer.parameters.values(), w.CLIP_NORM)
        self.optimizer.step(w.LEARNING_RATE)
        self.updating += time.perf_counter() - began


def mean_seconds(function: Callable[[], None], count: int) -> float:
    """Wall seconds a call, after one call to warm up."""
    function()
    began = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - began) / count


def product_seconds(workload: w.Workload, job: w.Job, count: int) -> dict[str, float]:
    """Op -> seconds a step of its bare products."""
    items = matmuls.products(workload, job, matmuls.piece_rows(workload, 1)[0])
    by_op: dict[str, list[matmuls.Product]] = defaultdict(list)
    for item in items:
        by_op[item.op].append(item)
    return {op: mean_seconds(matmuls.Bare(own).run, count) for op, own in by_op.items()}


def python_seconds(workload: w.Workload, job: w.Job, folder: str) -> float:
    """Python and call overhead of one piece: a step on one row of two tokens, less its products."""
    tiny = replace(workload, rows=1, time=2, labels=2)
    step = Step(tiny, job, folder)
    with Workers(step.model, 1) as pool:
        whole = mean_seconds(lambda: pool.gradients(step.pieces, 2.0), 20)
    return max(0.0, whole - sum(product_seconds(tiny, job, 20).values()))


def profile(workload: w.Workload, job: w.Job, seconds: float = 2.0) -> Profile:
    """Measure for about three times `seconds`. Raises ValueError for a job that is no step."""
    if job.kind != "step":
        raise ValueError(f"got the job {job.name}, expected a training step to profile")
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder, blas_threads(1):
        w.write_weights(workload, job, Path(folder))
        step = Step(workload, job, folder)
        with Workers(step.model, 1) as pool:
            count = max(2, round(seconds / mean_seconds(lambda: step.run(pool), 1)))
            step.updating, before = 0.0, system_seconds()
            total = mean_seconds(lambda: step.run(pool), count)
            after, update = system_seconds(), step.updating / (count + 1)
            with watching(watch.timed):
                mean_seconds(lambda: step.run(pool), count)
        bare = product_seconds(workload, job, count)
        python = python_seconds(workload, job, folder) * len(step.pieces)
    steps = count + 1  # mean_seconds warms up with one

    def each(name: str) -> tuple[int, float, float, float]:
        spent = [watch.seconds[name, part] / steps for part in (FORWARD, BACKWARD)]
        return (watch.calls[name] // steps, *spent, bare.get(name, 0.0))

    return Profile(
        total=total,
        update=update,
        matmul=sum(bare.values()),
        faults=(after[0] - before[0]) / steps,
        fault_count=None if after[1] is None else (after[1] - before[1]) / steps,
        python=python,
        ops={name: each(name) for name in watch.calls},
    )

"""The matrix products of a job, to count, and to time alone: what its time can't go below.

They are those that the engine makes, recorded while it does the job on zeros (recording.py), with
operands laid out as there. Whether it makes more than it needs is for a test to say, which counts
them from the shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, wraps

import numpy as np

from minilora.autograd import no_grad
from minilora.bench import workloads as w
from minilora.bench.recording import Layout, Product, Recording, recording
from minilora.bench.watching import watching
from minilora.lora import attach
from minilora.nn import Transformer
from minilora.nn.generate import generate
from minilora.training.step import pieces_a_worker


def piece_rows(workload: w.Workload, workers: int) -> list[list[int]]:
    """Rows of the pieces that `fit` gives each of its workers."""
    share = pieces_a_worker(workload.rows * workload.time, workers)
    sizes = [len(p) for p in np.array_split(np.arange(workload.rows), workers * share)]
    pieces = [size for size in sizes if size]
    runs = np.array_split(np.arange(len(pieces)), workers)
    return [[pieces[i] for i in run] for run in runs]


def products(workload: w.Workload, job: w.Job, pieces: Sequence[int]) -> list[Product]:
    """All products of one turn of the job; `pieces`: rows worked on at a time, in steps."""
    if job.kind != "step":
        return list(_recorded(workload, job, 0, w.RANK))
    return [item for rows in pieces for item in _recorded(workload, job, rows, w.RANK)]


@lru_cache(maxsize=64)
def _recorded(workload: w.Workload, job: w.Job, rows: int, rank: int) -> tuple[Product, ...]:
    """The products of a step on the first `rows` rows, or of another job. rank: the adapter's."""
    model = Transformer(workload.config, None)
    if job.targets:
        attach(model, replace(w.lora_config(job), r=rank), np.random.default_rng(1))
    with recording() as noted, watching(_naming(noted)):
        for name, parameter in model.named_parameters():
            parameter.data = noted.weight(name, parameter.data)
        _do(model, workload, job, rows)
    return tuple(noted.products)


def _do(model: Transformer, workload: w.Workload, job: w.Job, rows: int) -> None:
    """The job once."""
    ids, labels = workload.batch()
    if job.kind == "step":
        model.loss(ids[:rows], labels[:rows]).backward()
        return
    with no_grad():
        if job.kind == "forward":
            model(ids)
        else:
            generate(model, workload.prompts(job.rows).tolist(), w.NEW_TOKENS)


def _naming(noted: Recording) -> Callable[[str, str, Callable], Callable]:
    """What stands around each op, so that its products are noted under its name."""

    def around(name: str, _: str, function: Callable) -> Callable:
        @wraps(function)
        def run(*args: object, **kwargs: object) -> object:
            before, noted.op = noted.op, name
            try:
                return function(*args, **kwargs)
            finally:
                noted.op = before

        return run

    return around


class Bare:
    """Products with their operands made, ready to be run and timed."""

    def __init__(self, items: Sequence[Product]) -> None:
        self._buffers: dict[tuple[str, int], np.ndarray] = {}
        self._rng = np.random.default_rng(0)
        self.calls = [
            (
                self._operand("left", item.left),
                self._operand("right", item.right),
                self._operand("out", item.out),
            )
            for item in items
        ]

    def _operand(self, role: str, layout: Layout) -> np.ndarray:
        """An array so laid out. Activations of one size share a buffer; a weight has its own."""
        key = (layout.weight or role, layout.extent)
        if key not in self._buffers:
            values = self._rng.standard_normal(layout.extent, dtype=np.float32)
            self._buffers[key] = values * np.float32(0.02)
        buffer = self._buffers[key]
        strides = [step * buffer.itemsize for step in layout.strides]
        return np.lib.stride_tricks.as_strided(buffer, layout.shape, strides)

    def run(self) -> None:
        """All of them once, in order."""
        matmul = np.matmul
        for left, right, out in self.calls:
            matmul(left, right, out)

"""Which sides race in a cell (a job on a workload), and how long that takes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence

from minilora.bench.race import SETTLE, WARM_STEPS
from minilora.bench.workloads import JOBS, NEW_TOKENS, PROMPT, Job, Workload, runs
from minilora.machine import has_bfloat16
from minilora.nn import Transformer

TEXTBOOK = ("S", "M")
"""Workloads on which the textbook autograd runs as well: on others it takes too long."""
FLOPS = 8e10
"""A second and core, of whole steps: only to say beforehand how long a race takes."""
SLOWER = {"textbook": 4.0, "full": 1.4}
ACTIVATED = ["activated", "activated-kept"]
"""Steps of an activated adapter, which race where rows have a part without labels."""
BANKS = ("bank-1", "bank-8", "bank-64")
PEFTS = ("peft", "peft-1", "peft-8", "peft-64")
"""Sides of a decoding step: a batch of so many adapters; "peft" has one for all, as "minilora"."""
START = {
    "torch": 9.0,
    "torch-labelled": 9.0,
    "torch-bf16": 9.0,
    "transformers": 9.0,
    **dict.fromkeys(PEFTS, 15.0),
}
"""Seconds from the start of a process to its first step; of sides on NumPy `NUMPY_START`."""
NUMPY_START, PROBES = 1.5, 12


def torch_kinds(logits: str) -> tuple[str, ...]:
    """The kinds of torch's sides in a step, by a name of `about.LOGITS`."""
    names = {"all": ("torch",), "labelled": ("torch-labelled",)}
    return names.get(logits, ("torch", "torch-labelled"))


def racing_sides(
    workload: Workload, job: Job, counts: Sequence[int], torches: Sequence[str]
) -> list[tuple[str, int]]:
    """(kind, cores) of all that race in a cell: minilora first."""
    kinds = ["minilora", "matmul"]
    if job.kind == "decode":
        kinds = ["minilora", *BANKS, *(PEFTS if torches else ())]
    elif job.kind == "step":
        everywhere = workload.labels == workload.time  # then both ways are one
        kinds += torches[:1] if everywhere else torches
        kinds += ["torch-bf16"] if torches and has_bfloat16() else []
        kinds += ACTIVATED if job.targets and not everywhere else []
        kinds += ["textbook"] if workload.name in TEXTBOOK else []
        kinds += ["full"] if job.name == "lora-qv" and runs(workload, JOBS["full"]) else []
    elif torches:
        kinds += ["torch", "transformers"] if job.kind == "generate" else ["torch"]
    if job.kind == "step" and "fork" not in multiprocessing.get_all_start_methods():
        counts = [count for count in counts if count == 1]  # our n cores are n forked processes
    return [(kind, count) for count in counts for kind in kinds]


def _rough_flops(workload: Workload, job: Job) -> float:
    """Two for each weight and position, and as many for each of the ways back."""
    weights = sum(p.data.size for p in Transformer(workload.config, None).parameters())
    if job.kind in ("generate", "decode"):
        return 2 * weights * job.rows * (PROMPT + NEW_TOKENS if job.kind == "generate" else 1)
    ways = {"forward": 1, "step": 2 if job.targets else 3}[job.kind]
    return 2 * weights * workload.rows * workload.time * ways


def estimated_seconds(
    workload: Workload,
    job: Job,
    sides: Sequence[tuple[str, int]],
    *,
    pairs: int,
    starts: int,
    seconds: float,
) -> float:
    """What a cell takes on a quiet machine, roughly."""
    total = 0.0
    for kind, count in sides:
        step = _rough_flops(workload, job) / FLOPS / count * SLOWER.get(kind, 1.0)
        probes = (PROBES if step < 1 else PROBES / 2) if kind in START else 0
        start = START.get(kind, NUMPY_START) + (WARM_STEPS + 2 + probes) * step
        turn = max(seconds, step) + SETTLE
        total += pairs * turn + min(starts, pairs) * start
    return total

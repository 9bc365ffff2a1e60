"""The bench on a CUDA device: our steps, torch's on the same card, and a bound from its products.

Times are the device's own: CUDA events between steps, after steps that are not counted, in which
kernels are compiled and memory pools grow; medians with quartiles. The sides run one after another,
as two at a time would share the card.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilora.autograd import no_grad
from minilora.backend import DeviceClock, device_name, get_array_module, to_device
from minilora.bench.matmuls import products
from minilora.bench.sides import train
from minilora.bench.workloads import Job, Workload, load_model, write_weights

WARM_UPS, STEPS = 10, 50
LARGE = 4096
"""Rows and columns of the square product that the bound is measured by."""
KINDS = ("step", "forward")


@dataclass(frozen=True)
class Timed:
    """A side's steps: seconds by quartile, and what torch's side adds of itself."""

    name: str
    low: float
    median: float
    high: float
    about: str = ""

    @classmethod
    def of(cls, name: str, seconds: Sequence[float], about: str = "") -> Timed:
        """From the seconds of each step."""
        return cls(name, *map(float, np.quantile(seconds, [0.25, 0.5, 0.75])), about)


@dataclass(frozen=True)
class GpuRace:
    """What a job took on the card. flops: of its products; rate: flops a second of a large one."""

    workload: Workload
    job: Job
    card: str
    flops: int
    rate: float
    sides: Sequence[Timed]

    @property
    def bound(self) -> float:
        """Seconds that the products alone would take at the rate of a large one."""
        return self.flops / self.rate

    def to_dict(self) -> dict:
        """JSON-ready."""
        return {
            "card": self.card,
            "workload": self.workload.to_dict(),
            "job": self.job.name,
            "flops": self.flops,
            "large_product_flops_a_second": self.rate,
            "bound_seconds": self.bound,
            "sides": {
                one.name: {
                    "seconds": one.median, "quartiles": [one.low, one.high],
                    "tokens_per_second": self.job.tokens(self.workload) / one.median,
                    "about": one.about,
                }
                for one in self.sides
            },
        }  # fmt: skip


def require_gpu_jobs(jobs: Sequence[Job]) -> None:
    """Raise ValueError for a job that is not timed on a card, or where there is none."""
    for job in jobs:
        if job.kind not in KINDS:
            raise ValueError(
                f"got --device gpu with the job {job.name}, expected a training step or forward"
            )
    device_name()


def race_on_gpu(
    workload: Workload, job: Job, torch: bool, warm_ups: int = WARM_UPS, steps: int = STEPS
) -> GpuRace:
    """Time ours, torch's where asked and installed with CUDA, and a large product.

    Raises ValueError as `require_gpu_jobs`.
    """
    require_gpu_jobs([job])
    flops = sum(item.flops for item in products(workload, job, [workload.rows]))
    with tempfile.TemporaryDirectory() as folder:
        write_weights(workload, job, Path(folder))
        ours = our_seconds(workload, job, folder, warm_ups + steps)
        sides = [Timed.of("minilora", ours[warm_ups:])]
        if torch:
            from minilora.bench.torch_peer import cuda_seconds

            theirs, about = cuda_seconds(workload, job, folder, warm_ups + steps)
            sides.append(Timed.of("torch", theirs[warm_ups:], about))
    rate = 2 * LARGE**3 / float(np.median(product_seconds(LARGE, warm_ups + steps)[warm_ups:]))
    return GpuRace(workload, job, device_name(), flops, rate, sides)


def our_seconds(workload: Workload, job: Job, folder: str, count: int) -> list[float]:
    """Seconds of each of so many steps of `fit`, or forward passes, on the device."""
    model = load_model(workload, job, folder).to("gpu")
    clock = DeviceClock()
    clock.mark()
    if job.kind == "step":
        train(model, workload.examples(), 1, _marking(clock), steps=count)
    else:
        ids = to_device(workload.batch()[0], "gpu")
        with no_grad():
            for _ in range(count):
                model(ids)
                clock.mark()
    return clock.seconds()


def _marking(clock: DeviceClock) -> Callable[[int], dict]:
    def on_step(step: int) -> dict:
        clock.mark()
        return {}

    return on_step


def product_seconds(size: int, count: int) -> list[float]:
    """Seconds of each of so many float32 products of two (size, size) matrices on the device."""
    rng = np.random.default_rng(0)
    left, right = (
        to_device(rng.standard_normal((size, size), dtype=np.float32), "gpu") for _ in range(2)
    )
    clock, out = DeviceClock(), get_array_module(left).empty_like(left)
    clock.mark()
    for _ in range(count):
        get_array_module(left).matmul(left, right, out=out)
        clock.mark()
    return clock.seconds()

"""The seam between NumPy and CuPy, and the one place that chooses the number of BLAS threads.

Library code asks an array for its module (`xp = get_array_module(x)`) and calls that; the same
source then runs on either device. CuPy is imported here and nowhere else.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from minilora import machine
from minilora.limits import require_count

Array = Any  # numpy.ndarray or cupy.ndarray

DEVICES = ("cpu", "gpu")
WIDE = 512  # hidden size from which more BLAS threads are recommended
MAX_THREADS = 4


# ------------------------------------------------------------------------------ arrays and devices


def get_array_module(x: Any) -> ModuleType:
    """The module whose functions work on `x`: cupy for a device array, numpy for all else."""
    cupy = sys.modules.get("cupy")  # whoever holds a device array has imported it
    if cupy is not None and isinstance(x, cupy.ndarray):
        return cupy
    return np


def require_device(device: str) -> None:
    """Raise ValueError for a name that is none of DEVICES."""
    if device not in DEVICES:
        raise ValueError(f"device must be one of {DEVICES}, got {device!r}")


def to_device(x: Any, device: str) -> Array:
    """`x` as an array on `device`, "cpu" or "gpu"; not copied when it is there already.

    Raises ValueError for another device name, or for "gpu" where there is no usable GPU.
    """
    require_device(device)
    if hasattr(x, "moved_to"):  # stored weights, which know where they can live
        return x.moved_to(device)
    if device == "cpu":
        return to_numpy(x)
    if get_array_module(x) is not np:
        return x
    if not is_gpu_available():
        raise ValueError("device 'gpu' needs CuPy and a CUDA device; expected both, found neither")
    return _cupy().asarray(x)


def to_numpy(x: Any) -> np.ndarray:
    """`x` as a host array; not copied when it is one already."""
    if get_array_module(x) is not np:
        return x.get()
    return np.asarray(x)


def to_floats(scalars: Sequence[Array]) -> list[float]:
    """0-d arrays as Python floats; from a device in one copy, so in one wait for all of them."""
    if not scalars:
        return []
    xp = get_array_module(scalars[0])
    if xp is np:
        return [float(x) for x in scalars]
    return to_numpy(xp.stack(scalars)).tolist()


def _cupy() -> ModuleType:
    return importlib.import_module("cupy")


@functools.lru_cache(maxsize=1)
def is_gpu_available() -> bool:
    """Whether CuPy is installed and sees at least one CUDA device."""
    try:
        return _cupy().cuda.runtime.getDeviceCount() > 0
    except Exception:  # CuPy fails in many ways where a driver or library is missing
        return False


class DeviceMemory(NamedTuple):
    """Bytes in use now, most ever in use, and in the whole device; None where not known."""

    used: int | None
    peak: int | None
    total: int | None


def device_memory(device: str = "cpu") -> DeviceMemory:
    """Memory of this process on the host, or of CuPy's pool on the GPU, in bytes.

    On "gpu", `peak` is what the pool has taken from the device, which never shrinks by itself.
    """
    require_device(device)
    if device == "cpu":
        return DeviceMemory(
            machine.resident_memory(), machine.peak_memory(), machine.total_memory()
        )
    if not is_gpu_available():
        raise ValueError("device 'gpu' needs CuPy and a CUDA device; expected both, found neither")
    pool = _cupy().get_default_memory_pool()
    _, total = _cupy().cuda.runtime.memGetInfo()
    return DeviceMemory(pool.used_bytes(), pool.total_bytes(), total)


def device_count() -> int:
    """How many CUDA devices CuPy sees; 0 without CuPy."""
    return _cupy().cuda.runtime.getDeviceCount() if is_gpu_available() else 0


def device_name() -> str:
    """The first CUDA device, as its driver names it. Raises ValueError where there is none."""
    to_device(0.0, "gpu")  # refuses
    name = _cupy().cuda.runtime.getDeviceProperties(0)["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


class DeviceClock:
    """Marks on the device's stream, and the seconds between them by the device's own clock.

    A mark is a CUDA event: making it waits for nothing, reading it for all that was queued before.
    Raises ValueError where there is no GPU.
    """

    def __init__(self) -> None:
        to_device(0.0, "gpu")  # refuses
        self._events: list[Any] = []

    def mark(self) -> None:
        """One more mark, after all that was given to the device so far."""
        event = _cupy().cuda.Event()
        event.record()
        self._events.append(event)

    def seconds(self) -> list[float]:
        """From each mark to the next."""
        if self._events:
            self._events[-1].synchronize()
        pairs = itertools.pairwise(self._events)
        return [_cupy().cuda.get_elapsed_time(one, other) / 1000 for one, other in pairs]


# ------------------------------------------------------------------------------------ BLAS threads


@functools.lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Have glibc's malloc keep what is freed for the next array; False where there is no glibc.

    By default freed blocks above a threshold go back to the system, which then hands them out
    again page by page, zeroed. A training step frees and makes the same arrays over and over, and
    on a virtual machine much of its processor time goes there (data/bench/README.md). Peak memory
    is the same.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    settings = {mmap_threshold: 32 << 20, trim_threshold: 1 << 30, top_pad: 64 << 20}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])


def recommended_blas_threads(hidden_size: int) -> int:
    """How many BLAS threads to train or generate with, for a model of this width.

    One below a hidden size of 512; from there on one a physical core, at most 4. A user's
    `MINILORA_THREADS`, else `OPENBLAS_NUM_THREADS`, overrides the rule.

    Two threads help an idle machine at every width. On a busy one they cost time and half as much
    again of processor time (the table is in data/bench/README.md). Steps of narrow models are
    mostly work that BLAS does not do, and training splits them over processes instead
    (training/parallel.py), so threads are left to wide models, whose steps are large products.

    Raises ValueError when hidden_size or an override is not a positive whole number.
    """
    require_count("hidden_size", hidden_size, 1)
    override = blas_threads_override()
    if override is not None:
        return override[1]
    return 1 if hidden_size < WIDE else min(machine.physical_cores(), MAX_THREADS)


def blas_threads_override() -> tuple[str, int] | None:
    """The environment variable by which the user chose a number of threads, and that number."""
    names = ["MINILORA_THREADS"]
    if "MINILORA_BLAS_DEFAULT" not in os.environ:
        names.append("OPENBLAS_NUM_THREADS")
    for name in names:
        text = os.environ.get(name, "").strip()
        if not text:
            continue
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"{name} must be a positive whole number, got {text!r}")
        return name, int(text)
    return None


@contextlib.contextmanager
def blas_threads(n: int) -> Iterator[None]:
    """Inside the `with`, BLAS uses `n` threads; afterwards as many as before."""
    require_count("the number of BLAS threads", n, 1)
    with threadpool_limits(limits=n, user_api="blas"):
        yield


def current_blas_threads() -> int:
    """How many threads BLAS uses now (1 where no BLAS library can be asked)."""
    return max((library["num_threads"] for library in blas_libraries()), default=1)


def blas_libraries() -> list[dict[str, Any]]:
    """What threadpoolctl knows of each BLAS library that is loaded."""
    return [library for library in threadpool_info() if library["user_api"] == "blas"]

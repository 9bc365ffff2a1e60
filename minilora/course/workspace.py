"""The learner's working copy: chapters land in a folder of their own and are never overwritten.

`.minilora-course.json` in it remembers what each file was when it landed. A file that is still so
may be renewed; one that the learner has touched stays, and the chapter's new version lands beside
it: `01_gradients.v2.ipynb`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from minilora.course.progress import MANIFEST
from minilora.course.source import Chapter, ChapterError
from minilora.storage import atomic_write

NEW, KEPT, RENEWED, BESIDE = "new", "kept", "renewed", "beside"


@dataclass(frozen=True)
class Landing:
    """Where the newest version of a chapter lies, and how it got there."""

    chapter: Chapter
    path: Path
    what: str


def learner_copy(chapter: Chapter) -> bytes:
    """The committed notebook without outputs: the learner's own run makes them."""
    if not chapter.notebook.is_file():
        raise ChapterError(f"{chapter.notebook} is missing; python -m minilora.course.build")
    notebook = json.loads(chapter.notebook.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def prepare(folder: Path, chapters: Iterable[Chapter]) -> list[Landing]:
    """Make the folder and bring every chapter in it up to date, touching no work of the learner.

    Raises ValueError where `folder` is something else, such as the course's own notebooks.
    """
    chapters = list(chapters)
    if any(folder.resolve() == chapter.notebook.parent.resolve() for chapter in chapters):
        raise ValueError(f"got {folder}, the course's own notebooks; expected a folder of yours")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"got {folder}, which is a file; expected a folder")
    folder.mkdir(parents=True, exist_ok=True)
    landed = _read_manifest(folder)
    landings = []
    for chapter in chapters:
        landings.append(_land(folder, chapter, landed.setdefault(chapter.name, {})))
        _write_manifest(folder, landed)
    return landings


def _land(folder: Path, chapter: Chapter, known: dict[str, str]) -> Landing:
    """Land one chapter. known: file name -> sha256 of what landed there; brought up to date."""
    data = learner_copy(chapter)
    digest = hashlib.sha256(data).hexdigest()
    versions = learner_files(folder, chapter.number)
    newest = versions[0] if versions else folder / f"{chapter.name}.ipynb"
    if newest.is_file():
        found = hashlib.sha256(newest.read_bytes()).hexdigest()
        if digest in (found, known.get(newest.name)):
            known[newest.name] = digest
            return Landing(chapter, newest, KEPT)
        if found != known.get(newest.name):
            path = _next_version(newest, chapter)
            return Landing(chapter, _write(path, data, known), BESIDE)
        return Landing(chapter, _write(newest, data, known), RENEWED)
    return Landing(chapter, _write(newest, data, known), NEW)


def _write(path: Path, data: bytes, known: dict[str, str]) -> Path:
    atomic_write(path, data)
    known[path.name] = hashlib.sha256(data).hexdigest()
    return path


def _next_version(newest: Path, chapter: Chapter) -> Path:
    return newest.with_name(f"{chapter.name}.v{_version(newest) + 1}.ipynb")


def _version(path: Path) -> int:
    match = re.search(r"\.v(\d+)$", path.stem)
    return int(match[1]) if match else 1


def learner_files(folder: Path, chapter: int) -> list[Path]:
    """The learner's notebooks of one chapter, newest version first."""
    pattern = re.compile(rf"{chapter:02d}_\w+(\.v\d+)?\.ipynb")
    found = (path for path in folder.glob("*.ipynb") if pattern.fullmatch(path.name))
    return sorted(found, key=_version, reverse=True)


def _read_manifest(folder: Path) -> dict[str, dict[str, str]]:
    """Chapter -> file name -> sha256; empty where it is missing or broken (then all is kept)."""
    try:
        landed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["landed"]
        return {str(k): {str(n): str(h) for n, h in v.items()} for k, v in landed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write_manifest(folder: Path, landed: dict[str, dict[str, str]]) -> None:
    text = json.dumps({"landed": landed}, indent=1, sort_keys=True) + "\n"
    atomic_write(folder / MANIFEST, text.encode())

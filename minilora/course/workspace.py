"""The learner's working copy: chapters land in a folder of their own and are never overwritten.

`.minilora-course.json` in it remembers what each file was when it landed. A file whose cells still
say the same may be renewed. One that the learner has worked in stays, and the chapter's new version
lands beside it, with the answers and cells that the learner wrote: `01_gradients.v2.ipynb`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from minilora.course.carry_over import Notebook, carry_over, sources_digest
from minilora.course.progress import MANIFEST
from minilora.course.source import Chapter, ChapterError
from minilora.storage import atomic_write, read_json

NEW, KEPT, RENEWED, BESIDE = "new", "kept", "renewed", "beside"


@dataclass(frozen=True)
class Landing:
    """Where the newest version of a chapter lies, and how it got there.

    before: the learner's notebook beside which it landed. answers, left: as in `CarriedOver`.
    """

    chapter: Chapter
    path: Path
    what: str
    before: Path | None = None
    answers: tuple[str, ...] = ()
    left: int = 0


@dataclass(frozen=True)
class Landed:
    """What the manifest knows of a file: digests of the chapter's version, and of what was written.

    They differ where a learner's answers were put in.
    """

    chapter: str
    written: str


def learner_copy(chapter: Chapter) -> Notebook:
    """The committed notebook without outputs: the learner's own run makes them."""
    if not chapter.notebook.is_file():
        raise ChapterError(f"{chapter.notebook} is missing; python -m minilora.course.build")
    notebook = json.loads(chapter.notebook.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return notebook


def notebook_bytes(notebook: Notebook) -> bytes:
    """A notebook as it lands."""
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


def _land(folder: Path, chapter: Chapter, known: dict[str, Landed]) -> Landing:
    """Land one chapter. known: what landed before, by file name; brought up to date."""
    copy = learner_copy(chapter)
    versions = learner_files(folder, chapter.number)
    if not versions:
        path = folder / f"{chapter.name}.ipynb"
        return _write(Landing(chapter, path, NEW), copy, copy, known)
    newest = versions[0]
    landed = known.get(newest.name)
    if landed is not None and landed.chapter in _digests(copy):
        return Landing(chapter, newest, KEPT)
    notebooks = [notebook for notebook in map(_read_notebook, versions) if notebook is not None]
    work = carry_over(copy, chapter.exercises.values(), notebooks)
    current = _read_notebook(newest)
    if current is not None:
        digests = {sources_digest(current), hashlib.sha256(newest.read_bytes()).hexdigest()}
        if sources_digest(work.notebook) in digests:  # nothing is new but what is not compared
            known[newest.name] = Landed(sources_digest(copy), sources_digest(current))
            return Landing(chapter, newest, KEPT)
        if landed is not None and landed.written in digests and not work.left:
            return _write(Landing(chapter, newest, RENEWED), work.notebook, copy, known)
    path = _next_version(newest, chapter)
    landing = Landing(chapter, path, BESIDE, newest, work.answers, work.left)
    return _write(landing, work.notebook, copy, known)


def _write(
    landing: Landing, notebook: Notebook, chapter: Notebook, known: dict[str, Landed]
) -> Landing:
    """Write what lands, and note it. chapter: the version without a learner's work."""
    atomic_write(landing.path, notebook_bytes(notebook))
    known[landing.path.name] = Landed(sources_digest(chapter), sources_digest(notebook))
    return landing


def _digests(notebook: Notebook) -> set[str]:
    """What a manifest may say of a notebook; those of earlier versions hold that of its bytes."""
    return {sources_digest(notebook), hashlib.sha256(notebook_bytes(notebook)).hexdigest()}


def _read_notebook(path: Path) -> Notebook | None:
    """A learner's notebook; None where it is no notebook any more (then it is left alone)."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        sources_digest(notebook)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return notebook


def _next_version(newest: Path, chapter: Chapter) -> Path:
    return newest.with_name(f"{chapter.name}.v{_version(newest) + 1}.ipynb")


def _version(path: Path) -> int:
    match = re.search(r"\.v(\d+)$", path.stem)
    return int(match[1]) if match else 1


def learner_files(folder: Path, chapter: int) -> list[Path]:
    """The learner's notebooks of one chapter, newest version first."""
    pattern = re.compile(rf"{chapter:02d}_\w+(\.v\d+)?\.ipynb")
    versions = (path for path in folder.glob("*.ipynb") if pattern.fullmatch(path.name))
    return sorted(versions, key=_version, reverse=True)


def _read_manifest(folder: Path) -> dict[str, dict[str, Landed]]:
    """Chapter -> file name -> what landed; empty where it is missing or broken (then all is kept).

    Earlier versions wrote one digest of the file's bytes in place of the two.
    """

    def entry(value: object) -> Landed:
        return Landed(value, value) if isinstance(value, str) else Landed(**value)

    try:
        landed = read_json(folder / MANIFEST)["landed"]
        return {str(k): {str(n): entry(e) for n, e in v.items()} for k, v in landed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write_manifest(folder: Path, landed: dict[str, dict[str, Landed]]) -> None:
    plain = {name: {n: vars(e) for n, e in files.items()} for name, files in landed.items()}
    text = json.dumps({"landed": plain}, indent=1, sort_keys=True) + "\n"
    atomic_write(folder / MANIFEST, text.encode())

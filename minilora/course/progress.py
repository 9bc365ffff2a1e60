"""What a learner has done: `progress.json` in the learner's folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from minilora.course.source import ROOT
from minilora.storage import atomic_write, read_json

FOLDER_VARIABLE = "MINILORA_COURSE"
MANIFEST = ".minilora-course.json"
PROGRESS = "progress.json"


@dataclass
class Record:
    """One exercise: whether it has ever been solved, and what was asked for on the way."""

    passed: bool = False
    tries: int = 0
    hints: int = 0
    solution: bool = False


def default_folder() -> Path:
    """MINILORA_COURSE, or `my-course` in the checkout."""
    return Path(os.environ.get(FOLDER_VARIABLE) or ROOT / "my-course")


def current_folder() -> Path | None:
    """The learner's folder that a notebook runs in; None elsewhere, as when a chapter is built."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen) if Path(chosen).is_dir() else None
    return Path.cwd() if (Path.cwd() / MANIFEST).is_file() else None


def read_progress(folder: Path) -> dict[str, Record]:
    """Records by exercise; empty for a folder without any. Raises ValueError for a broken file."""
    path = folder / PROGRESS
    if not path.is_file():
        return {}
    try:
        entries = read_json(path)["exercises"]
        return {id: Record(**fields) for id, fields in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a progress file ({error}); move it away and run minilora check"
        ) from None


def update(folder: Path, id: str, **changes: object) -> Record:
    """Set fields of one record and save. `tries=+1` is the caller's: see `note_try`."""
    records = read_progress(folder)
    record = records.setdefault(id, Record())
    for name, value in changes.items():
        setattr(record, name, value)
    entries = {key: asdict(records[key]) for key in sorted(records, key=_order)}
    text = json.dumps({"exercises": entries}, indent=1) + "\n"
    atomic_write(folder / PROGRESS, text.encode())
    return record


def note_try(folder: Path, id: str, passed: bool) -> Record:
    """One more try at an exercise; solved once is solved."""
    before = read_progress(folder).get(id, Record())
    return update(folder, id, tries=before.tries + 1, passed=before.passed or passed)


def _order(id: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in id.split("."))

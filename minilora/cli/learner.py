"""The learner's folder, as `learn`, `check` and `progress` choose it."""

from __future__ import annotations

from pathlib import Path

from minilora.course.progress import default_folder

FOLDER_HELP = "Your copy of the course. Default: MINILORA_COURSE, or my-course in the checkout."


def chosen_folder(folder: Path | None) -> Path:
    """The folder of the option --folder, or the default one."""
    return folder or default_folder()


def existing_folder(folder: Path | None) -> Path:
    """As `chosen_folder`. Raises ValueError where nothing has been made there yet."""
    folder = chosen_folder(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no {folder} yet; minilora learn makes it")
    return folder

"""`minilora learn`: opens the course in JupyterLab, in the learner's own copy."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import typer
from rich.console import Console

from minilora import THREAD_VARIABLES
from minilora.cli.learner import FOLDER_HELP, chosen_folder
from minilora.course.progress import FOLDER_VARIABLE, read_progress
from minilora.course.source import Chapter, find_chapter, find_chapters
from minilora.course.workspace import BESIDE, NEW, RENEWED, Landing, prepare

GROUP = "Course"


def learn(
    chapter: int | None = typer.Argument(None, metavar="[N]", help="Chapter; default: the next."),
    folder: Path | None = typer.Option(None, "--folder", help=FOLDER_HELP),
    open_: bool = typer.Option(
        True, "--open/--no-open", help="Open JupyterLab, or only bring the folder up to date."
    ),
) -> None:
    """Open the course in JupyterLab, in a copy of yours that is never overwritten.

    Example: minilora learn 1
    """
    folder = chosen_folder(folder)
    wanted = find_chapter(chapter) if chapter is not None else None
    if open_ and not has_jupyterlab():
        raise ValueError(
            "the course opens in JupyterLab: pip install -e '.[notebooks]', "
            "or use --no-open and another editor of notebooks"
        )
    landings = prepare(folder, find_chapters())
    wanted = wanted or next_chapter(folder)
    console = Console()
    for landing in landings:
        if text := news(landing):
            console.print(text, highlight=False, soft_wrap=True)
    target = next(entry.path for entry in landings if entry.chapter == wanted)
    console.print(f"{wanted.title}: {target}", highlight=False, soft_wrap=True)
    if open_:
        raise typer.Exit(open_lab(folder, target))


def has_jupyterlab() -> bool:
    """Whether this Python has JupyterLab."""
    return importlib.util.find_spec("jupyterlab") is not None


def next_chapter(folder: Path) -> Chapter:
    """The first chapter with an exercise that is not solved; the last where all are."""
    records = read_progress(folder)
    chapters = find_chapters()
    for chapter in chapters:
        if not all(id in records and records[id].passed for id in chapter.exercises):
            return chapter
    return chapters[-1]


def news(landing: Landing) -> str:
    """What is said about a chapter that has just landed; "" where nothing happened."""
    name = landing.path.name
    if landing.what == NEW:
        return f"new: {name}"
    if landing.what == RENEWED:
        return f"renewed, as you had not touched it: {name}"
    if landing.what != BESIDE:
        return ""
    text = f"a new version lies beside {landing.before.name}: {name}"
    if landing.answers:
        text += f", with your answers to {', '.join(landing.answers)}"
    if landing.left:
        cells = "1 cell" if landing.left == 1 else f"{landing.left} cells"
        text += f"; {cells} of yours without a place in it stayed in {landing.before.name}"
    return text


def open_lab(folder: Path, notebook: Path) -> int:
    """Run JupyterLab at a notebook until the learner stops it; its exit code.

    The notebook is the server's default page, so that the addresses that JupyterLab prints, where
    there is no browser to open, lead to the chapter and not to an empty launcher.
    """
    environment = dict(os.environ, **{FOLDER_VARIABLE: str(folder.resolve())})
    environment["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not another's
    for name in THREAD_VARIABLES:
        environment.setdefault(name, "1")
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={folder.resolve()}",
        f"--LabApp.default_url=/lab/tree/{notebook.name}",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container; it listens here alone
        command.append("--allow-root")
    try:
        return subprocess.call(command, cwd=folder, env=environment)
    except KeyboardInterrupt:
        return 0

"""`minilora progress`: what a learner has done."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.learner import FOLDER_HELP, chosen_folder
from minilora.course.exercises import Exercise
from minilora.course.progress import Record, read_progress
from minilora.course.source import find_chapters

GROUP = "Course"


def progress(folder: Path | None = typer.Option(None, "--folder", help=FOLDER_HELP)) -> None:
    """Show which exercises are done, and what comes next.

    Example: minilora progress
    """
    records = read_progress(chosen_folder(folder))
    rows, done, total = [], 0, 0
    for chapter in find_chapters():
        for exercise in chapter.exercises.values():
            record = records.get(exercise.id, Record())
            rows.append(row(exercise, record))
            done, total = done + record.passed, total + 1
        rows.append(("", "", "", "", ""))
    console = Console()
    headings = ("", "exercise", "minutes", "tries", "help")
    show.grid(console, f"{done} of {total} exercises solved", headings, rows[:-1], right=(2, 3))
    ahead = [cells[1] for cells in rows if cells[0] == "○"]
    if ahead:
        number = ahead[0].split(".")[0]
        console.print(f"Next: {ahead[0]}   (minilora learn {number})", highlight=False)


def row(exercise: Exercise, record: Record) -> tuple[str, str, str, str, str]:
    """Mark, exercise, minutes, tries, and what was asked for."""
    asked = [f"{record.hints} of 3 hints"] if record.hints else []
    asked += ["solution"] if record.solution else []
    mark = "✓" if record.passed else "○"
    title = f"{exercise.id} {exercise.title}"
    tries = str(record.tries) if record.tries else ""
    return mark, title, str(exercise.minutes), tries, ", ".join(asked)

"""`minilora ward`: writes the hospital's data."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.storage import sha256_file
from minilora.ward import write_ward

GROUP = "Make"


def ward(
    out: Path = typer.Option(Path("data/ward"), "--out", help="Folder to write the files into."),
) -> None:
    """Write the synthetic hospital's data: house tasks, regression suite, corpus sample, card.

    Example: minilora ward --out ward
    """
    rows = [file_row(path) for path in write_ward(out)]
    headings = ("file", "lines", "size", "sha256, its beginning")
    show.grid(Console(), f"Wrote {out}", headings, rows, right=(1, 2))


def file_row(path: Path) -> tuple[str, str, str, str]:
    """Name, number of lines, size and the beginning of the sha256 of a file."""
    data = path.read_bytes()
    lines = data.count(b"\n")
    return path.name, f"{lines:,}", show.size(len(data)), f"{sha256_file(path)[:16]}…"

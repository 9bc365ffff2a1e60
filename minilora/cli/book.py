"""`minilora book`: the course and the API as static pages."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.course.book import build_book

GROUP = "Course"


def book(
    out: Path = typer.Option(Path("book"), "--out", help="Folder for the pages."),
) -> None:
    """Write the course and the API as pages that need no network and no server.

    Then open book/index.html there.

    Example: minilora book --out book
    """
    sizes = build_book(out)
    pages = sum(name.endswith(".html") for name in sizes)
    size = sum(sizes.values()) / 1e6
    show.say(Console(), f"{pages} pages, {size:.1f} MB: open {out / 'index.html'}")

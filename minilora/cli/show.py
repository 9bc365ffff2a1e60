"""How the commands show numbers and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from minilora.storage import atomic_write

MANY = 6
"""Columns of which Rich would leave nothing in a narrow terminal."""
WIDEST = 1000


def size(count: float) -> str:
    """A number of bytes in B, KiB, MiB or GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def pairs(console: Console, title: str, rows: Iterable[tuple[str, object]]) -> None:
    """A table of names and values, without a heading."""
    grid(console, title, (), [(name, str(value)) for name, value in rows])


def grid(
    console: Console,
    title: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Sequence[int] = (),
) -> None:
    """A table; columns whose index is in `right` hold numbers. Texts are shown as they are.

    Where the terminal is too narrow for many columns, it wraps the lines, and none is cut.
    """
    rows = list(rows)
    table = Table(title=escape(title), box=box.SIMPLE, show_header=bool(headings), title_style="b")
    for i in range(len(headings) or len(rows[0])):
        heading = headings[i] if headings else ""
        side = "right" if i in right else "left"
        table.add_column(escape(heading), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    natural = console.measure(table, options=console.options.update(max_width=WIDEST)).maximum
    if len(table.columns) > MANY and natural > console.width:
        console = Console(file=console.file, width=natural)
    console.print(table)


def say(console: Console, text: str) -> None:
    """A line as it is: no markup, no highlighting, wrapped by the terminal only."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def typed(path: Path | str) -> str:
    """A path as it is typed on a command line: in quotes where it has a space."""
    return f'"{path}"' if " " in str(path) else str(path)


def save_svg(console: Console, path: Path, title: str) -> None:
    """What a recording console has shown, as a picture for a page that loads nothing else.

    Rich's own picture would fetch its font from elsewhere.
    """
    svg = console.export_svg(title=title, unique_id="console", clear=False)
    svg = re.sub(r"@font-face {.*?}", "", svg, flags=re.DOTALL)
    atomic_write(path, svg.replace("Fira Code, monospace", "monospace").encode())

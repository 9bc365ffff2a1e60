"""What the commands show of a run before it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from minilora.cli import show
from minilora.runs import Reporter
from minilora.text import Problem

SHOWN_PROBLEMS = 10


class TableReporter(Reporter):
    """Shows bars, and a table of what in a data file can't be used."""

    bars = True

    def __init__(self, console: Console) -> None:
        self.console = console

    def left_out(self, path: Path, problems: Sequence[Problem]) -> None:
        """The first problems as a table, and how many more there are."""
        rows = [(p.source, p.reason) for p in problems[:SHOWN_PROBLEMS]]
        show.grid(self.console, f"{path}: {len(problems)} left out", ("where", "why"), rows)
        if len(problems) > SHOWN_PROBLEMS:
            show.say(self.console, f"  and {len(problems) - SHOWN_PROBLEMS} more")

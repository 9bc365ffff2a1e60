"""`minilora tokens`: a base with tokens that it did not have."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.options import BASE_HELP
from minilora.hub.bases import WARD
from minilora.runs.tokens import base_with_tokens

GROUP = "Make"


def tokens(
    add: list[str] = typer.Option(..., "--add", help="A text that becomes one token; repeatable."),
    out: Path = typer.Option(..., "--out", help="Folder of the base to write."),
    base: str = typer.Option(WARD, "--base", help=BASE_HELP),
) -> None:
    """Write a base with new tokens, whose rows `minilora adapt --tokens` then trains.

    Example: minilora tokens --add "<dose>" --add "<test>" --out grown-base
    """
    rows = [(text, f"{number}", f"{was}") for text, number, was in base_with_tokens(base, add, out)]
    show.grid(Console(), f"Wrote {out}", ("token", "id", "tokens before"), rows, right=(1, 2))

"""`minilora export`: an adapter for llama.cpp, mlx-lm or PEFT."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.options import BASE_OF_ADAPTER_HELP
from minilora.runs.export import FORMS, export_adapter

GROUP = "Serve"


def export(
    adapter: Path = typer.Option(..., "--adapter", help="Adapter folder."),
    to: str = typer.Option(..., "--to", help=f"For whom: {', '.join(FORMS)}."),
    out: Path = typer.Option(..., "--out", help="File (gguf) or folder (mlx, peft) to write."),
    base: str = typer.Option(None, "--base", help=BASE_OF_ADAPTER_HELP),
) -> None:
    """Write an adapter for llama.cpp (gguf), mlx-lm (mlx), or as a PEFT folder (peft).

    Example: minilora export --adapter tour/adapter --to gguf --out cardiology.gguf
    """
    written = export_adapter(adapter, to, out, base)
    size = show.size(written.nbytes)
    show.say(Console(), f"Wrote {written.path}: {written.modules} modules, {size}")

"""`minilora extract`: a fully trained model less its base, as an adapter."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.options import BASE_HELP
from minilora.cli.training_options import target_names
from minilora.lora import ALL_LINEAR
from minilora.runs.export import extract_adapter

GROUP = "Adapt"


def extract(
    base: str = typer.Option(..., "--base", help=BASE_HELP),
    tuned: str = typer.Option(..., "--tuned", help="The trained model: folder or .gguf file."),
    out: Path = typer.Option(..., "--out", help="Adapter folder to write."),
    rank: int = typer.Option(8, "--r", help="Rank of the adapter."),
    targets: str = typer.Option(
        ALL_LINEAR, "--targets", help="Names of modules with commas, or all-linear."
    ),
) -> None:
    """Make an adapter of what a trained model differs from its base in, by SVD.

    Example: minilora extract --base ward-base --tuned tour/merged --r 8 --out again
    """
    found = extract_adapter(base, tuned, rank, target_names(targets), out)
    console = Console()
    rows = [(module, f"{lost:.2%}") for module, lost in sorted(found.lost.items())]
    show.grid(console, f"Wrote {out}: rank {rank}", ("module", "energy lost"), rows, right=(1,))
    if found.left:
        largest = max(found.left, key=found.left.get)
        show.say(
            console,
            f"{len(found.left)} other parameters differ, which no adapter holds; most {largest} "
            f"(norm {found.left[largest]:.3g})",
        )

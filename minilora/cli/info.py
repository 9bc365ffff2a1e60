"""`minilora info`: what an adapter or a model folder is."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.errors import describe
from minilora.cli.options import BASE_HELP
from minilora.hub.describe import PATTERNS, about, pattern_text, scaling_text

GROUP = "Understand"


def info(
    paths: list[Path] = typer.Argument(
        ..., metavar="PATH...", help="Adapters and models: folders, .gguf files, known names."
    ),
    base: str = typer.Option(None, "--base", help=f"Check adapters against it. {BASE_HELP}"),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON list, for programs."),
) -> None:
    """Show settings, sizes, fingerprints and origin of adapter and model folders.

    Example: minilora info data/ward-base data/specialists/vascular
    """
    known, failed = [], []
    for path in paths:
        try:
            known.append(about(path, base))
        except (ValueError, OSError) as error:
            failed.append(describe(error))
    console = Console()
    if as_json:
        typer.echo(json.dumps(known, indent=2, ensure_ascii=False))
    else:
        for one in known:
            show.pairs(console, one["path"], rows_of(one))
    misfits = [f"{one['path']} does not fit {base}" for one in known if one.get("fits") is False]
    if failed or misfits:
        raise ValueError("; ".join([*failed, *misfits]))


def rows_of(known: dict) -> list[tuple[str, object]]:
    """The rows of the table for one folder."""
    common = [
        ("parameters", f"{known['parameters']:,}"),
        ("size", f"{show.size(known['bytes'])} in memory"),
        ("fingerprint", known["fingerprint"]),
    ]
    if known["kind"] == "adapter":
        return [("kind", "adapter (PEFT)"), *_adapter_rows(known), *common, *_origin_rows(known)]
    config = [(key, value) for key, value in known["config"].items() if value is not None]
    rows = [("kind", known["kind"]), *config, ("tokenizer", f"{known['tokens']:,} tokens"), *common]
    if "stored" in known:
        counts = ", ".join(f"{count} {kind}" for kind, count in known["stored"].items())
        rows.append(("stored as", f"{counts} tensors"))
    if "merge" in known:
        merged = known["merge"]
        rows += [
            ("base", f"{merged.get('base')}, {merged.get('base_fingerprint')}"),
            ("adapter", f"{merged.get('adapter')}, {merged.get('adapter_fingerprint')}"),
            ("unchanged since", "yes" if known["unchanged_since_merge"] else "NO, edited since"),
        ]
    return [*rows, ("card", "\n".join(known["card"]) or "none")]


def _adapter_rows(known: dict) -> list[tuple[str, object]]:
    targets = known["target_modules"]
    return [
        ("r", known["r"]),
        ("lora_alpha", known["lora_alpha"]),
        *[(name, pattern_text(known[name])) for name in PATTERNS if known[name]],
        ("scaling", scaling_text(known["scaling"]) + (" (rsLoRA)" if known["use_rslora"] else "")),
        ("lora_dropout", known["lora_dropout"]),
        *([("invocation", known["invocation"])] if known["invocation"] else []),
        *([("DoRA", "yes")] if known["use_dora"] else []),
        *([("VeRA", listed(known["vera"]))] if known["vera"] else []),
        *([("tables", listed(known["tables"]))] if known["tables"] else []),
        ("target_modules", targets if isinstance(targets, str) else ", ".join(targets)),
        ("modules", f"{len(known['modules'])}: {known['modules'][0]} ... {known['modules'][-1]}"),
        ("dtype", ", ".join(known["dtypes"])),
    ]


def listed(values: dict) -> str:
    """`key value` of each."""
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _base_weights(known: dict) -> str:
    if known["base_fingerprint"] is None and known["base_adapted_fingerprint"] is not None:
        return f"{known['base_adapted_fingerprint']} (the adapted ones alone)"
    return known["base_fingerprint"] or "not said (no minilora.json)"


def _origin_rows(known: dict) -> list[tuple[str, object]]:
    rows = [
        ("base", known["base"] or "not said"),
        ("base weights", _base_weights(known)),
    ]
    if known["minilora_version"]:
        rows.append(("written by", f"minilora {known['minilora_version']}"))
    rows += [(key, json.dumps(value)) for key, value in sorted(known["provenance"].items())]
    if "fits" in known:
        verdict = "fits" if known["fits"] else f"does not fit: {known['misfit']}"
        rows.append((f"on {known['checked_base']}", verdict))
    return rows

"""`minilora info`: what an adapter or a model folder is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.adapters import PATTERNS, open_adapter, pattern_text, scaling_text
from minilora.cli.app import describe
from minilora.cli.merge import MARK
from minilora.cli.options import BASE_HELP
from minilora.hub import GGUFFile, load_pretrained
from minilora.hub.bases import (
    NAMES,
    base_dtype_of,
    find_base,
    is_model_path,
    open_base,
    public_name,
)
from minilora.hub.smollm import known_model
from minilora.lora import Adapter, mark_base
from minilora.lora.peft_format import CONFIG, adapters_below
from minilora.lora.peft_options import shared_scaling
from minilora.storage import fingerprint, read_json

CARD_LINES = 6


def info(
    paths: list[Path] = typer.Argument(
        ..., metavar="PATH...", help="Adapters and models: folders, .gguf files, known names."
    ),
    base: str = typer.Option(None, "--base", help=f"Check adapters against it. {BASE_HELP}"),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON list, for programs."),
) -> None:
    """Show settings, sizes, fingerprints and origin of adapter and model folders."""
    told, failed = [], []
    for path in paths:
        try:
            told.append(about(path, base))
        except (ValueError, OSError) as error:
            failed.append(describe(error))
    console = Console()
    if as_json:
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        for one in told:
            show.pairs(console, one["path"], rows_of(one))
    misfits = [f"{one['path']} does not fit {base}" for one in told if one.get("fits") is False]
    if failed or misfits:
        raise ValueError("; ".join([*failed, *misfits]))


def about(path: Path, base: str | None = None) -> dict:
    """What is known of a folder, JSON-ready. Raises ValueError for one that is neither kind."""
    if (path / CONFIG).exists():
        return about_adapter(path, base)
    if (path / "config.json").exists() or (path.is_file() and is_model_path(path)):
        return about_model(path)
    if not path.exists():
        if path.as_posix() in NAMES or known_model(path.as_posix()):
            return about_model(find_base(path.as_posix()))
        raise ValueError(f"{path} does not exist, expected an adapter or model folder")
    raise ValueError(
        f"{path} has neither {CONFIG} nor config.json, expected an adapter or model folder"
        f"{adapters_below(path)}"
    )


def about_adapter(path: Path, base: str | None) -> dict:
    """Settings, modules, sizes, fingerprints and origin of an adapter folder."""
    adapter = Adapter.read(path)
    arrays = [array for module in adapter.modules for array in adapter.factors(module)]
    told = {
        "path": str(path),
        "kind": "adapter",
        **asdict(adapter.config),
        "scaling": shared_scaling(adapter.config, adapter.modules),
        "modules": list(adapter.modules),
        "parameters": adapter.size,
        "bytes": adapter.nbytes,
        "dtypes": sorted({str(array.dtype) for array in arrays}),
        "fingerprint": adapter.fingerprint,
        "base": adapter.base_name or None,
        "base_fingerprint": adapter.base_fingerprint,
        "base_adapted_fingerprint": adapter.base.adapted,
        "base_config": adapter.base.config,
        "minilora_version": adapter.minilora_version,
        "provenance": adapter.provenance,
    }
    if base is not None:
        model, tokenizer = open_base(base, base_dtype_of(path))
        try:
            open_adapter(model, path, mark_base(model, public_name(base), tokenizer))
            told["fits"] = True
        except ValueError as error:
            told["fits"], told["misfit"] = False, describe(error)
        told["checked_base"] = base
    return told


def about_model(path: Path) -> dict:
    """Config, sizes, fingerprint, and what the card begins with, of a model folder."""
    model, tokenizer = load_pretrained(path)
    state = model.state_dict()
    stored = GGUFFile(path).stored_types() if path.is_file() else None
    readme = path / "README.md"
    mark = path / MARK
    told = {
        "path": str(path),
        "kind": "merged model" if mark.is_file() else "model",
        "config": asdict(model.config),
        "tokens": tokenizer.vocab_size,
        "parameters": sum(a.size for a in state.values()),
        "bytes": sum(a.nbytes for a in state.values()),
        "fingerprint": fingerprint(state),
        **({"stored": stored} if stored else {}),
        "card": card_lines(readme.read_text("utf-8")) if readme.is_file() else [],
    }
    if mark.is_file():
        merged = read_json(mark)
        told["merge"] = merged
        told["unchanged_since_merge"] = merged.get("merged_fingerprint") == told["fingerprint"]
    return told


def card_lines(text: str) -> list[str]:
    """The first lines of a model card that are words, its YAML head left out."""
    lines = text.splitlines()
    if lines and lines[0].strip() == "---" and "---" in (line.strip() for line in lines[1:]):
        end = next(i for i, line in enumerate(lines[1:], 1) if line.strip() == "---")
        lines = lines[end + 1 :]
    return [line for line in lines if line.strip()][:CARD_LINES]


def rows_of(told: dict) -> list[tuple[str, object]]:
    """The rows of the table for one folder."""
    common = [
        ("parameters", f"{told['parameters']:,}"),
        ("size", f"{show.size(told['bytes'])} in memory"),
        ("fingerprint", told["fingerprint"]),
    ]
    if told["kind"] == "adapter":
        return [("kind", "adapter (PEFT)"), *_adapter_rows(told), *common, *_origin_rows(told)]
    config = [(key, value) for key, value in told["config"].items() if value is not None]
    rows = [("kind", told["kind"]), *config, ("tokenizer", f"{told['tokens']:,} tokens"), *common]
    if "stored" in told:
        counts = ", ".join(f"{count} {kind}" for kind, count in told["stored"].items())
        rows.append(("stored as", f"{counts} tensors"))
    if "merge" in told:
        merged = told["merge"]
        rows += [
            ("base", f"{merged.get('base')}, {merged.get('base_fingerprint')}"),
            ("adapter", f"{merged.get('adapter')}, {merged.get('adapter_fingerprint')}"),
            ("unchanged since", "yes" if told["unchanged_since_merge"] else "NO, edited since"),
        ]
    return [*rows, ("card", "\n".join(told["card"]) or "none")]


def _adapter_rows(told: dict) -> list[tuple[str, object]]:
    targets = told["target_modules"]
    return [
        ("r", told["r"]),
        ("lora_alpha", told["lora_alpha"]),
        *[(name, pattern_text(told[name])) for name in PATTERNS if told[name]],
        ("scaling", scaling_text(told["scaling"]) + (" (rsLoRA)" if told["use_rslora"] else "")),
        ("lora_dropout", told["lora_dropout"]),
        ("target_modules", targets if isinstance(targets, str) else ", ".join(targets)),
        ("modules", f"{len(told['modules'])}: {told['modules'][0]} ... {told['modules'][-1]}"),
        ("dtype", ", ".join(told["dtypes"])),
    ]


def _base_weights(told: dict) -> str:
    if told["base_fingerprint"] is None and told["base_adapted_fingerprint"] is not None:
        return f"{told['base_adapted_fingerprint']} (the adapted ones alone)"
    return told["base_fingerprint"] or "not said (no minilora.json)"


def _origin_rows(told: dict) -> list[tuple[str, object]]:
    rows = [
        ("base", told["base"] or "not said"),
        ("base weights", _base_weights(told)),
    ]
    if told["minilora_version"]:
        rows.append(("written by", f"minilora {told['minilora_version']}"))
    rows += [(key, json.dumps(value)) for key, value in sorted(told["provenance"].items())]
    if "fits" in told:
        verdict = "fits" if told["fits"] else f"does not fit: {told['misfit']}"
        rows.append((f"on {told['checked_base']}", verdict))
    return rows

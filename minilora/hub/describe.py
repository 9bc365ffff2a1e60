"""What an adapter or a model folder is, from its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from minilora.hub.bases import (
    NAMES,
    base_dtype_of,
    find_base,
    is_model_path,
    open_base,
    public_name,
)
from minilora.hub.checkpoint import load_pretrained
from minilora.hub.gguf import GGUFFile
from minilora.hub.smollm import known_model
from minilora.lora import Adapter, attach, mark_base
from minilora.lora.peft_format import CONFIG, adapters_below
from minilora.lora.peft_options import shared_scaling
from minilora.storage import fingerprint, read_json

MERGE_MARK = "minilora_merge.json"
"""What a folder holds that `minilora merge` wrote: which base and adapter, and fingerprints."""
CARD_LINES = 6
PATTERNS = ("rank_pattern", "alpha_pattern")


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
    arrays = [array for module in adapter.modules for array in adapter.arrays(module)]
    known = {
        "path": str(path),
        "kind": "adapter",
        **asdict(adapter.config),
        "scaling": shared_scaling(adapter.config, adapter.modules),
        "tables": adapter.config.tables,
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
            mark = mark_base(model, public_name(base), tokenizer, quick=True)
            attach(model, adapter, base=mark)
            known["fits"] = True
        except ValueError as error:
            known["fits"], known["misfit"] = False, " ".join(str(error).split())
        known["checked_base"] = base
    return known


def about_model(path: Path) -> dict:
    """Config, sizes, fingerprint, and what the card begins with, of a model folder."""
    model, tokenizer = load_pretrained(path)
    state = model.state_dict()
    stored = GGUFFile(path).stored_types() if path.is_file() else None
    readme = path / "README.md"
    mark = path / MERGE_MARK
    known = {
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
        known["merge"] = merged
        known["unchanged_since_merge"] = merged.get("merged_fingerprint") == known["fingerprint"]
    return known


def card_lines(text: str) -> list[str]:
    """The first lines of a model card that are words, its YAML head left out."""
    lines = text.splitlines()
    if lines and lines[0].strip() == "---" and "---" in (line.strip() for line in lines[1:]):
        end = next(i for i, line in enumerate(lines[1:], 1) if line.strip() == "---")
        lines = lines[end + 1 :]
    return [line for line in lines if line.strip()][:CARD_LINES]


def scaling_text(scaling: float | Mapping[str, float]) -> str:
    """The scaling that all modules share, or the different ones with how many modules have each."""
    if not isinstance(scaling, Mapping):
        return f"{scaling:g}"
    counts = Counter(scaling.values())
    return ", ".join(
        f"{value:g} ({counts[value]} of {len(scaling)} modules)" for value in sorted(counts)
    )


def pattern_text(pattern: Mapping[str, float]) -> str:
    """`key: number` of each, in the order in which they count."""
    return ", ".join(f"{key}: {value:g}" for key, value in pattern.items())

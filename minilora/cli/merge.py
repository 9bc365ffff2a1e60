"""`minilora merge`: base and adapter as one Hugging Face folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer
from rich.console import Console

from minilora import __version__
from minilora.autograd import no_grad
from minilora.cli import show
from minilora.cli.adapters import PATTERNS, open_adapter, pattern_text, scaling_text
from minilora.cli.options import BASE_OF_ADAPTER_HELP
from minilora.hub import save_pretrained
from minilora.hub.bases import base_dtype_of, base_of, open_base, public_name
from minilora.lora import Adapter, BaseMark, mark_base
from minilora.lora.peft_format import dump_json
from minilora.lora.peft_options import shared_scaling
from minilora.nn import Transformer
from minilora.runs.folder import require_free
from minilora.storage import atomic_folder, fingerprint

MARK = "minilora_merge.json"
FILES = ("README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
TOLERANCE = 1e-4
"""Largest difference from rounding, as a share of the largest adapted logit."""


@dataclass(frozen=True)
class Check:
    """Largest differences of logits on the probe, in logits."""

    from_adapted: float
    from_base: float


def merge(
    adapter: Path = typer.Option(..., "--adapter", help="Adapter folder."),
    out: Path = typer.Option(..., "--out", help="Folder to write the merged model to."),
    base: str = typer.Option(None, "--base", help=BASE_OF_ADAPTER_HELP),
) -> None:
    """Merge an adapter into its base, check that nothing but rounding differs, and write it."""
    console = Console()
    require_free(out, MARK, (*FILES, MARK), "a merged model of minilora's")
    read, name = Adapter.read(adapter), base_of(base, adapter)
    model, tokenizer = open_base(name, base_dtype_of(adapter))
    mark = mark_base(model, public_name(name), tokenizer)
    about = {
        "format_version": 1,
        "minilora_version": __version__,
        "base": name,
        "base_fingerprint": mark.fingerprint,
        "adapter": Path(adapter).name,
        "adapter_fingerprint": read.fingerprint,
    }
    check = checked_merge(model, adapter, mark)
    about["merged_fingerprint"] = fingerprint(model.state_dict())
    about["probe"] = {"from_adapted": check.from_adapted, "from_base": check.from_base}
    about["provenance"] = read.provenance
    with atomic_folder(out) as part:
        save_pretrained(part, model, tokenizer, card(about, read))
        (part / MARK).write_text(dump_json(about), "utf-8")
    rows = [
        ("merged against adapted, largest difference of logits", f"{check.from_adapted:.2e}"),
        ("merged against base, largest difference of logits", f"{check.from_base:.2e}"),
        ("fingerprint", about["merged_fingerprint"]),
    ]
    show.pairs(console, f"Wrote {out}", rows)


def checked_merge(model: Transformer, adapter: Path, base: BaseMark) -> Check:
    """Attach the base's adapter, merge it in place, and compare logits on a fixed random probe.

    Raises ValueError when the merged model differs from the adapted one by more than rounding, or
    does not differ from the base by more than it.
    """
    length = min(32, model.config.max_position_embeddings)
    probe = np.random.default_rng(0).integers(0, model.config.vocab_size, (3, length))
    plain = _logits(model, probe)
    handle = open_adapter(model, adapter, base)
    adapted = _logits(model, probe)
    handle.merge_and_unload()
    merged = _logits(model, probe)
    check = Check(float(np.abs(merged - adapted).max()), float(np.abs(merged - plain).max()))
    allowed = TOLERANCE * max(1.0, float(np.abs(adapted).max()))
    if not check.from_adapted <= allowed:
        raise ValueError(
            f"merged logits differ from the adapted ones by {check.from_adapted:.2e}, expected at "
            f"most {allowed:.2e}; nothing was written"
        )
    if not check.from_base > check.from_adapted:
        raise ValueError(
            f"merged logits differ from the base's by {check.from_base:.2e}, no more than rounding "
            f"({check.from_adapted:.2e}): the adapter changes nothing; nothing was written"
        )
    return check


def _logits(model: Transformer, ids: np.ndarray) -> np.ndarray:
    with no_grad():
        return model(ids).data


CARD = """---
library_name: transformers
base_model: {base}
---
# {base} with {adapter} merged in

W + ΔW, ΔW = s · B · A with s = {scaling}, float32, in {count} linear layers: {targets}.
LoRA r {r}, lora_alpha {lora_alpha}, use_rslora {use_rslora}{patterns}. Made by minilora {version}.

| | |
| --- | --- |
| base | `{base_fingerprint}` |
| adapter | `{adapter_fingerprint}` |
| merged | `{merged_fingerprint}` |
| largest difference of logits from base + adapter | {from_adapted:.2e} |
| largest difference of logits from the base | {from_base:.2e} |

## What the adapter's folder says of it

{provenance}
"""


def card(about: dict, adapter: Adapter) -> str:
    """README.md of a merged model: what went into it, fingerprints, the adapter's evaluation."""
    config, targets = adapter.config, adapter.config.target_modules
    known = about["provenance"]
    return CARD.format(
        **{key: about[key] for key in about if key.endswith("fingerprint")},
        **about["probe"],
        base=about["base"],
        adapter=about["adapter"],
        version=__version__,
        scaling=scaling_text(shared_scaling(config, adapter.modules)),
        patterns="".join(
            f", {name} {pattern_text(getattr(config, name))}"
            for name in PATTERNS
            if getattr(config, name)
        ),
        count=len(adapter.modules),
        targets=targets if isinstance(targets, str) else ", ".join(targets),
        r=config.r,
        lora_alpha=config.lora_alpha,
        use_rslora=config.use_rslora,
        provenance=f"```json\n{dump_json(known)}```" if known else "Nothing: no minilora.json.",
    )

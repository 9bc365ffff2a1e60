"""Merging: base and adapter as one Hugging Face folder, checked before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minilora import __version__
from minilora.evaluation.merging import MergeCheck, checked_unload, logits, probe
from minilora.hub import save_pretrained
from minilora.hub.bases import base_dtype_of, base_of, open_base, public_name
from minilora.hub.describe import MERGE_MARK, PATTERNS, pattern_text, scaling_text
from minilora.lora import Adapter, attach, mark_base
from minilora.lora.peft_format import dump_json
from minilora.lora.peft_options import shared_scaling
from minilora.runs.folder import require_free
from minilora.storage import atomic_folder, fingerprint

FILES = (
    "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    MERGE_MARK,
)  # fmt: skip


@dataclass(frozen=True)
class Merged:
    """What a merge wrote. about: as its minilora_merge.json says it."""

    out: Path
    check: MergeCheck
    about: dict


def merge_adapter(adapter_folder: Path, out: Path, base: str | None = None) -> Merged:
    """Merge an adapter into its base, check it on a fixed random probe, and write the model.

    base: None for the one that the adapter names. Raises ValueError where `out` holds something
    else, the adapter is of another base, or merged and adapted logits differ by more than rounding.
    """
    require_free(out, MERGE_MARK, FILES, "a merged model of minilora's")
    adapter, name = Adapter.read(adapter_folder), base_of(base, adapter_folder)
    model, tokenizer = open_base(name, base_dtype_of(adapter_folder))
    mark = mark_base(model, public_name(name), tokenizer)
    ids = probe(model)
    plain = logits(model, ids)
    check = checked_unload(attach(model, adapter, base=mark), ids, plain)
    about = {
        "format_version": 1,
        "minilora_version": __version__,
        "base": name,
        "base_fingerprint": mark.fingerprint,
        "adapter": adapter_folder.name,
        "adapter_fingerprint": adapter.fingerprint,
        "merged_fingerprint": fingerprint(model.state_dict()),
        "probe": {"from_adapted": check.from_adapted, "from_base": check.from_base},
        "provenance": adapter.provenance,
    }
    with atomic_folder(out) as part:
        save_pretrained(part, model, tokenizer, card(about, adapter))
        (part / MERGE_MARK).write_text(dump_json(about), "utf-8")
    return Merged(out, check, about)


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

"""Exporting: an adapter, checked against its base, in the form that others read."""

from __future__ import annotations

from pathlib import Path

from minilora.hub.bases import base_dtype_of, base_of, open_base, public_name
from minilora.hub.export import Exported, write_gguf_adapter, write_mlx_adapter
from minilora.lora import Adapter, attach, mark_base
from minilora.lora.extract import Extracted, extract
from minilora.lora.peft_format import CONFIG, SIDECAR, TENSORS
from minilora.runs.folder import require_free

FORMS = ("gguf", "mlx", "peft")
"""llama.cpp's file, mlx-lm's folder, PEFT's folder."""


def export_adapter(folder: Path, to: str, out: Path, base: str | None = None) -> Exported:
    """Write the adapter of `folder` for others; base: None for the one that it names.

    Raises ValueError for a form that is none of FORMS, an `out` that holds something else, or an
    adapter that does not fit its base or the form.
    """
    if to not in FORMS:
        raise ValueError(f"got --to {to!r}, expected one of {', '.join(FORMS)}")
    if to == "gguf" and out.is_dir():
        raise ValueError(f"got --out {out}, which is a folder; expected a .gguf file to write")
    adapter, name = Adapter.read(folder), base_of(base, folder)
    model, tokenizer = open_base(name, base_dtype_of(folder))
    attach(model, adapter, base=mark_base(model, public_name(name), tokenizer))
    if to == "gguf":
        return write_gguf_adapter(adapter, model.config, out)
    if to == "mlx":
        require_free(out, "adapters.safetensors", ("adapters.safetensors", CONFIG), "an mlx export")
        return write_mlx_adapter(adapter, model.config, out)
    require_free(out, CONFIG, (CONFIG, TENSORS, SIDECAR), "an adapter to replace")
    adapter.write(out)
    nbytes = sum(path.stat().st_size for path in out.iterdir())
    return Exported(out, nbytes, len(adapter.modules))


def extract_adapter(
    base: str, tuned: str, r: int, targets: tuple[str, ...] | str, out: Path
) -> Extracted:
    """Write what `tuned` differs from `base` in as an adapter of rank r.

    Raises ValueError as `extract` does, and for an `out` that holds something else.
    """
    require_free(out, CONFIG, (CONFIG, TENSORS, SIDECAR), "an adapter to replace")
    own, _ = open_base(base)
    other, _ = open_base(tuned, option="--tuned")
    found = extract(own, other, r, targets, public_name(base))
    found.adapter.write(out)
    return found

"""Loading an adapter again as somebody else would: PEFT over transformers, or ourselves."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from minilora.evaluation.merging import TOLERANCE, logits, probe
from minilora.hub.bases import find_base, open_base, public_name
from minilora.lora import Adapter, attach, mark_base

PACKAGES = ("peft", "transformers", "torch")


def reload_adapter(folder: Path, base: str, base_dtype: str = "float32") -> dict:
    """The largest difference of logits from ours on a fixed probe, and who read the folder.

    base_dtype: as the adapter was trained over. "by" is "peft", or "minilora" where PEFT is not
    installed, or the base is no folder that transformers reads or was not kept in float32; then
    "why" says which. Raises ValueError where the logits differ by more than rounding, or are the
    base's own.
    """
    model, tokenizer = open_base(base, base_dtype)
    ids = probe(model)
    plain = logits(model, ids)
    attach(model, Adapter.read(folder), base=mark_base(model, public_name(base), tokenizer))
    ours = logits(model, ids)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    place = find_base(base)
    why = ""
    if missing:
        why = f"{', '.join(missing)} not installed"
    elif not place.is_dir():
        why = f"{place.name} is no folder that transformers reads"
    elif base_dtype != "float32":
        why = f"PEFT is given the base in float32, and this one was kept in {base_dtype}"
    if why:
        theirs = read_here(folder, base, base_dtype, ids)
    else:
        from minilora.runs.capstone.peft_peer import read_by_peft

        theirs = read_by_peft(folder, place, ids)
    gap, largest = float(np.abs(theirs - ours).max()), float(np.abs(ours).max())
    allowed = TOLERANCE * max(1.0, largest)
    if not gap <= allowed:
        raise ValueError(
            f"{folder}: loaded again its logits differ by {gap:.2e}, expected at most {allowed:.2e}"
        )
    changed = float(np.abs(theirs - plain).max())
    if not changed > allowed:
        raise ValueError(
            f"{folder}: loaded again its logits are the base's, up to {changed:.2e}; expected more"
        )
    return {
        "by": "minilora" if why else "peft",
        "why": why,
        "difference": gap,
        "largest": largest,
        "from_base": changed,
    }


def read_here(folder: Path, base: str, base_dtype: str, ids: np.ndarray) -> np.ndarray:
    """The logits of `ids` (B, T), from the folder read once more onto a base opened anew."""
    model, tokenizer = open_base(base, base_dtype)
    attach(model, Adapter.read(folder), base=mark_base(model, public_name(base), tokenizer))
    return logits(model, ids)

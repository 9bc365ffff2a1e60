"""The machine, the libraries and the terms of a comparison, in words that stand beside figures."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Sequence

import numpy as np

from minilora import __version__, backend, machine
from minilora.bench.processes import FOREIGN

PEERS = ("torch", "transformers", "peft")
LOGITS = {
    "all": "at all positions, as transformers' own loss makes them",
    "labelled": "at labelled positions only, as minilora's loss makes them",
    "both": "at all positions (torch) and at labelled ones only (torch-labelled, where fewer)",
}
"""Where torch's side may make logits, by the name of the choice."""


def missing_peers() -> list[str]:
    """What is not installed of torch's side."""
    return [name for name in PEERS if importlib.util.find_spec(name) is None]


def about(with_torch: bool, missing: Sequence[str], torch_logits: str) -> dict[str, str]:
    """Name -> text: machine, libraries, and what is compared how. missing: of `PEERS`."""
    blas = [
        f"{b['internal_api']} {b['version']}, kernel {b.get('architecture', '?')}"
        for b in backend.blas_libraries()
    ]
    peer = "in processes of its own; versions beside the results"
    if missing:
        peer = f"left out: {', '.join(missing)} not installed (the interop extra)"
    elif not with_torch:
        peer = "left out by --no-torch"
    return {
        "minilora": f"{__version__}, Python {platform.python_version()}, NumPy {np.__version__}",
        "BLAS": "; ".join(blas) or "unknown",
        "CPU": f"{machine.cpu_name()}, {machine.physical_cores()} cores usable, "
        f"{machine.logical_cores()} logical",
        "dtype": "float32",
        "cores": "training: n workers with one BLAS thread each; else n BLAS threads; torch: n "
        "threads",
        "torch": peer,
        "torch runs": "eager transformers LlamaForCausalLM under PEFT, its AdamW's defaults, the "
        "faster of sdpa and eager attention, denormals flushed; generation: a bare loop with a "
        "cache made once (torch), or the model with DynamicCache (transformers)",
        "torch's logits": LOGITS[torch_logits],
        "torch in bfloat16": "torch-bf16: forward under its autocast, logits where labels are"
        if machine.has_bfloat16()
        else "left out: this processor has no bfloat16 products",
        "activated": "an adapter that acts on the labelled positions alone; what is before them is "
        "read without gradients in every step, or (kept) was read in the step before",
        "spoilt": f"turns with more than {FOREIGN:.0%} of a core used by other processes; their "
        "pairs are dropped, and more are run (up to three times as many)",
        "memory +": "most above the loaded model, of all processes of a side (steps: with AdamW's "
        "moments)",
    }

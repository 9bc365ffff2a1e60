"""An adapter's logits in PEFT and transformers. Only imported where both are installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def read_by_peft(folder: Path, base: Path, ids: np.ndarray) -> np.ndarray:
    """The logits of `ids` (B, T) from PEFT and transformers, in float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, folder).eval()
    with torch.no_grad():
        return model(torch.from_numpy(ids.astype(np.int64))).logits.numpy()

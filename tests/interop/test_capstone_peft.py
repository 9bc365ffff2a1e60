"""A capstone's adapter loaded by PEFT over transformers: the same logits, told as PEFT's."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("transformers")

from minilora.hub.bases import WARD, open_base, public_name
from minilora.lora import LoRAConfig, attach
from minilora.runs.capstone.reload import reload_adapter

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:.*not checked:UserWarning"),
]


def test_peft_gives_our_logits(tmp_path):
    model, tokenizer = open_base(WARD)
    handle = attach(model, LoRAConfig(r=3, lora_alpha=5), np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for layer in handle.layers.values():
        layer.lora_B.data[...] = 0.1 * rng.standard_normal(layer.lora_B.data.shape)
    handle.adapter(base_name=public_name(WARD), tokenizer=tokenizer).write(tmp_path / "a")
    told = reload_adapter(tmp_path / "a", WARD)
    assert (told["by"], told["why"]) == ("peft", "")
    assert told["difference"] < 1e-4 * told["largest"] and told["from_base"] > 0.05

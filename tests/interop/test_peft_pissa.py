"""PiSSA beside PEFT's: one start, and PEFT's converted adapter gives its logits here."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

from minilora.lora import Adapter, LoRAConfig, attach  # noqa: E402
from tests.interop.test_peft import SETTINGS, close, logits, ours, theirs  # noqa: E402

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:.*not checked:UserWarning"),
]
TARGETS = ("q_proj", "down_proj")


def peer(r, alpha, rslora):
    config = peft.LoraConfig(
        r=r, lora_alpha=alpha, target_modules=list(TARGETS), use_rslora=rslora,
        init_lora_weights="pissa", task_type="CAUSAL_LM",
    )  # fmt: skip
    return peft.get_peft_model(theirs(), config).eval()


@pytest.mark.parametrize(("r", "alpha", "rslora"), SETTINGS)
def test_pefts_converted_adapter_works_here(tmp_path, r, alpha, rslora):
    model = peer(r, alpha, rslora)
    model.save_pretrained(tmp_path / "start")
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = p.data + 0.3 * torch.randn(p.shape)
    expected = logits(model)
    model.save_pretrained(
        tmp_path / "a", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    handle = attach(ours(), Adapter.read(tmp_path / "a"))
    assert np.abs(expected - logits(ours())).max() > 0.05
    assert close(logits(handle.model), expected)


@pytest.mark.parametrize(("r", "alpha", "rslora"), SETTINGS)
def test_both_start_at_one_product_and_ours_works_in_peft(tmp_path, r, alpha, rslora):
    config = LoRAConfig(r, alpha, TARGETS, use_rslora=rslora)
    handle = attach(ours(), config, np.random.default_rng(0), pissa=True)
    theirs_at_start = dict(peer(r, alpha, rslora).named_parameters())
    rng = np.random.default_rng(1)
    for name, layer in handle.layers.items():
        a, b = (
            theirs_at_start[f"base_model.model.{name}.{leaf}.default.weight"].detach().numpy()
            for leaf in ("lora_A", "lora_B")
        )
        np.testing.assert_allclose(layer.lora_B.data @ layer.lora_A.data, b @ a, atol=1e-4)
        for p in (layer.lora_A, layer.lora_B):
            p.data = p.data + (0.3 * rng.standard_normal(p.shape)).astype(p.dtype)
    handle.adapter(base_name="tiny").write(tmp_path / "a")
    loaded = peft.PeftModel.from_pretrained(theirs(), tmp_path / "a").eval()
    assert close(logits(loaded), logits(handle.model))

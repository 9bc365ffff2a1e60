"""DoRA in PEFT's format: made here or there, the logits and the merged weights are equal."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

from minilora.lora import Adapter, LoRAConfig, attach, base_state  # noqa: E402
from tests.interop.test_peft import (  # noqa: E402
    IDS,
    SETTINGS,
    TARGETS,
    close,
    logits,
    ours,
    peft_model,
    theirs,
)

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:.*not checked:UserWarning"),
]


def stir(parameters) -> None:
    """Random A and B, and magnitudes away from the lengths of W's rows."""
    rng = np.random.default_rng(3)
    for name, parameter in parameters:
        if "lora_" in name:
            noise = (rng.standard_normal(tuple(parameter.shape)) * 0.3).astype(np.float32)
            if "magnitude" in name:
                noise = 1 + noise
            parameter.data = torch.from_numpy(noise) if torch.is_tensor(parameter) else noise


def same_merged(state, other) -> None:
    for name, array in state.items():
        np.testing.assert_allclose(array, other[name].numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("targets", TARGETS[1:3])
@pytest.mark.parametrize(("r", "alpha", "rslora"), SETTINGS)
def test_one_saved_here_works_in_peft(tmp_path, recwarn, targets, r, alpha, rslora):
    config = LoRAConfig(r, alpha, targets, use_rslora=rslora, use_dora=True)
    handle = attach(ours(), config, np.random.default_rng(1))
    stir(handle.model.named_parameters())
    handle.adapter(base_name="tiny").write(tmp_path / "a")
    recwarn.clear()
    loaded = peft.PeftModel.from_pretrained(theirs(), tmp_path / "a").eval()
    assert not [str(w.message) for w in recwarn if "key" in str(w.message).lower()]
    assert np.abs(logits(handle.model) - logits(ours())).max() > 0.05
    assert close(logits(loaded), logits(handle.model))
    same_merged(base_state(handle.merge_and_unload()), loaded.merge_and_unload().state_dict())


@pytest.mark.parametrize("targets", TARGETS[1:3])
@pytest.mark.parametrize(("r", "alpha", "rslora"), SETTINGS)
def test_one_saved_by_peft_works_here(tmp_path, targets, r, alpha, rslora):
    model = peft_model(targets, r, alpha, use_rslora=rslora, use_dora=True)
    stir(model.named_parameters())
    model.save_pretrained(tmp_path / "a")
    handle = attach(ours(), Adapter.read(tmp_path / "a"))
    expected = logits(model)
    assert np.abs(expected - logits(ours())).max() > 0.05
    assert close(logits(handle.model), expected)
    same_merged(base_state(handle.merge_and_unload()), model.merge_and_unload().state_dict())


def test_the_gradients_are_pefts(tmp_path):
    """With the length of a row held constant in both."""
    model = peft_model(TARGETS[1], 3, 5.0, use_dora=True)
    stir(model.named_parameters())
    model.save_pretrained(tmp_path / "a")
    handle = attach(ours(), Adapter.read(tmp_path / "a"), trainable=True)
    labels = np.roll(IDS, -1, axis=1)
    handle.model.loss(IDS, labels).backward()
    out = model(torch.from_numpy(IDS)).logits
    torch.nn.functional.cross_entropy(
        out.reshape(-1, out.shape[-1]), torch.from_numpy(labels).reshape(-1)
    ).backward()
    peer = {
        name.replace("base_model.model.", "").replace(".default", "").removesuffix(".weight"): p
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    found = {name: p.grad for name, p in handle.model.named_parameters() if p.grad is not None}
    assert found.keys() == peer.keys()
    for name, gradient in found.items():
        expected = peer[name].grad.numpy()
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_pefts_config_says_dora(tmp_path):
    handle = attach(ours(), LoRAConfig(use_dora=True), np.random.default_rng(1))
    handle.adapter().write(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["use_dora"] is True

"""VeRA in PEFT's format: made here or there, the logits, gradients and merged weights are equal."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

from minilora.lora import Adapter, LoRAConfig, Vera, attach, base_state  # noqa: E402
from tests.interop.test_peft import IDS, TARGETS, close, logits, ours, theirs  # noqa: E402

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:.*not checked:UserWarning"),
    pytest.mark.filterwarnings("ignore:Specified to not save vera:UserWarning"),
]


def stir(parameters) -> None:
    rng = np.random.default_rng(3)
    for name, parameter in parameters:
        if "vera_lambda" in name:
            noise = rng.standard_normal(tuple(parameter.shape)).astype(np.float32)
            parameter.data = torch.from_numpy(noise) if torch.is_tensor(parameter) else noise


def peft_model(targets, r, key, kept):
    config = peft.VeraConfig(
        r=r, target_modules=list(targets), projection_prng_key=key, save_projection=kept,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model = peft.get_peft_model(theirs(), config).eval()
    stir(model.named_parameters())
    return model


def same_merged(state, other) -> None:
    for name, array in state.items():
        np.testing.assert_allclose(array, other[name].numpy(), rtol=0, atol=3e-6)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("targets", TARGETS[:3])
def test_one_saved_here_works_in_peft(tmp_path, recwarn, targets, kept):
    config = LoRAConfig(30, target_modules=targets, vera=Vera(7, save_projection=kept))
    handle = attach(ours(), config, np.random.default_rng(1))
    stir(handle.model.named_parameters())
    handle.adapter(base_name="tiny").write(tmp_path / "a")
    recwarn.clear()
    loaded = peft.PeftModel.from_pretrained(theirs(), tmp_path / "a").eval()
    assert not [str(w.message) for w in recwarn if "keys" in str(w.message).lower()]
    assert np.abs(logits(handle.model) - logits(ours())).max() > 0.05
    assert close(logits(loaded), logits(handle.model))
    same_merged(base_state(handle.merge_and_unload()), loaded.merge_and_unload().state_dict())


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("targets", TARGETS[:3])
def test_one_saved_by_peft_works_here(tmp_path, targets, kept):
    model = peft_model(targets, 5, 2**33 + 9, kept)
    model.save_pretrained(tmp_path / "a")
    adapter = Adapter.read(tmp_path / "a")
    assert len(adapter.projection) == 2 * kept
    handle = attach(ours(), adapter)
    expected = logits(model)
    assert np.abs(expected - logits(ours())).max() > 0.05
    assert close(logits(handle.model), expected)
    same_merged(base_state(handle.merge_and_unload()), model.merge_and_unload().state_dict())


def test_the_matrices_from_a_seed_are_pefts_bit_for_bit():
    model = peft_model(TARGETS[1], 5, 123, True)
    config = LoRAConfig(5, target_modules=TARGETS[1], vera=Vera(123))
    layer = next(iter(attach(ours(), config, np.random.default_rng(0)).layers.values()))
    for mine, name in ((layer.projection.A, "vera_A"), (layer.projection.B, "vera_B")):
        theirs_ = getattr(model.base_model, name)["default"].numpy()
        assert mine.tobytes() == theirs_.tobytes() and mine.shape == theirs_.shape


def test_the_gradients_are_pefts(tmp_path):
    model = peft_model(TARGETS[1], 5, 4, True)
    model.save_pretrained(tmp_path / "a")
    handle = attach(ours(), Adapter.read(tmp_path / "a"), trainable=True)
    labels = np.roll(IDS, -1, axis=1)
    handle.model.loss(IDS, labels).backward()
    out = model(torch.from_numpy(IDS)).logits
    torch.nn.functional.cross_entropy(
        out.reshape(-1, out.shape[-1]), torch.from_numpy(labels).reshape(-1)
    ).backward()
    peer = {
        name.replace("base_model.model.", "").replace(".default", ""): p
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    found = {name: p.grad for name, p in handle.model.named_parameters() if p.grad is not None}
    assert found.keys() == peer.keys()
    for name, gradient in found.items():
        expected = peer[name].grad.numpy()
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max())

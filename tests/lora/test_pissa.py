"""PiSSA: where it starts, what it trains, and that its adapter belongs to the true base."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.lora import Adapter, LoRAConfig, attach, base_state
from tests import tiny
from tests.says import refusal

IDS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 35, 8, 9]])
CONFIGS = [
    LoRAConfig(r=2, lora_alpha=3, target_modules=("q_proj", "down_proj")),
    LoRAConfig(r=3, lora_alpha=5, target_modules=("o_proj",), use_rslora=True),
    LoRAConfig(
        r=2, lora_alpha=4, target_modules=("q_proj", "o_proj"), rank_pattern={"o_proj": 1},
        alpha_pattern={"q_proj": 7},
    ),
]  # fmt: skip


def logits(model):
    return model.eval()(IDS).data


def started(config=CONFIGS[0]):
    return attach(tiny.model(), config, np.random.default_rng(0), pissa=True)


def moved(config):
    handle, rng = started(config), np.random.default_rng(1)
    for layer in handle.layers.values():
        for p in (layer.lora_A, layer.lora_B):
            p.data = p.data + (0.3 * rng.standard_normal(p.shape)).astype(p.dtype)
    return handle


@pytest.mark.parametrize("config", CONFIGS)
def test_it_starts_at_the_best_part_of_w_and_changes_nothing(config):
    handle = started(config)
    np.testing.assert_allclose(logits(handle.model), logits(tiny.model()), atol=1e-4)
    for layer in handle.layers.values():
        u, s, vt = np.linalg.svd(layer.base_weight)
        r = layer.config.r
        part = layer.scaling * (layer.lora_B.data @ layer.lora_A.data)
        np.testing.assert_allclose(part, (u[:, :r] * s[:r]) @ vt[:r], atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_saved_is_plain_lora_over_the_true_base(tmp_path, config):
    handle = moved(config)
    expected = logits(handle.model)
    assert np.abs(expected - logits(tiny.model())).max() > 0.05
    handle.adapter().write(tmp_path / "a")
    adapter = Adapter.read(tmp_path / "a")
    for name, layer in handle.layers.items():
        assert adapter.config.at(name).r == 2 * layer.config.r
        assert adapter.scaling(name) == pytest.approx(layer.scaling)
    worn = attach(tiny.model(), adapter)
    np.testing.assert_allclose(logits(worn.model), expected, atol=1e-4)
    merged, again = (base_state(one.merge_and_unload()) for one in (handle, worn))
    for name, array in merged.items():
        np.testing.assert_allclose(array, again[name], atol=1e-5)


def test_the_base_is_never_written():
    handle, plain = moved(CONFIGS[0]), tiny.model()
    assert logits(handle.detach()).tobytes() == logits(plain).tobytes()


def test_what_it_is_not_made_for_is_refused():
    rng = np.random.default_rng(0)
    for changes, said in (
        ({"lora_dropout": 0.1}, "lora_dropout 0.1"),
        ({"use_dora": True}, "use_dora True"),
        ({"invocation": (1, 2)}, "invocation (1, 2)"),
        ({"r": 6}, "r 12"),  # twice as much is more than the layer has
    ):
        with refusal(ValueError, said):
            attach(tiny.model(), LoRAConfig(**changes), rng, pissa=True)
    with refusal(ValueError, "pissa"):
        attach(tiny.model(), started().adapter(), pissa=True)

"""extract: a merged adapter comes back, and what a rank cuts off is named."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.lora import LoRAConfig, TargetError, attach
from minilora.lora.extract import extract
from tests import tiny
from tests.says import refusal


def merged(r=3, **more):
    """(adapter, the base with it merged in)."""
    model, rng = tiny.model(), np.random.default_rng(4)
    handle = attach(model, LoRAConfig(r=r, lora_alpha=5, **more), rng)
    for layer in handle.layers.values():
        layer.lora_B.data[...] = 0.1 * rng.standard_normal(layer.lora_B.shape)
    adapter = handle.adapter()
    return adapter, handle.merge_and_unload()


def test_what_was_merged_comes_back():
    adapter, tuned = merged()
    found = extract(tiny.model(), tuned, 3)
    assert found.adapter.modules == adapter.modules and found.left == {}
    assert max(found.lost.values()) < 1e-9
    for module in adapter.modules:
        assert np.allclose(found.adapter.delta(module), adapter.delta(module), atol=1e-5)
    model = tiny.model()
    plain = model(tiny.IDS).data
    attach(model, found.adapter)
    assert np.allclose(model(tiny.IDS).data, tuned(tiny.IDS).data, atol=1e-3)
    assert not np.allclose(plain, tuned(tiny.IDS).data, atol=1e-3)


@pytest.mark.parametrize("r", [1, 2])
def test_a_smaller_rank_loses_the_energy_that_it_says(r):
    adapter, tuned = merged()
    found = extract(tiny.model(), tuned, r)
    for module, lost in found.lost.items():
        delta = adapter.delta(module).astype(np.float64)
        rest = np.linalg.norm(delta - found.adapter.delta(module)) ** 2
        assert lost == pytest.approx(rest / np.linalg.norm(delta) ** 2, rel=1e-3)
        s = np.linalg.svd(delta, compute_uv=False)
        assert lost == pytest.approx((s[r:] ** 2).sum() / (s**2).sum(), rel=1e-3)
    assert found.adapter.provenance["extracted"]["energy_lost"] == pytest.approx(found.lost)


def test_a_rank_beyond_a_layers_is_that_of_the_layer():
    _, tuned = merged()
    found = extract(tiny.model(), tuned, 500)
    for module in found.adapter.modules:
        A, B = found.adapter.factors(module)
        assert len(A) == min(A.shape[1], B.shape[0])


def test_what_no_adapter_holds_is_named():
    _, tuned = merged()
    norm = tuned.model.norm.weight
    norm.data = norm.data + np.float32(0.5)
    found = extract(tiny.model(), tuned, 3)
    assert found.left == {"model.norm.weight": pytest.approx(0.5 * np.sqrt(norm.size))}


def test_models_that_do_not_fit_are_refused():
    _, tuned = merged()
    with refusal(ValueError, "all-linear"):
        extract(tiny.model(), tiny.model(), 3)
    with refusal(ValueError, "model.embed_tokens.weight", (41, 10), (37, 10)):
        extract(tiny.model(), tiny.model(vocab_size=41), 3)
    with refusal(ValueError, "model.layers.2"):
        extract(tiny.model(num_hidden_layers=2), tuned, 3)
    with refusal(TargetError, "query"):
        extract(tiny.model(), tuned, 3, ("query",))
    with refusal(ValueError, 0):
        extract(tiny.model(), tuned, 0)

"""The forecast: what one adapter does on another's inputs, against whole matrices."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.lora import LoRAConfig, attach
from minilora.lora.deltas import Factors, factors_of
from minilora.lora.forecast import disturbance, layer_inputs, response
from tests.says import refusal


@pytest.fixture
def pair(tiny):
    made = []
    for seed, config in enumerate((LoRAConfig(2, 3), LoRAConfig(3, 4, ("v_proj", "up_proj")))):
        handle = tiny.randomise(attach(tiny.model(), config, np.random.default_rng(seed)), seed)
        made.append(handle.adapter())
    return made


def test_response_is_the_norm_of_what_a_change_writes():
    rng = np.random.default_rng(0)
    x, A, B = (rng.standard_normal(shape) for shape in ((11, 5), (2, 5), (7, 2)))
    assert response(Factors(A, B, -1.5), x) == pytest.approx(np.linalg.norm(x @ (1.5 * B @ A).T))


def test_disturbance_is_that_of_whole_matrices(pair, tiny):
    a, b = pair
    modules = sorted({*a.modules, *b.modules})
    inputs = layer_inputs(tiny.model(), tiny.ids, modules)
    got = disturbance(a, b, inputs, (1, -0.5))
    size = {
        one: np.sqrt(sum(np.linalg.norm(inputs[m] @ one.delta(m).T) ** 2 for m in one.modules))
        for one in pair
    }
    assert got.on_inputs == pytest.approx(0.5 * size[b] / size[a], rel=1e-4)
    shared = [m for m in modules if m in a.modules and m in b.modules]
    assert shared and shared != modules
    product = sum((a.delta(m) * b.delta(m)).sum() for m in shared)
    norms = [np.sqrt(sum(np.linalg.norm(one.delta(m)) ** 2 for m in one.modules)) for one in pair]
    assert got.cosine == pytest.approx(product / np.prod(norms), rel=1e-4)
    overlaps = []
    for m in shared:
        rows = [np.linalg.qr(factors_of(one, m).A.T.astype(float))[0] for one in pair]
        overlaps.append(np.linalg.norm(rows[0].T @ rows[1]) ** 2 / 2)
    assert got.reads == pytest.approx(np.mean(overlaps), rel=1e-4)
    assert 0 < got.writes < 1


def test_of_an_adapter_on_itself_all_is_one(pair, tiny):
    inputs = layer_inputs(tiny.model(), tiny.ids, pair[0].modules)
    got = disturbance(pair[0], pair[0], inputs)
    for value in got.to_dict().values():
        assert value == pytest.approx(1)


def test_layer_inputs_are_those_of_the_forward_pass_and_the_model_stays(tiny):
    model = tiny.model()
    before = tiny.snapshot(model)
    inputs = layer_inputs(
        model, tiny.ids, ["model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj"]
    )
    assert {name: x.shape for name, x in inputs.items()} == {
        "model.layers.0.self_attn.q_proj": (10, 10),
        "model.layers.2.mlp.down_proj": (10, 14),
    }
    first = model.model.layers[0]
    normed = first.input_layernorm(model.model.embed_tokens(tiny.ids)).data.reshape(-1, 10)
    np.testing.assert_allclose(inputs["model.layers.0.self_attn.q_proj"], normed, atol=1e-6)
    assert tiny.same(model, before)
    with pytest.raises((ValueError, IndexError)):
        layer_inputs(model, [np.array([10**6])], ["model.layers.0.self_attn.q_proj"])
    assert tiny.same(model, before)


def test_inputs_that_do_not_fit_are_refused(pair, tiny):
    module = pair[0].modules[0]
    with refusal(ValueError, "up_proj", 10):
        disturbance(*pair, {})
    inputs = layer_inputs(tiny.model(), tiny.ids, {*pair[0].modules, *pair[1].modules})
    with refusal(ValueError, module, 10):
        disturbance(*pair, {**inputs, module: np.zeros((3, 4))})
    with refusal(ValueError, 0):
        layer_inputs(tiny.model(), [], [module])

"""given_back: some modules of an adapter as another has them, each with its own A, B and s."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.lora import LoRAConfig, attach, mark_base
from minilora.lora.deltas import modules_of
from minilora.lora.exchange import given_back, wearing
from tests.says import refusal


@pytest.fixture
def sides(tiny):
    """Two adapters of one model that share only some modules, and no setting."""
    configs = (
        LoRAConfig(2, 3, ("q_proj", "v_proj")),
        LoRAConfig(3, 7, ("q_proj", "up_proj"), use_rslora=True, alpha_pattern={"up_proj": 5}),
    )
    adapters = []
    for seed, config in enumerate(configs):
        handle = tiny.randomise(attach(tiny.model(), config, np.random.default_rng(0)), seed)
        adapters.append(handle.adapter())
    return adapters


def same_delta(one, other, module):
    return all(
        np.array_equal(x, y)
        for x, y in zip(one.factors(module), other.factors(module), strict=True)
    ) and one.scaling(module) == pytest.approx(other.scaling(module), rel=1e-15)


def test_every_module_is_that_of_the_side_it_was_taken_from(sides):
    a, b = sides
    modules = modules_of(a, b)
    back = [modules[0], modules[3], modules[-1]]
    mixed = given_back(b, a, back)
    for module in modules:
        side = a if module in back else b
        assert (module in mixed.modules) == (module in side.modules), module
        assert module not in mixed.modules or same_delta(mixed, side, module)


def test_all_given_back_is_the_other_and_none_is_the_same(sides):
    a, b = sides
    for chosen, side in (((), b), (modules_of(a, b), a)):
        mixed = given_back(b, a, chosen)
        assert mixed.modules == side.modules
        assert all(same_delta(mixed, side, module) for module in side.modules)


def test_without_another_adapter_the_module_is_off(sides):
    b = sides[1]
    less = given_back(b, None, b.modules[:2])
    assert less.modules == b.modules[2:]
    assert given_back(b, None, b.modules) is None


def test_a_module_that_neither_adapts_is_refused(sides):
    with refusal(ValueError, "model.norm"):
        given_back(sides[1], sides[0], ["model.norm"])


def test_a_model_wears_an_adapter_for_a_while(sides, tiny):
    model = tiny.model()
    before, mark = tiny.snapshot(model), mark_base(model)
    with no_grad():
        plain = model(tiny.ids).data
        with wearing(model, sides[0], mark):
            assert not np.array_equal(model(tiny.ids).data, plain)
        with wearing(model, None, mark):
            assert np.array_equal(model(tiny.ids).data, plain)
    assert tiny.same(model, before)
    with pytest.raises(ZeroDivisionError), wearing(model, sides[0], mark):
        1 / 0  # noqa: B018
    assert tiny.same(model, before)

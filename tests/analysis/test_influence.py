"""Gradients note by note, and influences, against gradients and losses taken one at a time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from minilora.analysis import influence as module
from minilora.analysis.influence import Moment, influence, note_gradients
from minilora.lora import LoRAConfig, attach
from minilora.training.optim import SGD
from tests import tiny
from tests.says import refusal


def make_world(targets="all-linear", seed=0):
    handle = attach(
        tiny.model(dtype=np.float64), LoRAConfig(2, 3, targets), np.random.default_rng(seed)
    )
    rng = np.random.default_rng(seed + 1)
    for layer in handle.layers.values():
        layer.lora_B.data = 0.3 * rng.standard_normal(layer.lora_B.shape)
    return SimpleNamespace(handle=handle, model=handle.model, notes=tiny.copy_examples(9, vocab=37))


def alone(world, example):
    """The loss and the flat gradient of one example."""
    world.model.zero_grad()
    loss = world.model.loss(example.ids[None], example.labels[None], 1.0)
    loss.backward()
    parts = [p.grad.ravel() for x in world.handle.layers.values() for p in (x.lora_A, x.lora_B)]
    return loss.item(), np.concatenate(parts)


def moment(world, step=1, rate=0.1):
    factors = {
        name: (layer.lora_A.data.copy(), layer.lora_B.data.copy())
        for name, layer in world.handle.layers.items()
    }
    return Moment(step, rate, factors)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj"), ("down_proj",)])
@pytest.mark.parametrize("tokens", [12, 1024])
def test_each_notes_gradient_is_the_one_that_it_has_alone(targets, tokens, monkeypatch):
    monkeypatch.setattr(module, "BATCH_TOKENS", tokens)
    world = make_world(targets)
    layers, seen = dict(world.model.named_modules()), []
    for numbers, losses, gradients in note_gradients(world.handle, world.notes):
        for number, loss, gradient in zip(numbers, losses, gradients, strict=True):
            expected_loss, expected = alone_in(world, number)
            assert loss == pytest.approx(expected_loss, rel=1e-12)
            np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)
        seen += numbers.tolist()
    assert sorted(seen) == list(range(len(world.notes)))
    assert dict(world.model.named_modules()) == layers  # the watched layers are gone


def alone_in(world, number):
    """As `alone`, on a twin, since the model is being watched."""
    twin = make_world(world.handle.config.target_modules)
    return alone(twin, world.notes[number])


def test_influences_are_products_of_these_gradients():
    world = make_world()
    queries = [[(world.notes[3], 1.0)], [(world.notes[1], 0.5), (world.notes[7], -2.0)]]
    moments = [moment(world, 1, 0.1)]
    for layer in world.handle.layers.values():
        layer.lora_A.data = layer.lora_A.data * 1.3
    moments.append(moment(world, 2, 0.03))
    for layer in world.handle.layers.values():
        layer.lora_A.data = layer.lora_A.data * 0.0
    found = influence(world.handle, moments, world.notes, queries)
    dots, cosines, own = np.zeros((9, 2)), np.zeros((9, 2)), np.zeros(9)
    assert not any(layer.lora_A.data.any() for layer in world.handle.layers.values())  # as before
    for one in moments:
        for name, layer in world.handle.layers.items():
            layer.lora_A.data, layer.lora_B.data = one.factors[name]
        losses, gradients = map(np.array, zip(*(alone(world, x) for x in world.notes), strict=True))
        asked = np.stack([gradients[3], 0.5 * gradients[1] - 2 * gradients[7]])
        dots += one.rate * gradients @ asked.T
        own += one.rate * (gradients**2).sum(axis=1)
        sizes = np.linalg.norm(gradients, axis=1)[:, None] * np.linalg.norm(asked, axis=1)
        cosines += one.rate * gradients @ asked.T / sizes
    np.testing.assert_allclose(found.by_dot, dots, rtol=1e-8)
    np.testing.assert_allclose(found.by_cosine, cosines / 0.13, rtol=1e-8)
    np.testing.assert_allclose(found.own, own, rtol=1e-8)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-8)
    assert found.by_dot[3, 0] == pytest.approx(found.own[3])


def test_a_query_s_weights_stay_with_their_examples():
    """Notes are read short ones first; a long one that is asked about first keeps its weight."""
    world = make_world()
    by_length = sorted(world.notes, key=len)
    short, long = by_length[0], by_length[-1]
    assert len(short) < len(long)
    asked = [[(long, 2.0), (short, -0.5)], [(short, -0.5), (long, 2.0)]]
    found = influence(world.handle, [moment(world)], world.notes, asked)
    np.testing.assert_allclose(found.by_dot[:, 0], found.by_dot[:, 1], rtol=1e-9)
    apart = influence(world.handle, [moment(world)], world.notes, [[(long, 1.0)], [(short, 1.0)]])
    np.testing.assert_allclose(
        found.by_dot[:, 0], 2 * apart.by_dot[:, 0] - 0.5 * apart.by_dot[:, 1], rtol=1e-9
    )


def test_an_influence_is_what_a_small_step_on_the_note_does():
    world = make_world()
    note, asked, rate = world.notes[2], world.notes[5], 1e-6
    found = influence(world.handle, [moment(world, 1, rate)], [note], [[(asked, 1.0)]])
    before = alone(world, asked)[0]
    alone(world, note)
    SGD(world.model.named_parameters()).step(rate)
    assert before - alone(world, asked)[0] == pytest.approx(found.by_dot[0, 0], rel=1e-3)


def test_what_does_not_fit_is_refused():
    world = make_world()
    good = moment(world)
    with refusal(ValueError, 0, 9, 1):
        influence(world.handle, [], world.notes, [[(world.notes[0], 1.0)]])
    name = next(iter(good.factors))
    less = Moment(7, 0.1, {k: v for k, v in good.factors.items() if k != name})
    with refusal(ValueError, 7, name):
        influence(world.handle, [less], world.notes, [[(world.notes[0], 1.0)]])
    A, B = good.factors[name]
    other = Moment(7, 0.1, {**good.factors, name: (A[:1], B)})
    with refusal(ValueError, name, (1, A.shape[1])):
        influence(world.handle, [other], world.notes, [[(world.notes[0], 1.0)]])

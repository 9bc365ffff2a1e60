"""What a step of training touches, and what it must never touch or even compute."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.autograd import Tensor
from minilora.autograd.tensor import topological_order
from minilora.lora import LoRAConfig, adapter_state, attach, base_state, lora_layers
from minilora.training import AdamW


class Spy:
    """Notes, for every vjp that runs, which tensor it was for and the shape it returned."""

    def __init__(self, monkeypatch) -> None:
        self.called: list[Tensor] = []
        self.shapes: list[tuple[int, ...]] = []
        original = Tensor.from_op

        def from_op(data, *inputs, **declared):
            return original(data, *[(x, self.watch(x, vjp)) for x, vjp in inputs], **declared)

        monkeypatch.setattr(Tensor, "from_op", staticmethod(from_op))

    def watch(self, x, vjp):
        def watched(g):
            result = vjp(g)
            self.called.append(x)
            self.shapes.append(tuple(result.shape))
            return result

        return watched

    def saw(self, tensor) -> bool:
        return any(x is tensor for x in self.called)


def train(model, tiny, steps, lr=0.02):
    optimizer = AdamW(model.named_parameters())
    losses = []
    for _ in range(steps):
        model.zero_grad()
        loss = model.loss(tiny.ids, tiny.labels)
        loss.backward()
        losses.append(loss.item())
        optimizer.step(lr)
    return losses


def test_training_moves_the_adapter_and_no_bit_of_the_base(tiny, monkeypatch):
    model = tiny.model()
    base = {name: array.tobytes() for name, array in base_state(model).items()}
    attach(model, LoRAConfig(r=2, target_modules=("q_proj", "up_proj")), np.random.default_rng(2))
    start = {name: array.copy() for name, array in adapter_state(model).items()}
    spy = Spy(monkeypatch)
    losses = train(model, tiny, steps=5)
    assert losses[-1] < losses[0]
    assert {n: a.tobytes() for n, a in base_state(model).items()} == base
    assert all(not np.array_equal(a, start[n]) for n, a in adapter_state(model).items())
    for name, parameter in model.named_parameters():
        trained = name.endswith(("lora_A", "lora_B"))
        assert spy.saw(parameter) == trained, name
        assert (parameter.grad is not None) == trained, name


def test_the_spy_sees_a_weight_that_is_trained(tiny, monkeypatch):
    model, spy = tiny.model(), Spy(monkeypatch)
    weight = model.model.layers[0].self_attn.q_proj.weight
    model.loss(tiny.ids, tiny.labels).backward()
    assert spy.saw(weight) and weight.shape in spy.shapes


def test_a_step_never_makes_a_matrix_of_the_size_of_W(tiny, monkeypatch):
    config = LoRAConfig(r=2, target_modules="all-linear")
    handle = attach(tiny.model(), config, np.random.default_rng(2))
    shapes = {layer.base_weight.shape for layer in handle.layers.values()}
    spy = Spy(monkeypatch)
    handle.model.loss(tiny.ids, tiny.labels).backward()
    assert spy.shapes and not shapes & set(spy.shapes)


@pytest.mark.parametrize("target", ["q_proj", "down_proj"])
def test_backward_stops_below_the_lowest_adapted_layer(tiny, target):
    """The graph has the same nodes whether 1 or 4 layers lie below the only adapted one."""
    sizes = []
    for layers in (2, 5):
        model = tiny.model(layers=layers)
        name = f"layers.{layers - 1}.{'mlp' if target == 'down_proj' else 'self_attn'}.{target}"
        attach(model, LoRAConfig(r=2, target_modules=(name,)), np.random.default_rng(2))
        order = topological_order(model.loss(tiny.ids, tiny.labels).node)
        leaves = [p for node in order for p in node.parents if isinstance(p, Tensor)]
        layer = lora_layers(model)[f"model.{name}"]
        assert {id(x) for x in leaves} == {id(layer.lora_A), id(layer.lora_B)}
        sizes.append(len(order))
    assert sizes[0] == sizes[1]
    everywhere = attach(tiny.model(layers=5), LoRAConfig(r=2), np.random.default_rng(2)).model
    assert len(topological_order(everywhere.loss(tiny.ids, tiny.labels).node)) > 2 * sizes[1]


def deltas_after(tiny, config, start=1.0, scale_A=1.0, scale_B=1.0, steps=20):
    """ΔW of every layer after Adam, A starting `start` times larger, with a rate for each."""
    handle = attach(tiny.model(np.float64), config, np.random.default_rng(2))
    model = handle.model
    for layer in handle.layers.values():
        layer.lora_A.data = layer.lora_A.data * start
    scales = {n: scale_A if n.endswith("lora_A") else scale_B for n in adapter_state(model)}
    # eps only guards 0/0 at the first step, where B = 0 makes A's gradient exactly zero.
    optimizer = AdamW(model.named_parameters(), eps=1e-30, lr_scales=scales)
    for _ in range(steps):
        model.zero_grad()
        model.loss(tiny.ids, tiny.labels).backward()
        optimizer.step(0.01)
    return [layer.delta_weight() for layer in handle.layers.values()]


@pytest.mark.parametrize(("p", "q"), [(3.0, 0.7), (0.25, 5.0)])
def test_adam_training_depends_on_alpha_and_rates_only_through_their_products(tiny, p, q):
    """alpha / (pq), A0 * p, lr_A * p, lr_B * q: every ΔW is unchanged (LoRA Without Regret)."""
    targets = ("q_proj", "v_proj", "down_proj")
    plain = deltas_after(tiny, LoRAConfig(r=2, lora_alpha=6, target_modules=targets))
    config = LoRAConfig(r=2, lora_alpha=6 / (p * q), target_modules=targets)
    other = deltas_after(tiny, config, start=p, scale_A=p, scale_B=q)
    wrong = deltas_after(tiny, config, start=p, scale_A=p, scale_B=1.0)
    for a, b, c in zip(plain, other, wrong, strict=True):
        size = np.abs(a).max()
        assert size > 0.01
        assert np.abs(a - b).max() < 1e-10 * size
        assert np.abs(a - c).max() > 1e-2 * size

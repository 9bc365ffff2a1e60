"""Bottleneck adapters: gradients, start, freezing, taking off, counts, generation, errors."""

import numpy as np
import pytest

from minilora.autograd import Tensor, no_grad
from minilora.baselines.bottleneck import BottleneckLinear, attach_bottlenecks
from minilora.gradients.bottleneck_cases import bottleneck_model
from minilora.lora import AttachError, LoRAConfig, TargetError, attach, trainable_parameters
from minilora.nn import Linear, generate
from minilora.training import AdamW
from tests.says import refusal
from tests.tiny import model as tiny_model

IDS = np.array([[1, 4, 2, 7, 3], [5, 0, 9, 9, 10]])


def tiny(dtype=np.float32):
    return tiny_model(3, dtype=dtype)


def test_the_frozen_linear_gets_no_gradient():
    model = bottleneck_model(3, 0)
    model.loss(IDS, IDS).backward()
    for name, parameter in model.named_parameters():
        trained = ".down." in name or ".up." in name
        assert (parameter.grad is not None) is trained, name


@pytest.mark.parametrize(("width", "size"), [(7, 3), (4, 5)])
def test_forward_is_the_formula(width, size):
    rng = np.random.default_rng(0)
    base = Linear(6, width, rng, bias=True, std=1.0)
    layer = BottleneckLinear(base, size, rng)
    for part in (layer.down, layer.up):
        part.weight.data = rng.standard_normal(part.weight.shape)
        part.bias.data = rng.standard_normal(part.bias.shape)
    x = rng.standard_normal((2, 3, 6))
    h = x @ base.weight.data.T + base.bias.data
    z = h @ layer.down.weight.data.T + layer.down.bias.data
    z = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    want = h + z @ layer.up.weight.data.T + layer.up.bias.data
    assert np.abs(want - h).max() > 0.5
    np.testing.assert_allclose(layer(Tensor(x)).data, want, rtol=1e-6, atol=1e-6)


def test_a_fresh_layer_is_nearly_the_identity():
    model = tiny()
    with no_grad():
        before = model(IDS).data
        after = attach_bottlenecks(model, 2, np.random.default_rng(0)).model(IDS).data
    gap = np.abs(after - before).max() / np.abs(before).max()
    assert 0 < gap < 1e-3


@pytest.mark.parametrize("size", [1, 5])
def test_two_a_block_and_the_papers_count(size):
    handle = attach_bottlenecks(tiny(), size, np.random.default_rng(0))
    assert [n.split(".", 3)[3] for n in handle.layers] == [
        "self_attn.o_proj",
        "mlp.down_proj",
    ] * 3
    width, layers = 10, 3
    assert trainable_parameters(handle.model) == 2 * layers * (2 * width * size + size + width)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_the_bases(dtype):
    model = attach_bottlenecks(tiny(dtype), 2, np.random.default_rng(0)).model
    assert {p.dtype for p in model.parameters()} == {np.dtype(dtype)}
    assert model(IDS).dtype == dtype


def test_training_moves_every_bottleneck_and_detach_gives_the_base_back():
    model = tiny()
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    with no_grad():
        plain = model(IDS).data
    handle = attach_bottlenecks(model, 3, np.random.default_rng(0))
    start = {n: p.data.copy() for n, p in model.named_parameters() if p.requires_grad}
    optimizer = AdamW(model.named_parameters())
    for _ in range(3):
        model.zero_grad()
        model.loss(IDS, IDS).backward()
        optimizer.step(0.05)
    moved = {n: p.data for n, p in model.named_parameters() if p.requires_grad}
    assert all(np.abs(moved[name] - start[name]).max() > 1e-3 for name in start)
    with no_grad():
        assert np.abs(model(IDS).data - plain).max() > 1e-3
    with pytest.raises(ValueError, match="read-only"):
        model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1
    assert handle.detach() is model
    assert [name for name, _ in model.named_parameters()] == list(before)
    for name, parameter in model.named_parameters():
        assert np.array_equal(parameter.data, before[name])
        assert parameter.requires_grad and parameter.data.flags.writeable
        assert not parameter.read_only
    with no_grad():
        assert np.array_equal(model(IDS).data, plain)


def test_generate_runs_the_bottlenecks():
    model = bottleneck_model(3, 1)
    prompts = [[1, 4, 2], [5, 9]]
    got = generate(model, prompts, 6)
    assert got == generate(model, prompts, 6, use_cache=False)
    for place in ("self_attn.o_proj", "mlp.down_proj"):
        for i in range(2):
            layer = model.get_submodule(f"model.layers.{i}.{place}")
            model.set_submodule(f"model.layers.{i}.{place}", layer.base_layer)
    assert got != generate(model, prompts, 6)


@pytest.mark.parametrize("size", [0, -2, 1.5, True, "8"])
def test_a_size_that_makes_no_sense_is_refused(size):
    with refusal(ValueError, "size", 1):
        attach_bottlenecks(tiny(), size, np.random.default_rng(0))


def test_a_generator_is_asked_for():
    with refusal(ValueError, "numpy.random.Generator"):
        attach_bottlenecks(tiny(), 2, 0)


@pytest.mark.parametrize("places", [("c_proj",), ("o_proj", "proj"), ()])
def test_a_place_that_fits_nothing_is_refused_and_nothing_changes(places):
    model = tiny()
    names = [name for name, _ in model.named_parameters()]
    with refusal(TargetError, "down_proj"):
        attach_bottlenecks(model, 2, np.random.default_rng(0), places)
    assert [name for name, _ in model.named_parameters()] == names
    assert all(p.requires_grad and p.data.flags.writeable for p in model.parameters())


@pytest.mark.parametrize(
    "first",
    [
        lambda model, rng: attach_bottlenecks(model, 2, rng),
        lambda model, rng: attach(model, LoRAConfig(r=2), rng),
    ],
    ids=["bottlenecks", "LoRA"],
)
def test_an_adapted_model_is_refused(first):
    rng = np.random.default_rng(0)
    model = tiny()
    handle = first(model, rng)
    names = [name for name, _ in model.named_parameters()]
    for again in (
        lambda: attach_bottlenecks(model, 2, rng),
        lambda: attach(model, LoRAConfig(r=2), rng),
    ):
        with pytest.raises(AttachError):
            again()
    assert [name for name, _ in model.named_parameters()] == names
    assert handle.detach() is model
    first(model, rng)


def test_bottlenecks_are_taken_off_once():
    handle = attach_bottlenecks(tiny(), 2, np.random.default_rng(0))
    handle.detach()
    with pytest.raises(AttachError):
        handle.detach()

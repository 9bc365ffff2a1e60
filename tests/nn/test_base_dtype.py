"""store_base: what a stored model keeps, computes and refuses."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from minilora.autograd import Tensor, no_grad
from minilora.autograd import functional as F
from minilora.autograd.quantize import quantize
from minilora.autograd.stored_array import StoredArray
from minilora.lora import base_fingerprint
from minilora.nn import (
    BASE_DTYPES,
    Linear,
    StoredParameter,
    bytes_by_format,
    generate,
    store_base,
)
from minilora.nn.base_dtype import unpack_base
from minilora.storage import fingerprint
from tests import tiny
from tests.says import refusal
from tests.tiny import IDS, LABELS

STORED = ("float16", "q4", "nf4")


def make(tied=True, **changes):
    shape = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2)  # whole blocks
    return tiny.model(**{**shape, **changes}, tie_word_embeddings=tied)


def dense_twin(model, **changes):
    """A float32 model with the numbers that a stored one means."""
    twin = make(model.lm_head is None, **changes)
    twin.load_state_dict(model.state_dict())
    return twin


def formats(model):
    return {n: getattr(p.data, "format", str(p.dtype)) for n, p in model.named_parameters()}


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("tied", [True, False])
def test_a_stored_model_computes_with_the_stored_numbers(dtype, tied):
    plain, model = make(tied), store_base(make(tied), dtype)
    twin = dense_twin(model)
    with no_grad():
        assert np.allclose(model(IDS).data, twin(IDS).data, rtol=1e-5, atol=1e-5)
        assert model.loss(IDS, LABELS).item() == pytest.approx(twin.loss(IDS, LABELS).item())
        assert model(IDS).dtype == np.float32
        assert not np.allclose(model(IDS).data, plain(IDS).data, rtol=1e-5, atol=1e-5)
    assert fingerprint(model.state_dict()) == fingerprint(twin.state_dict())
    assert fingerprint(model.state_dict()) != fingerprint(plain.state_dict())


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_is_that_of_the_stored_numbers(dtype, use_cache):
    model = store_base(make(), dtype)
    prompts = [[3, 1, 4], [9]]
    found = generate(model, prompts, 12, use_cache=use_cache)
    assert found == generate(dense_twin(model), prompts, 12)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "q4", "nf4"])
def test_an_unpacked_base_is_the_stored_numbers_in_float32(dtype, tied):
    packed, unpacked = (store_base(make(tied), dtype) for _ in range(2))
    names = [name for name, _ in packed.named_parameters()]
    assert unpack_base(unpacked) is unpacked
    assert [name for name, _ in unpacked.named_parameters()] == names
    assert all(type(p.data) is np.ndarray for p in unpacked.parameters())
    assert base_fingerprint(unpacked) == base_fingerprint(packed) != base_fingerprint(make(tied))
    assert not any(p.requires_grad for p in unpacked.parameters() if p.ndim == 2)
    with no_grad():
        np.testing.assert_allclose(unpacked(IDS).data, packed(IDS).data, rtol=0, atol=1e-5)


def test_q4_keeps_linears_in_q4_and_embedding_and_head_in_q8():
    found = formats(store_base(make(tied=False), "q4"))
    assert found["model.embed_tokens.weight"] == found["lm_head.weight"] == "q8"
    assert found["model.layers.1.mlp.down_proj.weight"] == "q4"
    assert found["model.layers.0.self_attn.o_proj.weight"] == "float16"  # 18 inputs: no blocks
    assert found["model.layers.0.input_layernorm.weight"] == "float32"
    assert set(formats(store_base(make(), "float16")).values()) == {"float16", "float32"}


def test_the_bytes_are_those_of_the_formats():
    model = make(num_attention_heads=8, head_dim=8)  # every width in blocks
    numbers = sum(p.size for p in model.parameters())
    norms, embedding = 64 * 5, 37 * 64
    linears = numbers - norms - embedding
    assert bytes_by_format(model) == {"float32": (numbers, 4 * numbers)}
    assert bytes_by_format(store_base(model, "q4")) == {
        "q4": (linears, linears * 5 // 8),
        "q8": (embedding, embedding * 34 // 32),
        "float32": (norms, 4 * norms),
    }


def test_float32_changes_nothing():
    model = make()
    before = dict(model.named_parameters())
    assert store_base(model, "float32") is model
    assert all(p is before[name] for name, p in model.named_parameters())


def test_blocks_that_are_ready_are_used_as_they_are():
    model, name = make(), "model.layers.0.self_attn.q_proj.weight"
    ready = {name: quantize(model.state_dict()[name], "q8")}
    store_base(model, "q4", ready)
    held = dict(model.named_parameters())
    assert held[name].data is ready[name]
    assert held[name.replace("q_proj", "k_proj")].data.format == "q4"


def test_float32_with_ready_blocks_stores_these_alone():
    model, name = make(), "model.layers.0.self_attn.q_proj.weight"
    store_base(model, "float32", {name: quantize(model.state_dict()[name], "q8")})
    assert [n for n, kind in formats(model).items() if kind != "float32"] == [name]


def test_names_and_order_stay():
    model = make(tied=False)
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in store_base(model, "q4").named_parameters()] == names


def test_a_weight_that_two_modules_share_stays_shared():
    model = make()
    layers = model.model.layers
    layers[1].self_attn.q_proj.weight = layers[0].self_attn.q_proj.weight
    store_base(model, "q4")
    shared = layers[0].self_attn.q_proj.weight
    assert isinstance(shared, StoredParameter)
    assert layers[1].self_attn.q_proj.weight is shared


def test_gradients_reach_the_input_and_no_stored_weight():
    model = store_base(make(), "q4")
    norm = model.model.layers[0].input_layernorm.weight
    model.loss(IDS, LABELS).backward()
    assert np.abs(norm.grad).max() > 0
    assert all(p.grad is None for p in model.parameters() if isinstance(p, StoredParameter))


@pytest.mark.parametrize("format", ["float16", "q8", "q4"])
def test_no_float32_weight_lives_between_forward_and_backward(format):
    out, width = 600, 640
    weight = Tensor(quantize(np.ones((out, width), np.float32), format))
    x = Tensor(np.ones((3, width), np.float32), requires_grad=True)
    a = Tensor(np.ones((2, width), np.float32), requires_grad=True)
    b = Tensor(np.ones((out, 2), np.float32), requires_grad=True)
    dense = 4 * out * width
    for make_y in (lambda: F.linear(x, weight), lambda: F.lora_linear(x, weight, a, b, 0.5)):
        tracemalloc.start()
        y = make_y()
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < dense / 10
        assert peak > dense  # or nothing was dequantized and the test would be blind
        y.backward(np.ones_like(y.data))
    rows = Tensor(np.ones((400, width), np.float32), requires_grad=True)
    tracemalloc.start()
    y = F.lora_linear(rows, weight, a, b, 0.5)  # so many rows that s B A is folded in
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < y.data.nbytes + dense / 10


def test_a_stored_head_is_read_in_parts(monkeypatch):
    from minilora.autograd import stored_array as stored

    monkeypatch.setattr(stored, "PART_BYTES", 1 << 16)
    weight = Tensor(quantize(np.ones((4096, 64), np.float32), "q8"))
    h = Tensor(np.ones((3, 64), np.float32), requires_grad=True)
    tracemalloc.start()
    F.linear_cross_entropy(h, weight, np.array([5, 4000, -100])).backward()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 4096 * 64 / 2
    assert h.grad.shape == (3, 64)


def test_a_linear_with_bias_can_be_stored():
    rng = np.random.default_rng(0)
    layer = Linear(32, 5, rng, bias=True)
    layer.bias.data = rng.random(5, dtype=np.float32)
    numbers = quantize(layer.weight.data, "q4")
    layer.weight = StoredParameter(numbers)
    x = rng.random((2, 32), dtype=np.float32)
    assert np.allclose(layer(Tensor(x)).data, x @ numbers.dense().T + layer.bias.data, atol=1e-6)


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "q8", "", None])
def test_another_dtype_is_refused(dtype):
    with refusal(ValueError, repr(dtype), "float32", "float16", "q4"):
        store_base(make(), dtype)


def test_a_stored_model_is_not_stored_again():
    model = store_base(make(), "float16")
    with refusal(ValueError, "float16"):
        store_base(model, "q4")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("model.layers.0.self_attn.q_proj.weight", (18, 32)), ("model.norm.weight", (1, 64))],
)
def test_ready_blocks_that_do_not_fit_are_refused_before_anything_changes(name, shape):
    model = make()
    with pytest.raises(ValueError, match=name):
        store_base(model, "q4", {name: quantize(np.zeros(shape, np.float32), "float16")})
    assert set(formats(model).values()) == {"float32"}


def test_a_weight_beyond_float16_is_refused_by_name_before_anything_changes():
    model = make()
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = 1e6
    for dtype in STORED:
        with refusal(ValueError, "layers.1.mlp.up_proj.weight", 1000000):
            store_base(model, dtype)
    assert set(formats(model).values()) == {"float32"}


def test_stored_weights_are_frozen():
    model = store_base(make(), "q4")
    with refusal(ValueError, "adapter"):
        model.requires_grad_(True)
    with refusal(ValueError, "stored"):
        model.model.embed_tokens.weight.requires_grad = True
    model.requires_grad_(False)
    for parameter in model.parameters():
        if isinstance(parameter.data, StoredArray):
            assert not any(field.flags.writeable for field in parameter.data.fields)


def test_loading_into_a_stored_model_is_refused():
    model = store_base(make(), "q4")
    with refusal(ValueError, "stored"):
        model.load_state_dict(make().state_dict())


def test_a_stored_model_stays_on_the_cpu():
    model = store_base(make(), "q4")
    before = dict(model.named_parameters())
    model.to("cpu")
    assert all(p.data is before[n].data and p is before[n] for n, p in model.named_parameters())
    with refusal(ValueError, "cpu"):
        model.to("gpu")


def test_the_list_of_dtypes_is_what_store_base_takes():
    assert ("float32", *STORED) == BASE_DTYPES
    for dtype in BASE_DTYPES:
        store_base(make(), dtype)

from __future__ import annotations

import math

import numpy as np
import pytest

from minilora.autograd import Tensor, no_grad
from minilora.lora import LoRAConfig, LoRALinear, MergeError
from minilora.lora.layer import initial_lora_A
from minilora.nn import Linear
from tests.says import refusal


def make_layer(dtype=np.float32, bias=True, random=True, **settings) -> LoRALinear:
    rng = np.random.default_rng(5)
    base = Linear(7, 11, rng, bias=bias, std=0.5)
    if bias:
        base.bias.data = rng.standard_normal(11).astype(np.float32)
    for parameter in base.parameters():
        parameter.data = parameter.data.astype(dtype)
    layer = LoRALinear(base, LoRAConfig(**{"r": 3, "lora_alpha": 5, **settings}), rng)
    if random:
        layer.lora_B.data = rng.standard_normal((11, 3)).astype(dtype)
    return layer


def batch(dtype=np.float32, requires_grad=False) -> Tensor:
    x = np.random.default_rng(8).standard_normal((2, 5, 7)).astype(dtype)
    return Tensor(x, requires_grad)


@pytest.mark.parametrize("in_features", [4, 576])
def test_A_starts_uniform_within_one_over_root_in_and_B_at_zero(in_features):
    a = initial_lora_A(400, in_features, np.random.default_rng(0))
    bound = 1 / math.sqrt(in_features)
    assert a.shape == (400, in_features) and a.dtype == np.float32
    assert 0.98 * bound < a.max() <= bound and -bound <= a.min() < -0.98 * bound
    # A uniform law on +-b has mean 0 and variance b^2 / 3; 5 standard errors of either.
    assert abs(a.mean()) < 5 * bound / math.sqrt(3 * a.size)
    assert a.var() == pytest.approx(bound**2 / 3, rel=5 * 0.9 / math.sqrt(a.size))
    assert not make_layer(random=False).lora_B.data.any()


def test_A_is_that_of_the_generator():
    layer = make_layer(random=False)
    rng = np.random.default_rng(5)
    Linear(7, 11, rng, bias=False), rng.standard_normal(11)
    np.testing.assert_array_equal(layer.lora_A.data, initial_lora_A(3, 7, rng))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_is_the_formula_and_keeps_the_dtype(dtype, bias):
    layer, x = make_layer(dtype, bias), batch(dtype)
    w, b = layer.base_layer.weight.data, layer.base_layer.bias
    delta = (5 / 3) * (layer.lora_B.data @ layer.lora_A.data)
    expected = x.data @ (w + delta).T + (b.data if bias else 0)
    plain = x.data @ w.T + (b.data if bias else 0)
    y = layer(x).data
    assert y.dtype == dtype and layer.delta_weight().dtype == dtype
    assert np.abs(y - plain).max() > 0.1
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)
    np.testing.assert_allclose(layer.delta_weight(), delta, rtol=1e-5)


def test_rslora_scales_by_the_root_of_r():
    layer = make_layer(use_rslora=True)
    expected = (5 / math.sqrt(3)) * (layer.lora_B.data @ layer.lora_A.data)
    np.testing.assert_allclose(layer.delta_weight(), expected, rtol=1e-5)


def test_a_fresh_layer_computes_what_the_linear_did_bit_for_bit():
    layer, x = make_layer(random=False), batch()
    assert layer(x).data.tobytes() == layer.base_layer(x).data.tobytes()


def test_dropout_acts_in_training_only_and_repeats_with_its_generator():
    layer, x = make_layer(lora_dropout=0.5), batch()
    layer.dropout_rng = np.random.default_rng([1, 2])
    first, second = layer(x).data, layer(x).data
    layer.dropout_rng = np.random.default_rng([1, 2])
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(layer(x).data, first)
    layer.eval()
    quiet = layer(x).data
    np.testing.assert_array_equal(layer(x).data, quiet)
    np.testing.assert_array_equal(make_layer(lora_dropout=0.0)(x).data, quiet)


def test_dropout_drops_before_A_and_never_on_the_base():
    layer, x = make_layer(lora_dropout=0.9), batch()
    layer.lora_B.data = np.zeros_like(layer.lora_B.data)
    np.testing.assert_array_equal(layer(x).data, layer.base_layer(x).data)


def test_gradients_reach_A_and_B_only():
    layer, x = make_layer(), batch()
    layer.base_layer.requires_grad_(False)
    y = layer(x)
    y.backward(np.ones(y.shape, y.dtype))
    assert layer.lora_A.grad.shape == (3, 7) and layer.lora_B.grad.shape == (11, 3)
    assert layer.base_layer.weight.grad is None and layer.base_layer.bias.grad is None


def test_layer_takes_the_mode_of_its_base():
    base = Linear(7, 11, np.random.default_rng(0))
    base.eval()
    assert LoRALinear(base, LoRAConfig(r=2), np.random.default_rng(1)).training is False


def test_rank_above_the_matrix_is_refused():
    base = Linear(7, 11, np.random.default_rng(0))
    LoRALinear(base, LoRAConfig(r=7), np.random.default_rng(1))
    with refusal(ValueError, 8, (11, 7), 7):
        LoRALinear(base, LoRAConfig(r=8), np.random.default_rng(1))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_merged_differs_from_the_base_and_equals_the_adapted(dtype, tolerance):
    layer, x = make_layer(dtype).eval(), batch(dtype)
    adapted, plain = layer(x).data, layer.base_layer(x).data
    layer.merge()
    merged = layer(x).data
    assert layer.merged and np.abs(merged - plain).max() > 0.1
    assert np.abs(merged - adapted).max() <= tolerance * np.abs(adapted).max()
    assert merged.tobytes() == layer.base_layer(x).data.tobytes()  # a plain linear


def test_unmerge_puts_the_same_array_back_after_a_hundred_cycles():
    layer, x = make_layer().eval(), batch()
    w, before = layer.base_layer.weight.data, layer(x).data.tobytes()
    content = w.tobytes()
    for _ in range(100):
        layer.merge()
        assert layer.base_layer.weight.data is not w and layer.base_weight is w
        layer.unmerge()
    assert layer.base_layer.weight.data is w and w.tobytes() == content
    assert layer(x).data.tobytes() == before


def test_merging_twice_and_unmerging_a_plain_layer_are_errors():
    layer = make_layer()
    with refusal(MergeError):
        layer.unmerge()
    layer.merge()
    merged = layer.base_layer.weight.data
    with refusal(MergeError):
        layer.merge()
    assert layer.base_layer.weight.data is merged


def test_training_while_merged_is_an_error_and_predicting_is_not():
    layer, x = make_layer(), batch()
    layer.merge()
    with refusal(MergeError, "training"):
        layer(x)
    with no_grad():
        layer(x)
    layer.eval()(x)
    layer.train().requires_grad_(False)
    layer(x)  # nothing here is trained


def test_a_write_into_a_merged_weight_raises():
    layer = make_layer()
    layer.merge()
    with pytest.raises(ValueError, match="read-only"):
        layer.base_layer.weight.data[0, 0] = 1.0


@pytest.mark.parametrize(
    ("leaf", "bad", "named"),
    [
        ("lora_B", np.nan, (1, "lora_B")),
        ("lora_A", np.inf, (1, "lora_A")),
        ("lora_B", 3e38, ("merged",)),  # finite, but scaled beyond float32
    ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid:RuntimeWarning")
def test_a_delta_that_is_not_finite_is_not_merged(leaf, bad, named):
    layer = make_layer()
    w = layer.base_layer.weight.data
    getattr(layer, leaf).data[1, 1] = bad
    with refusal(MergeError, *named):
        layer.merge()
    assert not layer.merged and layer.base_layer.weight.data is w

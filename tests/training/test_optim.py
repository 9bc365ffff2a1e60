"""Optimizers against the formulas of their papers, clipping, schedules, and what state costs."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from minilora.lora import LoRAConfig, attach
from minilora.nn import Parameter
from minilora.training import SGD, AdamW, clip_grad_norm_, schedule
from tests.says import refusal

SHAPES = {"W": (3, 5), "b": (7,), "V": (2, 1)}
STEPS = 7


def parameters(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return {n: Parameter(rng.standard_normal(s).astype(dtype)) for n, s in SHAPES.items()}


def set_grads(params, step):
    rng = np.random.default_rng([5, step])
    for p in params.values():
        p.grad = rng.standard_normal(p.shape).astype(p.dtype)


def textbook_adamw(p, grads, rates, betas, eps, decay):
    """Algorithm 2 of Loshchilov & Hutter, one number at a time in Python floats."""
    m, v, theta = 0.0, 0.0, float(p)
    for t, (g, lr) in enumerate(zip(grads, rates, strict=True), 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        theta = theta - lr * (m_hat / (math.sqrt(v_hat) + eps) + decay * theta)
    return theta


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.8), (0.0, 0.0)])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw_is_the_textbook_formula_and_decays_matrices_only(betas, decay):
    params, eps = parameters(), 1e-3  # an eps large enough that its place under the root shows
    start = {n: p.data.copy() for n, p in params.items()}
    optimizer = AdamW(params.items(), betas, eps, decay, lr_scales={"V": 3.0})
    rates, grads = [0.1 / (i + 1) for i in range(STEPS)], []
    for step, lr in enumerate(rates):
        set_grads(params, step)
        grads.append({n: p.grad.copy() for n, p in params.items()})
        optimizer.step(lr)
    for name, p in params.items():
        scale = 3.0 if name == "V" else 1.0
        for at in np.ndindex(p.shape):
            expected = textbook_adamw(
                start[name][at],
                [g[name][at] for g in grads],
                [lr * scale for lr in rates],
                betas,
                eps,
                decay if p.ndim == 2 else 0.0,
            )
            assert p.data[at] == pytest.approx(expected, rel=1e-12, abs=1e-14), (name, at)


def test_decay_is_decoupled_from_the_gradient():
    """With a zero gradient a matrix shrinks by exactly 1 - lr wd, and its moments stay zero."""
    params = parameters()
    start = {n: p.data.copy() for n, p in params.items()}
    optimizer = AdamW(params.items(), weight_decay=0.5)
    for p in params.values():
        p.grad = np.zeros(p.shape)
    optimizer.step(0.2)
    np.testing.assert_array_equal(params["W"].data, start["W"] * (1 - 0.2 * 0.5))
    np.testing.assert_array_equal(params["b"].data, start["b"])
    assert not optimizer.state["m"]["W"].any() and not optimizer.state["v"]["W"].any()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_its_formula(momentum):
    params = parameters()
    expected = {n: p.data.copy() for n, p in params.items()}
    velocity = {n: np.zeros(p.shape) for n, p in params.items()}
    optimizer = SGD(params.items(), momentum, lr_scales={"b": 0.5})
    for step in range(STEPS):
        set_grads(params, step)
        for n, p in params.items():
            velocity[n] = momentum * velocity[n] + p.grad
            expected[n] = expected[n] - 0.1 * (0.5 if n == "b" else 1.0) * velocity[n]
        optimizer.step(0.1)
    for n, p in params.items():
        np.testing.assert_allclose(p.data, expected[n], rtol=1e-13, atol=1e-14)
    count = sum(p.size for p in params.values())
    assert optimizer.state_bytes == (8 * count if momentum else 0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_changes_no_gradient_and_skips_parameters_without_one(momentum):
    params = parameters()
    set_grads(params, 0)
    params["b"].grad = None
    start = params["b"].data.copy()
    before = params["W"].grad.copy()
    for optimizer in (SGD(params.items(), momentum), AdamW(params.items(), weight_decay=0.1)):
        optimizer.step(0.1)
        np.testing.assert_array_equal(params["W"].grad, before)
        np.testing.assert_array_equal(params["b"].data, start)


@pytest.mark.parametrize("make", [AdamW, lambda p: SGD(p, momentum=0.9)])
def test_float32_stays_float32(make):
    params = parameters(np.float32)
    optimizer = make(params.items())
    rate = schedule("cosine", 0.1, STEPS, warmup=2)
    for step in range(STEPS):
        set_grads(params, step)
        clip_grad_norm_(params.values(), 0.5)
        assert {p.grad.dtype for p in params.values()} == {np.dtype(np.float32)}
        optimizer.step(rate(step))
    arrays = [p.data for p in params.values()]
    arrays += [a for slot in optimizer.state.values() for a in slot.values()]
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}
    slots = {k: a for k, a in optimizer.state_dict().items() if k != "steps"}
    assert {a.dtype for a in slots.values()} == {np.dtype(np.float32)}


def test_state_is_kept_for_trainable_parameters_only(tiny):
    """Adam keeps 8 bytes a trained float32 parameter: 2 of 4 bytes, and none for the base."""
    model = tiny.model()
    whole = AdamW(model.named_parameters())
    count = sum(p.size for p in model.parameters())
    assert whole.state_bytes == 8 * count
    attach(model, LoRAConfig(r=2, target_modules=("q_proj",)), np.random.default_rng(0))
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    few = AdamW(model.named_parameters())
    assert few.parameters.keys() == few.state["m"].keys() == few.state["v"].keys() == trained.keys()
    assert few.state_bytes == 8 * sum(p.size for p in trained.values()) < whole.state_bytes / 10


def test_state_dict_carries_a_run_on_bit_for_bit():
    straight, stopped = parameters(np.float32), parameters(np.float32)
    first, second = AdamW(straight.items()), AdamW(stopped.items())
    for step in range(4):
        set_grads(straight, step)
        set_grads(stopped, step)
        first.step(0.1)
        second.step(0.1)
    saved = {k: a.copy() for k, a in second.state_dict().items()}
    third = AdamW(stopped.items())
    third.load_state_dict(saved)
    assert third.steps == 4
    for step in range(4, 7):
        set_grads(straight, step)
        set_grads(stopped, step)
        first.step(0.1)
        third.step(0.1)
    for n in SHAPES:
        assert straight[n].data.tobytes() == stopped[n].data.tobytes()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("m/W"), ("m/W",)),
        (lambda s: s.update({"m/other": np.zeros(1)}), ("m/other",)),
        (lambda s: s.update({"v/b": np.zeros(8)}), ("v/b",)),
    ],
)
def test_a_state_dict_of_another_model_is_refused_whole(change, named):
    params = parameters()
    optimizer = AdamW(params.items())
    set_grads(params, 0)
    optimizer.step(0.1)
    before = {k: a.copy() for k, a in optimizer.state_dict().items()}
    other = {k: a + 1 for k, a in before.items()}
    change(other)
    with refusal(ValueError, *named):
        optimizer.load_state_dict(other)
    after = optimizer.state_dict()
    assert all(np.array_equal(after[k], before[k]) for k in before)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda p: AdamW(p, betas=(1.0, 0.9)), ("betas",)),
        (lambda p: AdamW(p, eps=0.0), ("eps", 0.0)),
        (lambda p: AdamW(p, weight_decay=-0.1), ("weight_decay", -0.1)),
        (lambda p: SGD(p, momentum=1.0), ("momentum", 1.0)),
        (lambda p: AdamW(p, lr_scales={"lora_B": 2.0}), ("lora_B",)),
        (lambda p: AdamW(p, lr_scales={"W": math.nan}), ("lr_scales['W']", float("nan"))),
        (lambda p: AdamW(p, betas=(0.9, math.nan)), ("betas[1]", float("nan"))),
        (lambda p: AdamW(p, eps=math.inf), ("eps", float("inf"))),
        (lambda p: AdamW(p, weight_decay=math.inf), ("weight_decay", float("inf"))),
        (lambda p: SGD(p, momentum=math.nan), ("momentum", float("nan"))),
        (lambda p: AdamW([]), ()),
    ],
)
def test_settings_out_of_range_are_refused(make, named):
    with refusal(ValueError, *named):
        make(parameters().items())


@pytest.mark.parametrize("lr", [math.nan, math.inf, -0.1])
def test_a_step_at_a_rate_that_is_none_changes_nothing(lr):
    params = parameters()
    set_grads(params, 0)
    optimizer = SGD(params.items())
    before = {n: p.data.copy() for n, p in params.items()}
    with refusal(ValueError, "lr", lr):
        optimizer.step(lr)
    assert optimizer.steps == 0
    assert all(np.array_equal(p.data, before[n]) for n, p in params.items())


def test_frozen_parameters_are_none_to_train():
    params = parameters()
    for p in params.values():
        p.requires_grad = False
    with refusal(ValueError):
        SGD(params.items())


# -- clipping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_measures_and_scales_all_gradients_as_one_vector(max_norm):
    params = parameters()
    set_grads(params, 0)
    params["V"].grad = None
    before = {n: params[n].grad.copy() for n in ("W", "b")}
    norm = np.sqrt(sum((g**2).sum() for g in before.values()))
    assert clip_grad_norm_(params.values(), max_norm) == pytest.approx(norm, rel=1e-12)
    for n, g in before.items():
        np.testing.assert_allclose(params[n].grad, g * min(1, max_norm / norm), rtol=1e-12)
    assert params["V"].grad is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_gradients_that_are_not_finite_are_left_alone(bad):
    params = parameters()
    set_grads(params, 0)
    params["W"].grad[1, 2] = bad
    before = {n: p.grad.copy() for n, p in params.items()}
    assert not math.isfinite(clip_grad_norm_(params.values(), 0.5))
    for n, p in params.items():
        np.testing.assert_array_equal(p.grad, before[n])


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
def test_a_norm_that_bounds_nothing_is_refused(max_norm):
    params = parameters()
    set_grads(params, 0)
    with refusal(ValueError, "max_norm", max_norm):
        clip_grad_norm_(params.values(), max_norm)


# -- schedules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(11, 0), (11, 1), (11, 4), (11, 10), (1, 0)])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_schedules_rise_to_lr_and_fall_to_their_end(name, steps, warmup, final):
    rate = schedule(name, 0.3, steps, warmup, final)
    rates = [rate(i) for i in range(steps)]
    for i in range(warmup):
        assert rates[i] == pytest.approx(0.3 * (i + 1) / warmup)
    assert rates[warmup] == pytest.approx(0.3)
    falling = rates[warmup:]
    assert all(a >= b for a, b in pairwise(falling))
    if name == "constant":
        assert set(falling) == {0.3}
    elif len(falling) > 1:
        assert falling[-1] == pytest.approx(0.3 * final)
        assert falling[0] > falling[-1]
        assert rate(steps + 5) == pytest.approx(falling[-1])  # no new rise after the last step


def test_the_middle_of_each_curve():
    assert schedule("cosine", 2.0, 9, final=0.5)(2) == pytest.approx(
        2.0 * (0.5 + 0.25 * (1 + math.cos(math.pi / 4)))
    )
    assert schedule("linear", 2.0, 9, final=0.5)(2) == pytest.approx(2.0 * 0.875)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (("cosin", 0.1, 10), ("cosin",)),
        (("cosine", 0.1, 10, 10), (10,)),
        (("linear", 0.1, 10, -1), (-1,)),
        (("linear", math.inf, 10), ("lr", float("inf"))),
        (("cosine", math.nan, 10), ("lr", float("nan"))),
        (("cosine", 0.1, 10, 0, math.inf), ("final", float("inf"))),
    ],
)
def test_schedules_that_make_no_sense_are_refused(settings, named):
    with refusal(ValueError, *named):
        schedule(*settings)

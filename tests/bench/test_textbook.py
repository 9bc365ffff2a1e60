"""The textbook model computes what minilora computes, and leaves gradients minilora never makes."""

import numpy as np
import pytest

from minilora.bench import workloads as w
from minilora.bench.sides import train
from minilora.bench.textbook import Textbook, Var


def both(tiny, job, tmp_path, dtype):
    """Textbook and minilora with one set of weights, in `dtype`."""
    w.write_weights(tiny, job, tmp_path)
    # N(0, 0.02) would leave attention uniform, and its gradients little but rounding errors.
    parts = [
        {name: a.astype(dtype) * (scale if a.ndim > 1 else 1) for name, a in part.items()}
        for part, scale in zip(w.read_weights(tmp_path), (15, 3), strict=True)
    ]
    model = w.load_model(tiny, job, tmp_path)
    for name, parameter in model.named_parameters():
        parameter.data = parts["lora_" in name][name.replace(".base_layer", "")]
    return Textbook(tiny.config, *parts, w.ALPHA / w.RANK), model


@pytest.mark.parametrize("job", ["lora-qv", "lora-all", "full"])
def test_loss_and_gradients_equal_minilora(tiny, tmp_path, job, monkeypatch):
    monkeypatch.setattr(w, "RANK", 2)
    textbook, model = both(tiny, w.JOBS[job], tmp_path, np.float64)
    ids, labels = tiny.batch()
    loss = model.loss(ids, labels)
    loss.backward()
    assert textbook.gradients(ids, labels) == pytest.approx(loss.item(), rel=1e-12)
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == textbook.trained.keys()
    for name, expected in trained.items():
        got = textbook.vars[name].grad
        scale = np.abs(expected).max()
        assert scale > 0
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9 * scale, err_msg=name)


def test_frozen_weights_collect_gradients_here(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(w, "RANK", 2)
    textbook, _ = both(tiny, w.JOBS["lora-qv"], tmp_path, np.float32)
    textbook.gradients(*tiny.batch())
    assert all(np.abs(var.grad).max() > 0 for var in textbook.vars.values())
    assert all(var.grad.dtype == np.float32 for var in textbook.vars.values())


@pytest.mark.parametrize("job", ["lora-qv", "full"])
def test_a_step_moves_weights_as_fit_does(tiny, tmp_path, monkeypatch, job):
    monkeypatch.setattr(w, "RANK", 2)
    textbook, model = both(tiny, w.JOBS[job], tmp_path, np.float64)
    before = {n: v.data.copy() for n, v in textbook.trained.items()}
    ids, labels = tiny.batch()
    for _ in range(2):
        textbook.step(ids, labels, w.LEARNING_RATE, w.WEIGHT_DECAY, 0.05)
    monkeypatch.setattr(w, "CLIP_NORM", 0.05)
    train(model, tiny.examples(), 1, lambda step: {}, steps=2)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert np.abs(parameter.data - before[name]).max() > 1e-5
            got = textbook.vars[name].data
            np.testing.assert_allclose(got, parameter.data, rtol=0, atol=1e-9, err_msg=name)


def test_a_value_used_twice_gets_both_gradients():
    x = Var(np.array([[3.0, -2.0]]))
    (x * x + x).sum(1).sum(0).backward()
    np.testing.assert_allclose(x.grad, [[7.0, -3.0]])

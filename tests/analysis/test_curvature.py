"""The top of the Hessian: of a known matrix, and of a tiny model beside its whole Hessian."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.analysis.curvature import (
    gradients_at,
    hessian_times,
    in_float64,
    top_eigenvalue,
)
from minilora.autograd import Tensor, ops
from minilora.lora import LoRAConfig, attach
from minilora.nn import Module, Parameter
from tests import tiny
from tests.says import refusal


class Bowl(Module):
    """Half of x . H x, whose Hessian is H."""

    def __init__(self, H):
        super().__init__()
        self.x = Parameter(np.random.default_rng(3).standard_normal((1, len(H))))
        self.H = Tensor(H)

    def loss(self):
        return ops.sum(ops.mul(ops.matmul(self.x, self.H), self.x)) * 0.5


def symmetric(eigenvalues, seed=0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((len(eigenvalues),) * 2))
    return (q * np.array(eigenvalues)) @ q.T


@pytest.mark.parametrize(
    "eigenvalues", [(5.0, 2.0, -1.0, 0.5), (1.0, -7.0, 3.0), (4.0, -4.0, 1.0), (-2.0, -3.0), (2.0,)]
)
def test_the_largest_of_a_known_matrix(eigenvalues):
    bowl = Bowl(symmetric(eigenvalues))
    before = bowl.x.data.copy()
    found = top_eigenvalue(bowl, bowl.loss, np.random.default_rng(1), tolerance=1e-9)
    assert found.value == pytest.approx(max(eigenvalues), rel=1e-6)
    assert found.residual < 1e-3 * abs(found.value)
    assert np.array_equal(bowl.x.data, before) and bowl.x.grad is None


def test_a_flat_loss_has_none():
    bowl = Bowl(np.zeros((3, 3)))
    found = top_eigenvalue(bowl, bowl.loss, np.random.default_rng(1))
    assert (found.value, found.steps) == (0.0, 1)


def adapted(seed=0):
    model = in_float64(tiny.model())
    attach(model, LoRAConfig(r=1, lora_alpha=3), np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.2 * rng.standard_normal(parameter.shape)
    return model


def test_of_an_adapter_it_is_that_of_the_whole_hessian():
    model = adapted()
    ids, labels = tiny.IDS, tiny.LABELS

    def loss():
        return model.loss(ids, labels)

    trained = {n: p.size for n, p in model.named_parameters() if p.requires_grad}
    rows = []
    for name, size in trained.items():
        for i in range(size):
            direction = {n: np.zeros(model.get_submodule(n.rpartition(".")[0])._parameters[
                n.rpartition(".")[2]].shape) for n in trained}  # fmt: skip
            direction[name].reshape(-1)[i] = 1.0
            product = hessian_times(model, loss, direction)
            rows.append(np.concatenate([product[n].reshape(-1) for n in trained]))
    H = np.array(rows)
    assert np.allclose(H, H.T, atol=1e-6 * np.abs(H).max())
    largest = max(np.linalg.eigvalsh((H + H.T) / 2))
    found = top_eigenvalue(model, loss, np.random.default_rng(2), most_steps=400, tolerance=1e-8)
    assert found.value == pytest.approx(largest, rel=1e-3)


def test_a_fresh_adapter_has_eigenvalues_in_pairs_and_is_measured_all_the_same():
    model = in_float64(tiny.model())
    attach(model, LoRAConfig(r=2, lora_alpha=4), np.random.default_rng(5))
    found = top_eigenvalue(
        model, lambda: model.loss(tiny.IDS, tiny.LABELS), np.random.default_rng(2), tolerance=1e-3
    )
    assert found.value > 0 and found.residual <= 1e-3 * found.value and found.steps < 50


def test_gradients_are_the_trained_ones_and_leave_nothing():
    model = adapted()
    found = gradients_at(model, lambda: model.loss(tiny.IDS, tiny.LABELS))
    assert set(found) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in model.parameters())


def test_what_can_not_be_measured_is_refused():
    model = tiny.model()
    with refusal(ValueError, "float32", "float64"):
        top_eigenvalue(model, lambda: model.loss(tiny.IDS, tiny.LABELS), np.random.default_rng(0))
    for parameter in model.parameters():
        parameter.requires_grad = False
    with refusal(ValueError):
        top_eigenvalue(model, lambda: None, np.random.default_rng(0))
    with refusal(ValueError, "most_steps", 0):
        bowl = Bowl(np.eye(2))
        top_eigenvalue(bowl, bowl.loss, np.random.default_rng(0), most_steps=0)

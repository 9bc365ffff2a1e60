"""Random subspaces: P is what it says, its vjp is the transpose, and training moves along it."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.nn import Parameter
from minilora.training import Batches, TrainingConfig, fit
from minilora.training.subspace import RandomSubspace, SubspaceAdamW
from tests.says import refusal
from tests.tiny import copy_examples

SIZES = {"a": 30, "b": 7, "c": 64}
TOTAL = 101


def subspace(d, scaled=False, seed=0):
    return RandomSubspace(SIZES, d, np.random.default_rng(seed), scaled)


def flat(parts):
    return np.concatenate([parts[name] for name in SIZES])


def matrix(space):
    """P, a column at a time."""
    return np.stack([flat(space.delta(row)) for row in np.eye(space.d, dtype=np.float32)], axis=1)


@pytest.mark.parametrize("d", [1, 2, 10, 50, 100, TOTAL])
def test_the_columns_are_orthonormal(d):
    P = matrix(subspace(d))
    assert P.shape == (TOTAL, d)
    assert np.allclose(P.T @ P, np.eye(d), atol=1e-6)
    assert (P != 0).sum() == TOTAL  # one place a weight


def test_two_seeds_are_two_subspaces():
    overlap = matrix(subspace(10)).T @ matrix(subspace(10, seed=1))
    assert np.linalg.norm(overlap, 2) < 0.9


def test_no_change_at_the_start():
    for scaled in (False, True):
        space = subspace(20, scaled)
        assert not flat(space.delta(space.start())).any()
    assert subspace(20, True).start()[-3:].tolist() == [1, 1, 1]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("d", [5, 40])
def test_the_vjp_is_that_of_finite_differences(d, scaled):
    rng, space, step = np.random.default_rng(3), subspace(d, scaled), 1e-6
    z = rng.standard_normal(d)
    g = {name: rng.standard_normal(size) for name, size in SIZES.items()}
    found = space.pull_back({name: array.copy() for name, array in g.items()}, z)
    for i in range(d):
        plus, minus = z.copy(), z.copy()
        plus[i] += step
        minus[i] -= step
        change = (flat(space.delta(plus)) - flat(space.delta(minus))) / (2 * step)
        assert found[i] == pytest.approx(change @ flat(g), rel=1e-6, abs=1e-8)


def test_the_pull_back_writes_into_nothing_it_was_given():
    space, rng = subspace(9, True), np.random.default_rng(0)
    g = {name: rng.standard_normal(size) for name, size in SIZES.items()}
    before = {name: array.copy() for name, array in g.items()}
    space.pull_back(g, rng.standard_normal(9))
    assert all(np.array_equal(g[name], before[name]) for name in g)


@pytest.mark.parametrize(("d", "scaled"), [(0, False), (102, False), (3, True), (2.5, False)])
def test_a_dimension_that_makes_no_sense_is_refused(d, scaled):
    with refusal(ValueError, d):
        subspace(d, scaled)


def train(tiny, d, scaled=False, steps=30, lr=0.05, **more):
    model = tiny.model()
    rng = np.random.default_rng(5)
    optimizer = SubspaceAdamW(model.named_parameters(), d, rng, scaled)
    config = TrainingConfig(steps, lr, workers=1, checkpoint_every=4, eval_every=1)
    batches = Batches(copy_examples(40), 4, 0)
    history = fit(model, batches, config, optimizer=optimizer, progress=False, **more)
    return model, optimizer, history.series("loss")[1]


@pytest.mark.parametrize("scaled", [False, True])
def test_the_weights_stay_in_the_subspace_and_the_loss_falls(tiny, scaled):
    start = tiny.model().state_dict()
    model, optimizer, losses = train(tiny, 200, scaled)
    moved = {name: (array - start[name]).reshape(-1) for name, array in model.state_dict().items()}
    expected = optimizer.subspace.delta(optimizer.z.data)
    assert all(np.allclose(moved[name], expected[name], atol=1e-6) for name in expected)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_more_dimensions_learn_more(tiny):
    few, many = (np.mean(train(tiny, d)[2][-5:]) for d in (5, 1600))
    assert many < few


def test_z_alone_has_moments(tiny):
    _, optimizer, _ = train(tiny, 50, steps=1)
    assert optimizer.state_bytes == 3 * 4 * 50


def test_a_resumed_run_ends_bit_for_bit_alike(tiny, tmp_path):
    whole, _, _ = train(tiny, 40, steps=10, out_dir=tmp_path / "whole")

    def stop(step):
        if step == 6:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        train(tiny, 40, steps=10, out_dir=tmp_path / "cut", on_eval=stop)
    resumed, _, _ = train(tiny, 40, steps=10, out_dir=tmp_path / "cut", resume=True)
    for name, array in whole.state_dict().items():
        assert np.array_equal(array, resumed.state_dict()[name])


def test_without_a_parameter_there_is_no_subspace():
    with refusal(ValueError):
        SubspaceAdamW([("w", Parameter(np.ones(3), requires_grad=False))], 1,
                      np.random.default_rng(0))  # fmt: skip

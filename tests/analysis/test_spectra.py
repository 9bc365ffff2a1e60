"""Spectra, subspaces, amplification and intruders, against matrices whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilora.analysis import spectra
from minilora.analysis.spectra import (
    adapter_changes,
    amplification,
    chance_grid,
    checkpoint_changes,
    difference_svd,
    effective_rank,
    energy_rank,
    intruder_cosines,
    overlap,
    overlap_grid,
    scattered,
    spectrum,
    stable_rank,
)
from minilora.lora import LoRAConfig, attach
from minilora.lora.deltas import ThinSVD, subspace_overlap
from tests.says import refusal

OUT, IN = 24, 18


def basis(n, k, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, k)))[0]


def change(s, seed=0):
    s = np.array(s, float)
    return ThinSVD(basis(OUT, len(s), seed), s, basis(IN, len(s), seed + 50).T)


def weight(seed=9, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal((OUT, IN))


# -- how many --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("s", "energy", "effective", "stable"),
    [
        ([5.0], 1, 1.0, 1.0),
        ([2.0, 2.0, 2.0, 2.0], 4, 4.0, 4.0),
        ([3.0, 1.0], 1, np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)), 10 / 9),
        ([2.0, 1.0, 1.0], 3, np.exp(0.5 * np.log(2) + 0.5 * np.log(4)), 1.5),
        ([1.0, 0.0], 1, 1.0, 1.0),
        ([], 0, 0.0, 0.0),
    ],
)
def test_ranks_of_known_spectra(s, energy, effective, stable):
    s = np.array(s)
    assert energy_rank(s) == energy
    assert effective_rank(s) == pytest.approx(effective)
    assert stable_rank(s) == pytest.approx(stable)


def test_the_share_of_the_energy_is_a_choice():
    s = np.sqrt([0.5, 0.3, 0.15, 0.05])
    assert [energy_rank(s, share) for share in (0.5, 0.51, 0.8, 0.95, 1.0)] == [1, 2, 2, 3, 4]


# -- changes ---------------------------------------------------------------------------------------


def test_a_difference_that_is_of_low_rank_is_seen_through_the_rounding():
    W = weight().astype(np.float32)
    made = change([4.0, 2.0, 0.5])
    after = (W + (made.U * made.s) @ made.Vt).astype(np.float32)
    found = difference_svd(W, after)
    np.testing.assert_allclose((found.U * found.s) @ found.Vt, after - W, atol=1e-5)
    np.testing.assert_allclose(found.s, made.s, rtol=1e-5)
    np.testing.assert_allclose(np.abs(found.U.T @ made.U), np.eye(3), atol=1e-5)
    # A direction that is small, and yet far above what rounding makes of W, is not left out.
    faint = change([4.0, 1e-4])
    after = (W + (faint.U * faint.s) @ faint.Vt).astype(np.float32)
    assert len(difference_svd(W, after).s) == 2


def test_a_merged_adapter_has_the_changes_of_the_adapter(tiny_lora):
    before, after, adapter = tiny_lora
    own, others = adapter_changes(adapter), checkpoint_changes(before, after)
    assert {f"{name}.weight" for name in own} == set(others)
    for name, one in own.items():
        np.testing.assert_allclose(others[f"{name}.weight"].s, one.s, rtol=1e-4)


@pytest.fixture
def tiny_lora():
    from tests import tiny

    model = tiny.model()
    before = {name: array.copy() for name, array in model.state_dict().items() if array.ndim == 2}
    handle = attach(model, LoRAConfig(2, 3, ("q_proj", "up_proj")), np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for layer in handle.layers.values():
        layer.lora_B.data = rng.standard_normal(layer.lora_B.shape).astype(np.float32)
    adapter = handle.adapter()
    state = handle.merge_and_unload().state_dict()
    return before, {name: state[name] for name in before}, adapter


def test_checkpoints_of_two_models_are_refused():
    with refusal(ValueError, "b"):
        checkpoint_changes({"a": weight()}, {"a": weight(), "b": weight()})
    with refusal(ValueError, "a", (OUT, IN), (IN, OUT)):
        checkpoint_changes({"a": weight()}, {"a": weight().T})
    assert checkpoint_changes({"a": weight()}, {"a": weight()}) == {}


# -- which -----------------------------------------------------------------------------------------


def test_the_grid_is_phi_of_every_pair_of_leading_subspaces():
    one, other = basis(IN, 4, 1), basis(IN, 3, 2)
    grid = overlap_grid(one, other)
    assert grid.shape == (4, 3)
    for i in range(4):
        for j in range(3):
            expected = subspace_overlap(one[:, : i + 1], other[:, : j + 1])
            assert grid[i, j] == pytest.approx(expected)
    np.testing.assert_allclose(np.diag(overlap_grid(one, one)), 1)


def test_chance_is_what_random_subspaces_give():
    grids = [overlap_grid(basis(IN, 5, s), basis(IN, 2, 1000 + s)) for s in range(400)]
    np.testing.assert_allclose(np.mean(grids, axis=0), chance_grid(IN, (5, 2)), rtol=0.15)


def test_two_changes_are_compared_on_both_sides():
    one = change([3, 2, 1], 1)
    other = ThinSVD(basis(OUT, 3, 7), one.s, one.Vt)
    found = overlap("m", one, other)
    np.testing.assert_allclose(np.diag(found.reads), 1)
    assert found.writes[0, 0] < 0.9 and found.chance_writes[0, 0] == pytest.approx(1 / OUT)
    assert found.chance_reads[2, 1] == pytest.approx(3 / IN)
    assert overlap("m", one, other, 2).reads.shape == (2, 2)
    assert json.loads(json.dumps(found.to_dict()))["module"] == "m"


# -- what it does to W -----------------------------------------------------------------------------


def test_amplification_of_w_s_own_directions_is_the_ratio_of_the_sizes():
    W = weight()
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    found = amplification(W, ThinSVD(U[:, :3], 2 * s[:3], Vt[:3]), 3)
    assert found.factor == pytest.approx(2) and found.onto == pytest.approx(found.onto_top)
    weak = amplification(W, ThinSVD(U[:, -2:], np.array([5.0, 5.0]), Vt[-2:]), 9)
    assert weak.r == 2 and weak.onto == pytest.approx(np.linalg.norm(s[-2:]))
    assert weak.factor > weak.chance_factor > amplification(W, weak_of(U, Vt), 2).factor


def weak_of(U, Vt):
    """The same sizes, in W's strongest directions."""
    return ThinSVD(U[:, :2], np.array([5.0, 5.0]), Vt[:2])


def test_amplifications_control_is_what_random_directions_give():
    W, made = weight(), change([2.0, 1.0, 0.5])
    rng = np.random.default_rng(0)
    found = [amplification(W, scattered(made, rng), 3) for _ in range(600)]
    mean = np.sqrt(np.mean([one.onto**2 for one in found]))
    assert mean == pytest.approx(found[0].onto_chance, rel=0.05)


def test_a_strong_new_direction_is_an_intruder_and_a_scaled_old_one_is_not():
    W = weight(scale=0.1)
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    assert len(s) == IN
    mixed = (U[:, :1] + U[:, 1:2] + U[:, 2:3] + U[:, 3:4] + U[:, 4:5]) / np.sqrt(5)
    v = (Vt[:1] + Vt[1:2] + Vt[2:3] + Vt[3:4] + Vt[4:5]) / np.sqrt(5)
    new = intruder_cosines(W, ThinSVD(mixed, np.array([50.0]), v), 3)
    assert new.shape == (3,) and new[0] == pytest.approx(1 / np.sqrt(5), abs=0.02)
    old = intruder_cosines(W, ThinSVD(U[:, :1], np.array([50.0]), Vt[:1]), 3)
    np.testing.assert_allclose(old, 1)


def test_a_scattered_change_keeps_its_sizes_alone():
    made = change([3.0, 1.0])
    other = scattered(made, np.random.default_rng(1))
    np.testing.assert_allclose(other.U.T @ other.U, np.eye(2), atol=1e-12)
    assert np.array_equal(other.s, made.s) and other.Vt.shape == made.Vt.shape
    assert not np.allclose(other.U, made.U)


def test_a_module_in_numbers():
    W, made = weight(scale=0.1), change([9.0, 3.0])
    found = spectrum("m", W, made, np.random.default_rng(0), r=1)
    assert found.norm == pytest.approx(np.sqrt(90)) and found.energy == 1
    assert found.shape == (OUT, IN) and found.amplified.r == 1
    cosines = intruder_cosines(W, made)
    assert len(cosines) == spectra.TOP
    assert found.intruders == (cosines < spectra.THRESHOLD).sum() > 0
    control = intruder_cosines(W, scattered(made, np.random.default_rng(0)))
    assert found.intruders_chance == (control < spectra.THRESHOLD).sum()
    U, s, Vt = np.linalg.svd(W, full_matrices=False)  # W's own direction, made longer
    own = spectrum("m", W, ThinSVD(U[:, :1], 50 * s[:1], Vt[:1]), np.random.default_rng(0))
    assert own.intruders == 0 < own.intruders_chance
    told = found.to_dict()
    assert json.loads(json.dumps(told))["amplified"]["factor"] == found.amplified.factor


def test_a_layer_of_zeros_amplifies_nothing_and_its_numbers_are_json():
    found = spectrum("m", np.zeros((OUT, IN)), change([9.0, 3.0]), np.random.default_rng(0))
    assert found.amplified.factor == found.amplified.chance_factor == float("inf")
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["amplified"]["factor"] is None and told["amplified"]["chance_factor"] is None

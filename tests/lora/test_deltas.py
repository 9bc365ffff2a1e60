"""ΔW through its factors, against the matrices themselves; an adapter's file as text."""

from __future__ import annotations

import os

import numpy as np
import pytest

from minilora.lora import Adapter, LoRAConfig
from minilora.lora.deltas import (
    Factors,
    compare_deltas,
    compare_files,
    delta_norm,
    inner_product,
    settings_differences,
    stacked,
    subspace_overlap,
    text_of_tensors,
    thin_svd,
)
from tests.says import refusal

OUT, IN = 9, 7


def factors(seed, r=3, scaling=1.7, out=OUT):
    rng = np.random.default_rng(seed)
    A, B = rng.standard_normal((r, IN)), rng.standard_normal((out, r))
    return Factors(A.astype(np.float32), B.astype(np.float32), scaling)


def matrix(one):
    return one.scaling * one.B.astype(float) @ one.A.astype(float)


def adapter(seed=0, names=("q_proj", "v_proj"), r=3, alpha=5, **settings):
    rng = np.random.default_rng(seed)
    pairs = {
        f"model.layers.0.self_attn.{name}": (
            rng.standard_normal((r, IN), dtype=np.float32),
            rng.standard_normal((OUT, r), dtype=np.float32),
        )
        for name in names
    }
    return Adapter(LoRAConfig(r, alpha, tuple(names)), pairs, **settings)


@pytest.mark.parametrize("r", [1, 3, 6])
def test_the_thin_svd_is_that_of_the_matrix(r):
    one = factors(1, r)
    U, s, Vt = thin_svd(one)
    assert U.shape == (OUT, r) and Vt.shape == (r, IN)
    np.testing.assert_allclose(s, np.linalg.svd(matrix(one), compute_uv=False)[:r], rtol=1e-12)
    np.testing.assert_allclose((U * s) @ Vt, matrix(one), atol=1e-12)
    np.testing.assert_allclose(U.T @ U, np.eye(r), atol=1e-12)


def test_directions_that_are_only_rounding_are_no_part_of_it():
    one = factors(1)
    twice = Factors(np.concatenate([one.A, one.A]), np.concatenate([one.B, one.B], axis=1))
    assert len(thin_svd(twice).s) == 3
    assert len(thin_svd(one._replace(B=np.zeros_like(one.B))).s) == 0


def test_norm_and_product_are_those_of_the_matrices():
    one, other = factors(1), factors(2, r=5, scaling=0.4)
    assert delta_norm(one) == pytest.approx(np.linalg.norm(matrix(one)))
    assert inner_product(one, other) == pytest.approx((matrix(one) * matrix(other)).sum())
    difference = matrix(stacked(one, other, -0.5))
    np.testing.assert_allclose(difference, matrix(one) - 0.5 * matrix(other), atol=1e-6)


def test_overlap_is_the_papers_phi():
    one, other = np.eye(6)[:, :2], np.eye(6)[:, 1:5]
    assert subspace_overlap(one, other) == pytest.approx(0.5)
    assert subspace_overlap(one, one) == pytest.approx(1.0)
    assert subspace_overlap(one, np.eye(6)[:, 4:]) == 0.0
    assert subspace_overlap(one, np.zeros((6, 0))) is None


def test_random_subspaces_overlap_as_chance_says():
    rng = np.random.default_rng(0)
    bases = [np.linalg.qr(rng.standard_normal((40, k)))[0] for k in [3, 8] * 200]
    found = [subspace_overlap(bases[i], bases[i + 1]) for i in range(0, 400, 2)]
    assert np.mean(found) == pytest.approx(8 / 40, rel=0.1)


def test_two_adapters_are_compared_module_by_module():
    a, b = adapter(0), adapter(1, ("v_proj", "o_proj"))
    by_name = {one.module.rpartition(".")[2]: one for one in compare_deltas(a, b)}
    assert list(by_name) == ["o_proj", "q_proj", "v_proj"]
    assert by_name["q_proj"].ranks == (3, 0) and by_name["o_proj"].ranks == (0, 3)
    assert by_name["q_proj"].norms[1] == 0 and by_name["q_proj"].reads is None
    both = by_name["v_proj"]
    wa, wb = (x.delta("model.layers.0.self_attn.v_proj").astype(float) for x in (a, b))
    assert both.change == pytest.approx(np.linalg.norm(wb - wa), rel=1e-6)
    cosine = (wa * wb).sum() / np.linalg.norm(wa) / np.linalg.norm(wb)
    assert both.cosine == pytest.approx(cosine, rel=1e-5)
    assert both.chance == pytest.approx((3 / IN, 3 / OUT))
    rows = [np.linalg.svd(w)[2][:3].T for w in (wa, wb)]
    assert both.reads == pytest.approx(subspace_overlap(*rows), rel=1e-5)


def test_an_adapter_and_itself_differ_by_nothing():
    one = adapter()
    for module in compare_deltas(one, one):
        assert module.change == 0 and module.cosine == pytest.approx(1)
        assert module.reads == pytest.approx(1) and module.writes == pytest.approx(1)
    assert settings_differences(one, one) == {}


def test_adapters_of_bases_of_another_shape_are_refused():
    a, b = factors(0), factors(1, out=OUT + 1)
    one, other = (Adapter(LoRAConfig(3, 5, ("q_proj",)), {"x.q_proj": (f.A, f.B)}) for f in (a, b))
    with refusal(ValueError, "x.q_proj", (OUT, IN), (OUT + 1, IN)):
        compare_deltas(one, other)


def test_settings_that_differ_are_named_wherever_they_stand():
    a = adapter(provenance={"training": {"lr": 0.1, "steps": 5}, "evaluation": {"loss": 1}})
    b = adapter(alpha=6, provenance={"training": {"lr": 0.2, "steps": 5}, "data": "x"})
    assert settings_differences(a, b) == {
        "lora_alpha": (5, 6), "training.lr": (0.1, 0.2), "data": (None, "x"),
    }  # fmt: skip
    assert settings_differences(None, a)["training.steps"] == (None, 5)


# -- files -----------------------------------------------------------------------------------------


def test_a_file_is_one_text_and_another_bit_another_text(tmp_path):
    one = adapter()
    texts = {}
    for name in ("one", "two"):
        texts[name] = text_of_tensors(one.write(tmp_path / name) / "adapter_model.safetensors")
    assert texts["one"] == texts["two"] and "model.layers.0.self_attn.q_proj" in texts["one"]
    changed = {module: one.factors(module) for module in one.modules}
    A, B = (array.copy() for array in changed[one.modules[0]])
    B.view(np.uint32)[0, 0] ^= 1
    other = Adapter(one.config, {**changed, one.modules[0]: (A, B)})
    text = text_of_tensors(other.write(tmp_path / "three") / "adapter_model.safetensors")
    lines = [
        (x, y) for x, y in zip(texts["one"].split("\n"), text.split("\n"), strict=True) if x != y
    ]
    assert len(lines) == 1 and lines[0][0].split()[0] == "B"


def test_any_other_tensors_are_listed_as_well(tmp_path, saved):
    text = text_of_tensors(saved / "model.safetensors")
    assert "model.norm.weight" in text and "sha256:" in text


def test_two_files_are_compared_without_their_config(tmp_path):
    files = [
        adapter(seed).write(tmp_path / str(seed)) / "adapter_model.safetensors" for seed in (0, 1)
    ]
    found, expected = compare_files(*files), compare_deltas(adapter(0), adapter(1))
    scaling = 5 / 3
    for one, other in zip(found, expected, strict=True):
        assert one.module == other.module and one.reads == pytest.approx(other.reads)
        assert one.change * scaling == pytest.approx(other.change, rel=1e-6)
    assert [one.norms[0] for one in compare_files(os.devnull, files[0])] == [0, 0]


def test_a_file_without_pairs_is_refused(saved):
    with refusal(ValueError, saved / "model.safetensors"):
        compare_files(saved / "model.safetensors", os.devnull)

"""The bench of changes: medians and overlaps of modules, and a change cut to few directions."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.analysis.spectra import overlap, spectrum
from minilora.bench import changes
from minilora.hub import load_pretrained, save_pretrained
from minilora.lora.deltas import ThinSVD
from tests.cli.conftest import base

__all__ = ["base"]


def change(s, seed):
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((n, len(s))))[0] for n in (16, 12))
    return ThinSVD(U, np.array(s), V.T)


def test_modules_are_summed_up_by_median_smallest_and_largest():
    W = np.random.default_rng(0).standard_normal((16, 12))
    made = [change([x, 1.0], i) for i, x in enumerate((1.0, 2.0, 9.0))]
    found = [spectrum(str(i), W, one, np.random.default_rng(i)) for i, one in enumerate(made)]
    told = changes.summary(found)
    sizes = [np.sqrt(2), np.sqrt(5), np.sqrt(82)]
    assert told["norm"] == pytest.approx([sizes[1], sizes[0], sizes[2]], abs=1e-4)
    assert told["energy_rank"] == [2, 1, 2] and told["rank"] == [2, 2, 2]
    assert told["intruders"] == sum(one.intruders for one in found)


def test_overlaps_stand_beside_chance():
    one, other = change([3.0, 2.0], 1), change([3.0, 2.0], 2)
    told = changes.shared([overlap("m", one, other), overlap("n", one, one)])
    mean = (1 + (one.Vt[0] @ other.Vt[0]) ** 2) / 2
    assert told["reads_first"] == pytest.approx([mean, 1 / 12])
    assert told["writes_whole"][1] == pytest.approx(2 / 16)


def test_a_change_is_cut_to_its_first_directions(base, tmp_path, monkeypatch):
    model, tokenizer = load_pretrained(base)
    made = change([3.0, 1.0], 1)
    linear = model.model.layers[0].mlp.up_proj
    delta = (made.U * made.s) @ made.Vt
    delta = np.resize(delta, linear.weight.shape)
    linear.weight.data = (linear.weight.data + delta).astype(np.float32)
    save_pretrained(tmp_path / "full", model, tokenizer)
    opened, seen = [], []

    def open_base(name):
        opened.append(load_pretrained(base))
        return opened[-1]

    def exact(model, tokenizer):
        seen.append(model.model.layers[0].mlp.up_proj.weight.data.copy())
        return 0.5

    monkeypatch.setattr(changes, "open_base", open_base)
    monkeypatch.setattr(changes, "exact", exact)
    told = changes.cut_scores(tmp_path / "full", (1, 64))
    U, s, Vt = np.linalg.svd(delta.astype(float))
    assert told["64"] == {"exact": 0.5, "energy": pytest.approx(1)}
    assert told["1"]["energy"] == pytest.approx(s[0] ** 2 / (s**2).sum(), rel=1e-4)
    plain = load_pretrained(base)[0].model.layers[0].mlp.up_proj.weight.data
    np.testing.assert_allclose(seen[0] - plain, s[0] * np.outer(U[:, 0], Vt[0]), atol=1e-4)
    np.testing.assert_allclose(seen[1], linear.weight.data, atol=1e-5)

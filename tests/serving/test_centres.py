"""Centres: what the base makes of a text, whichever adapter is in use, and the nearest centre."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.serving import Centres
from minilora.serving import router as routing
from minilora.serving.centres import read_means
from tests.says import refusal
from tests.serving.test_bank import a_bank, a_model

TEXTS = [[3, 1, 4, 1, 5, 9, 2], [2, 6, 5], [7, 7, 3, 1], [8, 2], [9]]


@pytest.mark.parametrize("few", [10**6, 1])
def test_a_reading_is_the_mean_of_the_base_s_states(few, monkeypatch):
    monkeypatch.setattr(routing, "READ_TOKENS", few)
    bank, _ = a_bank()
    bank.use("wide")
    means = read_means(bank, TEXTS)
    model = a_model()
    with no_grad():
        for text, mean in zip(TEXTS, means, strict=True):
            expected = model.hidden_states(np.array([text])).data[0].mean(axis=0)
            np.testing.assert_allclose(mean, expected, atol=1e-5)
    assert bank.using == "wide"


def blobs(rng, n, stretched=np.array([5.0, 0.1, 1.0])):
    """Two clouds that differ along the short axis, and are long along another."""
    return {
        name: rng.normal(size=(n, 3)) * stretched + np.array([0.0, shift, 0.0])
        for name, shift in (("a", -0.5), ("b", 0.5))
    }


def test_the_nearest_centre_is_by_the_spread_and_not_by_length():
    rng = np.random.default_rng(0)
    centres = Centres.learn(blobs(rng, 200))
    for name, rows in blobs(rng, 50).items():
        distances = centres.distances(rows)
        assert {centres.choice(row).name for row in distances} == {name}
        assert distances.min(axis=1).mean() == pytest.approx(1.0, abs=0.3)
    far = centres.distances(np.array([[0.0, 40.0, 0.0]]))[0]
    bounded = centres.with_threshold(20.0)
    assert bounded.choice(far).name is None and centres.choice(far).name == "b"
    assert list(bounded.choice(far).losses) == ["b", "a"]
    nearest = centres.choice(far).losses["b"]  # a text at the bound itself is let through
    assert centres.with_threshold(nearest).choice(far).name == "b"


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_the_precision_is_the_inverse_of_the_spread_around_the_centres(shrinkage):
    texts = blobs(np.random.default_rng(3), 40)
    apart = np.concatenate([rows - rows.mean(axis=0) for rows in texts.values()])
    spread = apart.T @ apart / 80
    shrunk = spread * (1 - shrinkage) + shrinkage * np.diag(np.diag(spread))
    found = Centres.learn(texts, shrinkage).precision
    np.testing.assert_allclose(found @ shrunk, np.eye(3), atol=1e-9)


def test_centres_come_back_from_their_file(tmp_path):
    centres = Centres.learn(blobs(np.random.default_rng(1), 30)).with_threshold(2.5)
    centres.write(tmp_path / "c.safetensors")
    read = Centres.read(tmp_path / "c.safetensors")
    assert (read.names, read.threshold) == (("a", "b"), 2.5)
    np.testing.assert_allclose(read.centres, centres.centres, rtol=1e-6)
    np.testing.assert_allclose(read.precision, centres.precision, rtol=1e-6)


def test_routes_texts():
    bank, _ = a_bank()
    readings = {"a": read_means(bank, TEXTS[:2]), "b": read_means(bank, TEXTS[2:])}
    centres = Centres.learn(readings, shrinkage=0.9)
    names = [choice.name for choice in centres.route(bank, TEXTS)]
    distances = centres.distances(read_means(bank, TEXTS))
    assert names == [centres.names[k] for k in distances.argmin(axis=1)]


def test_what_can_not_be_is_refused(tmp_path):
    bank, _ = a_bank()
    with refusal(ValueError):
        read_means(bank, [[1], []])
    with refusal(ValueError, "a"):
        Centres.learn({"a": np.ones((1, 3))})
    with refusal(ValueError):
        Centres.learn({})
    with refusal(ValueError, "shrinkage"):
        Centres.learn(blobs(np.random.default_rng(0), 5), shrinkage=1.0)
    (tmp_path / "x").write_bytes(b"nothing")
    with refusal(ValueError, tmp_path / "x"):
        Centres.read(tmp_path / "x")
    with pytest.raises(OSError):
        Centres.read(tmp_path / "none")

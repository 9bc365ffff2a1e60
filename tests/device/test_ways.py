"""Every way to train on "gpu", with the strict stand-in: the numbers and the file of the host."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.lora import Adapter, attach
from tests import tiny
from tests.device import conformance as c
from tests.training.ways import WAYS, stirred

pytestmark = pytest.mark.usefixtures("cupy")
IDS = np.array([[1, 2, 3], [4, 5, 6]])


def plain(device):
    return tiny.model(vocab_size=c.VOCAB, initializer_range=0.2).to(device)


@pytest.mark.parametrize("way", WAYS)
def test_training_and_resuming(way, tmp_path):
    expected = WAYS[way](plain("cpu")).model
    c.train(expected, steps=6)
    got = WAYS[way](plain("gpu")).model
    c.train(got, steps=6)
    c.assert_same_model(got, expected, 1e-4)
    begun = WAYS[way](plain("gpu")).model
    c.train(begun, steps=6, out_dir=tmp_path)
    resumed = WAYS[way](plain("gpu")).model
    c.train(resumed, steps=6, out_dir=tmp_path)
    c.assert_same_model(resumed, expected, 1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_it_moves_merges_saves_and_loads(way, tmp_path):
    on_host = stirred(WAYS[way](plain("cpu")))
    expected = on_host.model.eval()(IDS).data
    assert np.abs(expected - plain("cpu").eval()(IDS).data).max() > 1e-2
    on_host.adapter().write(tmp_path / "a")
    moved = stirred(WAYS[way](plain("cpu")))
    c.assert_close(moved.model.to("gpu").eval()(IDS).data, expected, 1e-5, "moved")
    assert moved.adapter() == on_host.adapter()
    put_on = attach(plain("gpu"), Adapter.read(tmp_path / "a"))
    got = put_on.model.eval()(IDS).data
    c.assert_on(got, "gpu")
    c.assert_close(got, expected, 1e-5, "put on")
    merged = put_on.merge_and_unload().eval()(IDS).data
    c.assert_on(merged, "gpu")
    c.assert_close(merged, expected, 1e-4, "merged")

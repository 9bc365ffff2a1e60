"""Every way to train: stopped and resumed to the same bits, and over bases in fewer bits."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.autograd.stored_array import StoredArray
from minilora.lora import Adapter, attach, base_state
from minilora.nn import store_base
from minilora.training import Batches, TrainingConfig, fit
from minilora.training.adamw import adamw_for
from tests import tiny
from tests.training.ways import WAYS, stirred

SIZES = dict(hidden_size=64, intermediate_size=64, vocab_size=13, initializer_range=0.1)
DTYPES = ("float32", "float16", "q4", "nf4")
IDS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 11]])
LABELS = np.array([[1, 4, 1, 5, 2], [2, 6, 5, 11, 8]])


class Stopped(Exception):
    """Stands for a kill between two steps."""


def plain(dtype):
    return store_base(tiny.model(**SIZES), dtype)


def held(model):
    """The bytes of the base as it is held."""
    found = {}
    for name, array in base_state(model).items():
        fields = array.fields if isinstance(array, StoredArray) else (array,)
        found[name] = [np.asarray(field).tobytes() for field in fields]
    return found


def logits(model):
    with no_grad():
        return model.eval()(IDS).data


def trained(way, dtype, out=None, stop=None, resume=False):
    """The handle after nine steps, or Stopped at one; with a checkpoint every other step."""
    handle = WAYS[way](plain(dtype))
    config = TrainingConfig(
        9, 0.02, warmup=2, seed=4, workers=1, weight_decay=0.1, checkpoint_every=2 * bool(out),
        eval_every=1,
    )  # fmt: skip

    def on_eval(step):
        if step == stop:
            raise Stopped
        return {}

    optimizer = adamw_for(handle.model, config)
    fit(
        handle.model, Batches(tiny.copy_examples(12), 4, seed=3), config, optimizer=optimizer,
        out_dir=out, resume=resume, on_eval=on_eval, progress=False,
    )  # fmt: skip
    return handle, optimizer


@pytest.mark.parametrize("dtype", ["float32", "q4"])
@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, way, dtype):
    unbroken, moments = trained(way, dtype)
    for stop in (3, 7):
        with pytest.raises(Stopped):
            trained(way, dtype, tmp_path, stop, resume=stop > 3)
    resumed, others = trained(way, dtype, tmp_path, resume=True)
    fresh = WAYS[way](plain(dtype)).adapter()
    assert resumed.adapter() == unbroken.adapter() != fresh
    for name, array in moments.state_dict().items():
        assert array.tobytes() == others.state_dict()[name].tobytes(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", WAYS)
def test_training_over_any_base_moves_no_bit_of_it(way, dtype):
    model = plain(dtype)
    before, start = held(model), logits(model)
    fresh = WAYS[way](model)
    assert np.abs(logits(fresh.model) - start).max() < 1e-5
    handle, _ = trained(way, dtype)
    assert held(handle.model) == before
    assert np.abs(logits(handle.model) - start).max() > 1e-3


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("way", WAYS)
def test_over_a_stored_base_it_computes_and_learns_as_over_its_numbers(way, dtype):
    model = plain(dtype)
    twin = tiny.model(**SIZES)
    twin.load_state_dict({name: np.asarray(array) for name, array in base_state(model).items()})
    pair = [stirred(WAYS[way](one)).model for one in (model, twin)]
    for one in pair:
        for module in dict(one.named_modules()).values():
            if hasattr(module, "dropout_rng"):
                module.dropout_rng = np.random.default_rng(9)
        one.train().loss(IDS, LABELS).backward()
    grads = [{n: p.grad for n, p in one.named_parameters() if p.grad is not None} for one in pair]
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 3
    for name, expected in grads[1].items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(grads[0][name], expected, rtol=0, atol=2e-4 * scale + 1e-7)
    np.testing.assert_allclose(logits(pair[0]), logits(pair[1]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("way", WAYS)
def test_a_folder_made_over_a_stored_base_is_put_on_it_and_merged(tmp_path, way, dtype):
    handle = stirred(WAYS[way](plain(dtype)))
    expected = logits(handle.model)
    handle.adapter().write(tmp_path / "a")
    again = attach(plain(dtype), Adapter.read(tmp_path / "a"))
    tolerance = 1e-5 if way == "pissa" else 0  # it is saved as the update of twice the rank
    np.testing.assert_allclose(logits(again.model), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(logits(again.merge_and_unload()), expected, rtol=1e-3, atol=1e-3)

"""An adapter over a stored base: gradients, merging, files, training in workers, resuming."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.autograd.stored_array import StoredArray
from minilora.lora import (
    Adapter,
    BaseMismatchError,
    LoRAConfig,
    adapter_state,
    attach,
    base_fingerprint,
    base_state,
    fitting,
    lora_layers,
    mark_base,
)
from minilora.nn import store_base
from minilora.text import Example
from minilora.training import AdamW, Batches, TrainingConfig, evaluate, fit
from tests.says import refusal

STORED = ("float16", "q4", "nf4")
CONFIG = LoRAConfig(r=3, lora_alpha=5, target_modules=("q_proj", "v_proj", "up_proj"))
SIZES = dict(hidden_size=64, intermediate_size=96)


def stored_model(tiny, dtype):
    return store_base(tiny.model(**SIZES), dtype)


def adapted_model(tiny, dtype):
    return attach(stored_model(tiny, dtype), CONFIG, np.random.default_rng(2))


def dense_twin(tiny, model, adapted=True):
    """The float32 model of the numbers that a stored base means, with the same adapter."""
    twin = tiny.model(**SIZES)
    twin.load_state_dict({name: np.asarray(array) for name, array in base_state(model).items()})
    if adapted:
        attach(twin, CONFIG, np.random.default_rng(2))
        for layer, other in zip(
            lora_layers(twin).values(), lora_layers(model).values(), strict=True
        ):
            layer.lora_A.data[...] = other.lora_A.data
            layer.lora_B.data[...] = other.lora_B.data
    return twin


def held(model):
    """Every stored field's bytes, and the rest of the base."""
    found = {}
    for name, array in base_state(model).items():
        fields = array.fields if isinstance(array, StoredArray) else (array,)
        found[name] = [np.asarray(field).tobytes() for field in fields]
    return found


def logits(model, tiny):
    with no_grad():
        return model(tiny.ids).data


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("repeats", [1, 20])
def test_the_adapters_gradients_are_those_over_the_stored_numbers(tiny, dtype, repeats):
    """With few rows s B A is not folded into the weight, with many it is."""
    model = tiny.randomise(adapted_model(tiny, dtype)).model
    twin = dense_twin(tiny, model)
    ids, labels = np.tile(tiny.ids, (repeats, 1)), np.tile(tiny.labels, (repeats, 1))
    for target in (model, twin):
        target.loss(ids, labels).backward()
    expected = {n: p.grad for n, p in twin.named_parameters() if p.requires_grad}
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, g in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], g, rtol=1e-3, atol=1e-5, err_msg=name)
        assert np.abs(g).max() > 1e-4


# -- attaching and merging -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", STORED)
def test_attaching_changes_no_bit_and_detaching_gives_the_stored_base_back(tiny, dtype):
    model = stored_model(tiny, dtype)
    before, blocks = logits(model, tiny), dict(model.named_parameters())
    handle = attach(model, CONFIG, np.random.default_rng(2))
    assert np.array_equal(logits(model, tiny), before)
    tiny.randomise(handle).detach()
    assert np.array_equal(logits(model, tiny), before)
    assert all(p is blocks[name] for name, p in model.named_parameters())


@pytest.mark.parametrize("dtype", STORED)
def test_merging_makes_float32_and_unmerging_gives_the_blocks_back(tiny, dtype):
    handle = tiny.randomise(adapted_model(tiny, dtype))
    model = handle.model
    before, plain, adapted = held(model), base_state(model), logits(model, tiny)
    bases = logits(stored_model(tiny, dtype), tiny)
    handle.merge()
    for name, layer in handle.layers.items():
        total = layer.base_layer.weight.data
        assert isinstance(total, np.ndarray) and total.dtype == np.float32
        expected = plain[f"{name}.weight"].dense() + layer.delta_weight()
        assert np.array_equal(total, expected)
    merged = logits(model, tiny)
    assert not np.allclose(merged, bases, atol=1e-2)
    np.testing.assert_allclose(merged, adapted, rtol=1e-3, atol=1e-4)
    assert held(model) == before  # W is still the stored one while merged
    handle.unmerge()
    assert all(array is plain[name] for name, array in base_state(model).items())
    assert held(model) == before
    assert np.array_equal(logits(model, tiny), adapted)


def test_merge_and_unload_leaves_float32_where_the_adapter_was(tiny):
    handle = tiny.randomise(adapted_model(tiny, "q4"))
    model, names = handle.model, [f"{name}.weight" for name in handle.layers]
    adapted = logits(model, tiny)
    handle.merge_and_unload()
    dense = [n for n, p in model.named_parameters() if isinstance(p.data, np.ndarray)]
    assert sorted(n for n in dense if not n.endswith("norm.weight")) == sorted(names)
    np.testing.assert_allclose(logits(model, tiny), adapted, rtol=1e-3, atol=1e-4)
    assert all(a.dtype == np.float32 for a in model.state_dict().values())


@pytest.mark.parametrize("merged", [False, True])
def test_an_adapted_model_is_not_stored(tiny, merged):
    handle = attach(tiny.model(**SIZES), CONFIG, np.random.default_rng(2))
    model = handle.model
    if merged:
        tiny.randomise(handle).merge()
    before = tiny.snapshot(model)
    with refusal(ValueError, "adapter"):
        store_base(model, "q4")
    assert tiny.same(model, before)


# -- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", STORED)
def test_an_adapter_belongs_to_the_numbers_not_to_their_storage(tiny, dtype, tmp_path):
    handle = tiny.randomise(adapted_model(tiny, dtype))
    model, adapter = handle.model, handle.adapter(base_name="tiny")
    assert Adapter.read(adapter.write(tmp_path / "a")) == adapter
    expected = logits(model, tiny)
    same = attach(stored_model(tiny, dtype), adapter).model
    assert np.array_equal(logits(same, tiny), expected)
    twin = attach(dense_twin(tiny, model, adapted=False), adapter).model
    np.testing.assert_allclose(logits(twin, tiny), expected, rtol=1e-4, atol=1e-4)
    assert base_fingerprint(same) == base_fingerprint(twin) == base_fingerprint(model)
    for other in (tiny.model(**SIZES), stored_model(tiny, STORED[dtype == "float16"])):
        with pytest.raises(BaseMismatchError, match="'tiny'"):
            attach(other, adapter)


@pytest.mark.parametrize("dtype", STORED)
def test_a_base_held_as_it_was_is_known_by_its_blocks(tiny, dtype, tmp_path, monkeypatch):
    written = adapted_model(tiny, dtype).adapter().write(tmp_path / "a")
    adapter = Adapter.read(written)
    mark, whole = adapter.base, mark_base(stored_model(tiny, dtype))
    quick = mark_base(stored_model(tiny, dtype), quick=True)
    assert quick.held == mark.held == whole.held != whole.fingerprint == mark.fingerprint
    assert quick.fingerprint is None
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "base_fingerprint", None)  # so the numbers are not made
        attach(stored_model(tiny, dtype), adapter)
        attach(stored_model(tiny, dtype), adapter, base=quick)
    # Held otherwise, as by another minilora, the numbers decide.
    sidecar = json.loads((written / "minilora.json").read_text())
    sidecar["base_held_fingerprint"] = "sha256:0"
    (written / "minilora.json").write_text(json.dumps(sidecar))
    attach(stored_model(tiny, dtype), Adapter.read(written))
    attach(stored_model(tiny, dtype), Adapter.read(written), base=quick)
    model = stored_model(tiny, dtype)
    weight = model.model.layers[2].mlp.gate_proj.weight  # which the adapter leaves alone
    fields = (weight.data.fields[0].copy(), *weight.data.fields[1:])
    fields[0].view(np.uint8).reshape(-1)[0] ^= 1
    weight.data = type(weight.data)(weight.data.format, fields, weight.shape)
    for read in (adapter, Adapter.read(written)):
        with pytest.raises(BaseMismatchError):
            attach(model, read)


def test_a_float32_base_is_held_as_its_numbers(tiny):
    full, quick = (mark_base(tiny.model(**SIZES), quick=q) for q in (False, True))
    assert full == quick and quick.fingerprint is not None and quick.held is None


# -- training --------------------------------------------------------------------------------


def examples(count=12):
    rng = np.random.default_rng(5)
    ids = rng.integers(1, 37, (count, 9)).astype(np.int32)
    return [Example(row[:-1], row[1:]) for row in ids]


def train(tiny, dtype, workers=1, steps=6, out=None, resume=False, stop=None):
    model = adapted_model(tiny, dtype).model
    config = TrainingConfig(steps, 0.02, workers=workers, seed=3, checkpoint_every=2)
    optimizer = AdamW(model.named_parameters())

    def on_eval(step):
        if step == stop:
            raise KeyboardInterrupt
        return {}

    config = TrainingConfig(**{**vars(config), "eval_every": 1})
    history = fit(
        model, Batches(examples(), 4, 3), config, optimizer=optimizer, out_dir=out, resume=resume,
        on_eval=on_eval, progress=False,
    )  # fmt: skip
    return model, history.series("loss")[1]


@pytest.mark.processes
@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("workers", [1, 2])
def test_training_repeats_bit_for_bit_and_moves_no_bit_of_the_base(tiny, dtype, workers):
    if workers > 1 and not hasattr(os, "fork"):
        pytest.skip("workers are forked")
    fresh = held(adapted_model(tiny, dtype).model)
    (model, losses), (again, _) = (train(tiny, dtype, workers) for _ in range(2))
    assert held(model) == fresh
    states = [{n: a.tobytes() for n, a in adapter_state(m).items()} for m in (model, again)]
    assert states[0] == states[1]
    assert len(set(losses)) == 6
    assert evaluate(model, examples()) < evaluate(stored_model(tiny, dtype), examples())


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
@pytest.mark.parametrize("dtype", STORED)
def test_two_workers_follow_one(tiny, dtype):
    (one, _), (two, _) = (train(tiny, dtype, workers) for workers in (1, 2))
    start = adapter_state(adapted_model(tiny, dtype).model)
    for name, array in adapter_state(one).items():
        np.testing.assert_allclose(array, adapter_state(two)[name], atol=2e-3, err_msg=name)
        assert np.abs(array - start[name]).max() > 0.01


def test_a_stopped_run_resumes_bit_for_bit_and_not_over_another_storage(tiny, tmp_path):
    whole, _ = train(tiny, "q4", out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tiny, "q4", out=tmp_path / "cut", stop=5)
    with pytest.raises(ValueError, match="frozen"):
        train(tiny, "float16", out=tmp_path / "cut", resume=True)
    resumed, _ = train(tiny, "q4", out=tmp_path / "cut", resume=True)
    for name, array in adapter_state(whole).items():
        assert np.array_equal(array, adapter_state(resumed)[name]), name

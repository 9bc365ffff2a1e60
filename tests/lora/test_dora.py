"""DoRA: what it computes, what it trains, how it is kept, and who refuses to read it."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from minilora.analysis.influence import Watched
from minilora.analysis.spectra import adapter_changes
from minilora.cli.app import main
from minilora.lora import Adapter, AdapterError, LoRAConfig, attach, base_state, combine
from minilora.lora.deltas import compare_deltas, compare_files
from minilora.lora.dora import DoraLinear
from minilora.lora.exchange import given_back
from minilora.nn import Linear, generate
from minilora.serving.bank import AdapterBank
from tests import tiny
from tests.says import refusal

CONFIG = LoRAConfig(r=2, lora_alpha=3, target_modules=("q_proj", "down_proj"), use_dora=True)
IDS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 35, 8, 9]])


def logits(model):
    return model.eval()(IDS).data


def worn(seed=1, config=CONFIG, **how):
    """A tiny model with random A, B and magnitudes."""
    handle = attach(tiny.model(**how), config, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    for layer in handle.layers.values():
        for parameter in layer.named_factors().values():
            noise = rng.standard_normal(parameter.shape) * 0.4
            parameter.data = (parameter.data + noise).astype(parameter.dtype)
    return handle


def test_a_fresh_one_changes_no_bit():
    plain, fresh = tiny.model(), attach(tiny.model(), CONFIG, np.random.default_rng(0))
    assert logits(plain).tobytes() == logits(fresh.model).tobytes()
    for layer in fresh.layers.values():
        norms = np.linalg.norm(layer.base_weight, axis=1)
        np.testing.assert_allclose(layer.lora_magnitude_vector.data, norms, rtol=1e-6)


def test_each_row_has_the_trained_length_and_the_direction_of_w_and_ba():
    for layer in worn().layers.values():
        A, B, m = (p.data for p in layer.named_factors().values())
        merged, turned = layer.merged_weight(), layer.base_weight + layer.scaling * (B @ A)
        np.testing.assert_allclose(np.linalg.norm(merged, axis=1), np.abs(m), rtol=1e-5)
        ratio = merged / turned
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-3)


def test_merged_detached_and_decoded_it_is_what_it_computes():
    handle = worn()
    expected, plain = logits(handle.model), logits(tiny.model())
    assert np.abs(expected - plain).max() > 0.05
    prompts = [[3, 1, 4], [1, 5]]
    answers = generate(handle.model, prompts, 8)
    handle.merge()
    np.testing.assert_allclose(logits(handle.model), expected, atol=1e-4)
    assert generate(handle.model, prompts, 8) == answers
    handle.unmerge()
    assert logits(handle.model).tobytes() == expected.tobytes()
    handle.detach()
    assert logits(handle.model).tobytes() == plain.tobytes()
    state = base_state(worn().merge_and_unload())
    assert state.keys() == base_state(tiny.model()).keys()


def test_one_step_trains_all_three_and_nothing_else():
    handle = worn()
    handle.model.train().loss(IDS, IDS).backward()
    asked = {name for name, p in handle.model.named_parameters() if p.grad is not None}
    leaves = ("lora_A", "lora_B", "lora_magnitude_vector")
    assert asked == {f"{name}.{leaf}" for name in handle.layers for leaf in leaves}


def test_it_is_a_value_that_a_folder_keeps(tmp_path):
    handle = worn()
    adapter = handle.adapter(base_name="tiny")
    adapter.write(tmp_path / "a")
    read = Adapter.read(tmp_path / "a")
    assert read == adapter == pickle.loads(pickle.dumps(read)) and read.config.use_dora
    assert read.fingerprint == adapter.fingerprint and read.size == adapter.size
    again = attach(tiny.model(), read)
    assert logits(again.model).tobytes() == logits(handle.model).tobytes()
    assert not any(p.requires_grad for p in again.model.parameters())


def test_arrays_and_config_must_agree():
    adapter = worn().adapter()
    arrays = {name: adapter.arrays(name) for name in adapter.modules}
    with refusal(AdapterError, "lora_magnitude_vector", "use_dora False"):
        Adapter(replace(CONFIG, use_dora=False), arrays)
    with refusal(AdapterError, "lora_magnitude_vector", "use_dora True"):
        Adapter(CONFIG, {name: own[:2] for name, own in arrays.items()})
    with refusal(AdapterError, "lora_magnitude_vector", "shape"):
        Adapter(CONFIG, {name: (a, b, m[1:]) for name, (a, b, m) in arrays.items()})
    with refusal(ValueError, "use_dora", "invocation"):
        replace(CONFIG, invocation=(1, 2))
    with refusal(ValueError, "use_dora"):
        replace(CONFIG, use_dora="yes")


def test_a_row_of_zeros_has_no_direction():
    linear = Linear(5, 4, np.random.default_rng(0), bias=False)
    linear.weight.data[2] = 0
    with refusal(ValueError, "1 rows"):
        DoraLinear(linear, LoRAConfig(r=2, use_dora=True), np.random.default_rng(0))


# -- who knows W + s B A alone refuses it ----------------------------------------------------------


def test_whoever_reads_b_a_refuses_it_by_name(tmp_path):
    adapter = worn().adapter()
    adapter.write(tmp_path / "a")
    plain = attach(
        tiny.model(), replace(CONFIG, use_dora=False), np.random.default_rng(0)
    ).adapter()
    module = adapter.modules[0]
    file = tmp_path / "a" / "adapter_model.safetensors"
    bank = AdapterBank(tiny.model())
    layer = next(iter(worn().layers.values()))
    for read in (
        lambda: adapter.factors(module),
        lambda: adapter.delta(module),
        lambda: combine([plain, adapter], [1.0, 1.0]),
        lambda: compare_deltas(plain, adapter),
        lambda: compare_files(file, file),
        lambda: given_back(plain, adapter, [module]),
        lambda: adapter_changes(adapter),
        lambda: bank.add("dora", adapter),
        lambda: Watched(layer),
    ):
        with refusal(ValueError, "use_dora"):
            read()
    assert "dora" not in bank.names


@pytest.mark.parametrize("command", ["info", "merge"])
def test_commands_that_serve_it(tmp_path, capsys, command):
    words = tiny.tokenizer()
    base = tiny.save(tmp_path / "base", words)
    model = worn(tokenizer=words)
    model.adapter(base_name=str(base)).write(tmp_path / "a")
    args = {
        "info": [str(tmp_path / "a")],
        "merge": ["--base", str(base), "--adapter", str(tmp_path / "a"), "--out",
                  str(tmp_path / "m")],
    }  # fmt: skip
    assert main([command, *args[command]]) == 0

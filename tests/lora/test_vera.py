"""VeRA: what it computes, what it trains, how it is kept, and who refuses to read it."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from minilora.analysis.influence import Watched
from minilora.cli.app import main
from minilora.lora import Adapter, AdapterError, LoRAConfig, Vera, attach, base_state, combine
from minilora.lora.vera import draw_projection
from minilora.nn import generate
from minilora.serving.bank import AdapterBank
from tests import tiny
from tests.says import refusal

CONFIG = LoRAConfig(r=6, target_modules=("q_proj", "v_proj", "down_proj"), vera=Vera(5))
IDS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 35, 8, 9]])


def logits(model):
    return model.eval()(IDS).data


def worn(config=CONFIG, **how):
    """A tiny model with random b and d."""
    handle = attach(tiny.model(**how), config, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    for layer in handle.layers.values():
        for parameter in layer.named_factors().values():
            parameter.data = rng.standard_normal(parameter.shape).astype(np.float32)
    return handle


def test_a_fresh_one_changes_no_bit_and_trains_two_vectors_a_module():
    plain, fresh = tiny.model(), attach(tiny.model(), CONFIG, np.random.default_rng(0))
    assert logits(plain).tobytes() == logits(fresh.model).tobytes()
    assert fresh.config.scaling == 1 and fresh.config.lora_alpha == 6
    for layer in fresh.layers.values():
        b, d = layer.named_factors().values()
        assert not b.data.any() and (d.data == np.float32(0.1)).all()
        assert (b.shape, d.shape) == ((layer.out_features,), (6,))
    trained = {name for name, p in fresh.model.named_parameters() if p.requires_grad}
    assert trained == {f"{n}.vera_lambda_{x}" for n in fresh.layers for x in "bd"}


def test_the_update_is_what_the_paper_says():
    handle = worn()
    shared = draw_projection(CONFIG, [layer.base_layer for layer in handle.layers.values()])
    assert shared.A.shape == (6, 14) and shared.B.shape == (18, 6)
    for layer in handle.layers.values():
        b, d = (p.data for p in layer.named_factors().values())
        a = shared.A[:, : layer.in_features]
        expected = np.diag(b) @ shared.B[: layer.out_features] @ np.diag(d) @ a
        np.testing.assert_allclose(layer.delta_weight(), expected, atol=1e-5)


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
    assert base_state(worn().merge_and_unload()).keys() == base_state(tiny.model()).keys()


@pytest.mark.parametrize("kept", [True, False])
def test_it_is_a_value_that_a_folder_keeps(tmp_path, kept):
    handle = worn(replace(CONFIG, vera=Vera(5, save_projection=kept)))
    adapter = handle.adapter(base_name="tiny")
    adapter.write(tmp_path / "a")
    read = Adapter.read(tmp_path / "a")
    assert read == adapter == pickle.loads(pickle.dumps(read))
    assert len(read.projection) == 2 * kept and read.config.vera == Vera(5, save_projection=kept)
    assert read.fingerprint == adapter.fingerprint and read.size == adapter.size
    again = attach(tiny.model(), read)
    assert logits(again.model).tobytes() == logits(handle.model).tobytes()
    assert not any(p.requires_grad for p in again.model.parameters())


def test_the_seed_alone_makes_a_small_file():
    held, drawn = (
        worn(replace(CONFIG, vera=Vera(5, save_projection=kept))).adapter()
        for kept in (True, False)
    )
    assert held.size - drawn.size == 6 * (14 + 18)
    assert drawn.size == 3 * (18 + 6 + 10 + 3 * 6)  # out of q, v and down, and r of each


def test_as_plain_lora_it_computes_the_same_and_can_be_served_and_combined():
    handle = worn(replace(CONFIG, target_modules=("v_proj",)), num_key_value_heads=3)
    plain = handle.adapter(as_lora=True)
    assert plain.config.vera is None and plain.config.scaling == 1
    np.testing.assert_allclose(
        logits(attach(tiny.model(num_key_value_heads=3), plain).model), logits(handle.model),
        atol=1e-5,
    )  # fmt: skip
    AdapterBank(tiny.model(num_key_value_heads=3)).add("vera", plain)
    assert combine([plain], [1.0]) is not None
    with refusal(ValueError, "as_lora"):
        attach(tiny.model(), LoRAConfig(2), np.random.default_rng(0)).adapter(as_lora=True)


def test_config_and_arrays_must_agree():
    adapter = worn().adapter()
    arrays = {name: adapter.arrays(name) for name in adapter.modules}
    for beside in (
        {"use_dora": True}, {"use_rslora": True}, {"invocation": (1,)}, {"rank_pattern": {"q": 2}},
    ):  # fmt: skip
        with refusal(ValueError, next(iter(beside))):
            replace(CONFIG, **beside)
    with refusal(ValueError, "r", 2**16):
        replace(CONFIG, r=2**16 + 1)
    for wrong in (Vera, 5, {"projection_prng_key": 0}):
        with refusal(ValueError, "vera"):
            replace(CONFIG, vera=wrong)
    for field, value in (
        ("projection_prng_key", -1), ("save_projection", 1), ("d_initial", float("inf")),
    ):  # fmt: skip
        with refusal(ValueError, field):
            Vera(**{field: value})
    with refusal(AdapterError, "vera_A"):
        Adapter(CONFIG, arrays)
    with refusal(AdapterError, "vera_B", "shape"):
        Adapter(CONFIG, arrays, projection=(adapter.projection[0], adapter.projection[0]))
    with refusal(AdapterError, "vera_lambda_d", "shape"):
        cut = {name: (b, d[1:]) for name, (b, d) in arrays.items()}
        Adapter(CONFIG, cut, projection=adapter.projection)
    with refusal(ValueError, "freeze_A"):
        worn().freeze_A()
    with refusal(ValueError, "PiSSA"):
        attach(tiny.model(), CONFIG, np.random.default_rng(0), pissa=True)


def test_a_projection_of_another_model_is_refused():
    a, b = worn().adapter().projection
    adapter = worn().adapter()
    arrays = {name: adapter.arrays(name) for name in adapter.modules}
    other = Adapter(CONFIG, arrays, projection=(a[:, 1:], b), base=adapter.base)
    model = tiny.model()
    with refusal(AdapterError, "vera_A", "(6, 13)"):
        attach(model, other)
    assert all(p.requires_grad for p in model.parameters())


def test_whoever_reads_b_a_refuses_it_by_name(tmp_path):
    adapter = worn().adapter()
    plain = attach(tiny.model(), LoRAConfig(2), np.random.default_rng(0)).adapter()
    bank = AdapterBank(tiny.model())
    layer = next(iter(worn().layers.values()))
    for read in (
        lambda: adapter.delta(adapter.modules[0]),
        lambda: combine([plain, adapter], [1.0, 1.0]),
        lambda: bank.add("vera", adapter),
    ):
        with refusal(AdapterError, "VERA"):
            read()
    with refusal(ValueError, "vera"):
        Watched(layer)
    assert "vera" not in bank.names


@pytest.mark.parametrize("command", ["info", "merge"])
def test_commands_that_serve_it(tmp_path, command):
    words = tiny.tokenizer()
    base = tiny.save(tmp_path / "base", words)
    worn(tokenizer=words).adapter(base_name=str(base)).write(tmp_path / "a")
    args = {
        "info": [str(tmp_path / "a")],
        "merge": ["--base", str(base), "--adapter", str(tmp_path / "a"), "--out",
                  str(tmp_path / "m")],
    }  # fmt: skip
    assert main([command, *args[command]]) == 0

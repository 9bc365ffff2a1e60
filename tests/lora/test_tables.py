"""Embedding and head beside an adapter: whole, rows of tokens, or A and B; tied and not."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from minilora.lora import (
    Adapter,
    AdapterError,
    LoRAConfig,
    TargetError,
    attach,
    base_state,
    combine,
)
from minilora.lora.pissa import require_pissa
from minilora.nn import generate
from minilora.serving.bank import AdapterBank
from tests import tiny
from tests.says import refusal

IDS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 35, 8, 9]])
Q = ("q_proj",)
WAYS = {
    "whole embedding": ({"modules_to_save": ("embed_tokens",)}, None),
    "whole head": ({"modules_to_save": ("lm_head",)}, None),
    "whole both": ({"modules_to_save": ("embed_tokens", "lm_head")}, None),
    "rows": ({"trainable_token_indices": {"embed_tokens": (5, 1, 36)}}, None),
    "rows of both": (
        {"trainable_token_indices": {"embed_tokens": (5, 1), "lm_head": (1, 8)}}, False,
    ),
    "product embedding": ({"target_modules": (*Q, "embed_tokens")}, None),
    "product head": ({"target_modules": (*Q, "lm_head")}, None),
    "product both": (
        {"target_modules": (*Q, "embed_tokens", "lm_head"), "rank_pattern": {"lm_head": 3}}, None,
    ),
    "everywhere": (
        {
            "target_modules": "all-linear", "modules_to_save": ("lm_head",),
            "rank_pattern": {"up_proj": 1},
        },
        None,
    ),
    "rows and whole": (
        {"trainable_token_indices": {"embed_tokens": (5, 1)}, "modules_to_save": ("lm_head",)},
        None,
    ),
}  # fmt: skip
CASES = [
    pytest.param(LoRAConfig(2, 3, **{"target_modules": Q, **how}), tied, id=f"{name}, {tied}")
    for name, (how, only) in WAYS.items()
    for tied in (True, False)
    if only in (None, tied)
]


def logits(model):
    return model.eval()(IDS).data


def worn(config, tied=True):
    """A tiny model whose adapter is away from its start."""
    handle = attach(tiny.model(tie_word_embeddings=tied), config, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    for parameter in handle.model.parameters():
        if parameter.requires_grad:
            noise = rng.standard_normal(parameter.shape) * 0.3
            parameter.data = (parameter.data + noise).astype(np.float32)
    return handle


@pytest.mark.parametrize(("config", "tied"), CASES)
def test_a_fresh_one_changes_no_bit(config, tied):
    plain = tiny.model(tie_word_embeddings=tied)
    fresh = attach(tiny.model(tie_word_embeddings=tied), config, np.random.default_rng(0))
    assert logits(plain).tobytes() == logits(fresh.model).tobytes()


@pytest.mark.parametrize(("config", "tied"), CASES)
def test_merged_detached_and_decoded_it_is_what_it_computes(config, tied):
    handle = worn(config, tied)
    expected, plain = logits(handle.model), logits(tiny.model(tie_word_embeddings=tied))
    assert np.abs(expected - plain).max() > 0.05
    prompts = [[3, 1, 4], [1, 5]]
    answers = generate(handle.model, prompts, 8)
    handle.merge()
    np.testing.assert_allclose(logits(handle.model), expected, atol=1e-4)
    handle.unmerge()
    assert logits(handle.model).tobytes() == expected.tobytes()
    handle.detach()
    assert logits(handle.model).tobytes() == plain.tobytes()
    handle = worn(config, tied)
    model = handle.merge_and_unload()
    np.testing.assert_allclose(logits(model), expected, atol=1e-4)
    assert generate(model, prompts, 8) == answers
    assert not any(p.read_only for p in model.parameters())
    assert (model.lm_head is None) == model.config.tie_word_embeddings
    one_table = config.tables == {"model.embed_tokens": "rows"}
    assert model.config.tie_word_embeddings == (tied and one_table)


@pytest.mark.parametrize(("config", "tied"), CASES)
def test_it_is_a_value_that_a_folder_keeps(tmp_path, config, tied):
    handle = worn(config, tied)
    adapter = handle.adapter(base_name="tiny")
    adapter.write(tmp_path / "a")
    read = Adapter.read(tmp_path / "a")
    assert read == adapter == pickle.loads(pickle.dumps(read)) and read.config == adapter.config
    assert read.fingerprint == adapter.fingerprint and read.size == adapter.size
    assert adapter.base_fingerprint == attach(
        tiny.model(tie_word_embeddings=tied), LoRAConfig(2), np.random.default_rng(0)
    ).adapter().base_fingerprint  # fmt: skip
    again = attach(tiny.model(tie_word_embeddings=tied), read)
    assert logits(again.model).tobytes() == logits(handle.model).tobytes()
    assert not any(p.requires_grad for p in again.model.parameters())


@pytest.mark.parametrize(("config", "tied"), CASES)
def test_one_step_trains_the_adapter_and_no_base(config, tied):
    handle = worn(config, tied)
    before = {name: array.copy() for name, array in base_state(handle.model).items()}
    handle.model.train().loss(IDS, IDS).backward()
    asked = {n for n, p in handle.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert asked == {n for n, p in handle.model.named_parameters() if p.requires_grad}
    assert all(before[n].tobytes() == a.tobytes() for n, a in base_state(handle.model).items())
    assert any("embed_tokens" in n or "lm_head" in n for n in asked)


def test_rows_of_a_tied_model_are_read_and_written_and_a_whole_embedding_is_only_read():
    ids = {"trainable_token_indices": {"embed_tokens": (5, 1)}}
    handle = worn(LoRAConfig(2, 3, Q, **ids))
    embedding = handle.model.model.embed_tokens
    rows = embedding.table.trainable_tokens_delta.data
    for table in (embedding.weight.data, handle.model.head_weight.data):
        assert table[[5, 1]].tobytes() == rows.tobytes()
    alone = worn(LoRAConfig(2, 3, Q, modules_to_save=("embed_tokens",))).model
    plain = tiny.model().head_weight.data
    assert alone.head_weight.data.tobytes() == plain.tobytes()
    assert np.abs(alone.model.embed_tokens.weight.data - plain).max() > 0.1


def test_a_stored_base_keeps_its_table(tmp_path):
    from minilora.nn.base_dtype import store_base

    sizes = dict(hidden_size=32, intermediate_size=32, head_dim=32)
    config = LoRAConfig(2, 3, Q, trainable_token_indices={"embed_tokens": (5, 1)})
    for dtype in ("float16", "q4"):
        model = store_base(tiny.model(**sizes), dtype)
        plain = logits(model)
        handle = attach(model, config, np.random.default_rng(0))
        assert np.abs(logits(model) - plain).max() < 1e-5
        handle.model.train().loss(IDS, IDS).backward()
        rows = model.model.embed_tokens.table.trainable_tokens_delta
        assert rows.grad.any() and rows.dtype == np.float32
        handle.detach()
        assert logits(model).tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"modules_to_save": ("norm",)}, ("norm",)),
        ({"modules_to_save": "lm_head"}, ("lm_head",)),
        ({"trainable_token_indices": {"norm": (1,)}}, ("norm",)),
        ({"trainable_token_indices": {"embed_tokens": ()}}, ("embed_tokens",)),
        ({"trainable_token_indices": {"embed_tokens": (1, 1)}}, ("embed_tokens",)),
        ({"trainable_token_indices": {"embed_tokens": (-1,)}}, ("embed_tokens",)),
        ({"trainable_token_indices": [1]}, ("trainable_token_indices",)),
        (
            {"modules_to_save": ("lm_head",), "target_modules": (*Q, "lm_head")},
            ("lm_head", "whole", "product"),
        ),
        ({"target_modules": ("embed_tokens",)}, ("embed_tokens",)),
        ({"modules_to_save": ("lm_head",), "invocation": (1,)}, ("lm_head", "invocation")),
        ({"target_modules": (*Q, "lm_head"), "use_dora": True}, ("lm_head", "use_dora")),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, named):
    with refusal(ValueError, *named):
        LoRAConfig(2, **{"target_modules": Q, **settings})


def test_a_model_that_lacks_the_row_is_left_as_it_was():
    for tied, rows, named in (
        (True, {"embed_tokens": (37,)}, (37, 36)),
        (True, {"lm_head": (1,)}, ("lm_head",)),
    ):
        model = tiny.model(tie_word_embeddings=tied)
        with refusal(TargetError, *named):
            attach(model, LoRAConfig(2, 3, Q, trainable_token_indices=rows),
                   np.random.default_rng(0))  # fmt: skip
        assert all(p.requires_grad for p in model.parameters())


def test_arrays_and_config_must_agree():
    adapter = worn(LoRAConfig(2, 3, Q, trainable_token_indices={"embed_tokens": (5, 1)})).adapter()
    arrays, rows = {n: adapter.arrays(n) for n in adapter.modules}, dict(adapter.tables)
    (name,) = rows
    with refusal(AdapterError, name):
        Adapter(adapter.config, arrays)
    with refusal(AdapterError, name):
        Adapter(replace(adapter.config, trainable_token_indices={}), arrays, tables=rows)
    with refusal(AdapterError, name, "shape"):
        Adapter(adapter.config, arrays, tables={name: rows[name][1:]})
    with refusal(AdapterError, name, "NaN"):
        Adapter(adapter.config, arrays, tables={name: rows[name] * np.nan})


def test_another_table_than_the_one_that_was_trained_on_is_refused():
    adapter = worn(LoRAConfig(2, 3, (*Q, "embed_tokens"))).adapter()
    arrays = {n: adapter.arrays(n) for n in adapter.modules}
    table, name = tiny.model().head_weight.data, "model.embed_tokens.base_layer.weight"
    for held, fits in ((table, True), (table + 1, False)):
        beside = Adapter(
            adapter.config, arrays, base=adapter.base, tables={**adapter.tables, name: held}
        )
        if fits:
            attach(tiny.model(), beside)
            continue
        with refusal(AdapterError, name):
            attach(tiny.model(), beside)


def test_whoever_reads_b_a_refuses_it_by_name():
    adapter = worn(LoRAConfig(2, 3, Q, modules_to_save=("lm_head",))).adapter()
    plain = attach(tiny.model(), LoRAConfig(2), np.random.default_rng(0)).adapter()
    bank = AdapterBank(tiny.model())
    for read in (
        lambda: adapter.delta(adapter.modules[0]),
        lambda: combine([plain, adapter], [1.0, 1.0]),
        lambda: bank.add("tables", adapter),
        lambda: require_pissa(adapter.config),
    ):
        with refusal(ValueError, "lm_head"):
            read()

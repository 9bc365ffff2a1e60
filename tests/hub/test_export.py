"""Adapters for llama.cpp and mlx-lm: the same ΔW in their names, orders and scales."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from minilora.hub.export import (
    gguf_tensors,
    layer_and_leaf,
    mlx_tensors,
    write_gguf_adapter,
    write_mlx_adapter,
)
from minilora.lora import Adapter, LoRAConfig, attach
from tests import tiny
from tests.says import refusal

SETTINGS = {
    "plain": {"target_modules": "all-linear"},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 9}},
    "one module": {"target_modules": ("model.layers.1.self_attn.k_proj",)},
}
SIZES = {"num_attention_heads": 4, "num_key_value_heads": 2}


def made(kind="plain", **more):
    model, rng = tiny.model(**SIZES), np.random.default_rng(2)
    handle = attach(model, LoRAConfig(r=3, lora_alpha=5, **SETTINGS[kind], **more), rng)
    for layer in handle.layers.values():
        layer.lora_B.data[...] = rng.standard_normal(layer.lora_B.shape)
    return handle.adapter(), model.config


def unpermuted(rows, heads, dim):
    """llama.cpp's rows in Hugging Face's order: its convert script's `permute`, undone."""
    return rows.reshape(heads, dim // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


@pytest.mark.parametrize("kind", SETTINGS)
def test_llama_cpp_computes_the_same_change(kind):
    adapter, config = made(kind)
    tensors, alpha = gguf_tensors(adapter, config)
    assert len(tensors) == 2 * len(adapter.modules)
    for module in adapter.modules:
        leaf = module.split(".")[-1]
        short = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj":
                 "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up",
                 "down_proj": "ffn_down"}[leaf]  # fmt: skip
        name = f"blk.{module.split('.')[2]}.{short}.weight"
        A, B = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        assert A.dtype == B.dtype == np.float32
        scale = alpha / len(A) if alpha else 1.0  # as llama.cpp's get_scale
        delta = scale * (B @ A)
        if leaf in ("q_proj", "k_proj"):
            heads = config.num_attention_heads if leaf == "q_proj" else config.num_key_value_heads
            assert not np.allclose(delta, adapter.delta(module), atol=1e-3)
            delta = unpermuted(delta, heads, config.head_dim)
        assert np.allclose(delta, adapter.delta(module), rtol=1e-5, atol=1e-6)
    assert bool(alpha) == (kind != "patterns")


@pytest.mark.parametrize("kind", SETTINGS)
def test_mlx_computes_the_same_change(kind):
    adapter, config = made(kind)
    tensors, about = mlx_tensors(adapter, config)
    settings = about["lora_parameters"]
    first = config.num_hidden_layers - about["num_layers"]
    adapted = [
        f"model.layers.{layer}.{key}"
        for layer in range(first, config.num_hidden_layers)
        for key in settings["keys"]
    ]
    assert set(tensors) == {f"{m}.{leaf}" for m in adapted for leaf in ("lora_a", "lora_b")}
    assert set(adapter.modules) <= set(adapted)
    for module in adapted:
        a, b = tensors[f"{module}.lora_a"], tensors[f"{module}.lora_b"]
        assert a.shape[1] == b.shape[0] == settings["rank"]
        delta = settings["scale"] * (a @ b).T
        expected = adapter.delta(module) if module in adapter.modules else 0.0
        assert np.allclose(delta, expected, rtol=1e-5, atol=1e-6)


def test_the_gguf_file_is_read_back(tmp_path):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    adapter, config = made(invocation=(7, 9, 11))
    written = write_gguf_adapter(adapter, config, tmp_path / "deep" / "a.gguf")
    assert written.modules == len(adapter.modules) and written.nbytes > adapter.nbytes
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.gguf"]
    read = gguf.GGUFReader(written.path)
    fields = {key: field.contents() for key, field in read.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert (fields["general.type"], fields["adapter.type"]) == ("adapter", "lora")
    assert fields["adapter.lora.alpha"] == 5.0
    assert list(fields["adapter.alora.invocation_tokens"]) == [7, 9, 11]
    tensors, _ = gguf_tensors(adapter, config)
    found = {tensor.name: tensor.data for tensor in read.tensors}
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)


def test_the_mlx_folder(tmp_path):
    adapter, config = made()
    written = write_mlx_adapter(adapter, config, tmp_path / "mlx")
    assert sorted(p.name for p in written.path.iterdir()) == [
        "adapter_config.json", "adapters.safetensors",
    ]  # fmt: skip
    tensors, about = mlx_tensors(adapter, config)
    found = load_file(written.path / "adapters.safetensors")
    assert found.keys() == tensors.keys()
    assert json.loads((written.path / "adapter_config.json").read_text()) == about


def test_what_others_can_not_hold_is_refused(tmp_path):
    activated, config = made(invocation=(3,))
    with refusal(ValueError, "mlx-lm"):
        write_mlx_adapter(activated, config, tmp_path / "mlx")
    assert not (tmp_path / "mlx").exists()
    adapter, _ = made()
    with refusal(ValueError, 12, 1):
        gguf_tensors(adapter, tiny.config())
    with refusal(ValueError, "transformer.h.0.attn"):
        layer_and_leaf("transformer.h.0.attn")
    foreign = Adapter(
        LoRAConfig(r=1, target_modules=("head",)), {"head": (np.ones((1, 2)), np.ones((3, 1)))}
    )
    with refusal(ValueError, "head"):
        mlx_tensors(foreign, config)

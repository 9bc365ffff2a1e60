"""Opening a base in fewer bits: from a folder by rounding, from a GGUF file block by block."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.hub import load_pretrained, save_pretrained
from minilora.lora import base_fingerprint
from minilora.nn import bytes_by_format, generate, store_base
from minilora.storage import fingerprint
from tests import tiny
from tests.says import refusal

IDS = np.array([[5, 9, 2, 250], [7, 7, 1, 0]])


@pytest.fixture
def folder(tmp_path):
    return tiny.save(tmp_path / "base", tiny.tokenizer(), hidden_size=64, intermediate_size=96)


@pytest.mark.parametrize("dtype", ["float32", "float16", "q4"])
def test_a_folder_opens_as_store_base_would_keep_it(folder, dtype):
    loaded, _ = load_pretrained(folder, dtype)
    expected = store_base(load_pretrained(folder)[0], dtype)
    assert bytes_by_format(loaded) == bytes_by_format(expected)
    assert fingerprint(loaded.state_dict()) == fingerprint(expected.state_dict())
    assert not loaded.training


@pytest.mark.parametrize("dtype", ["float16", "q4"])
def test_a_stored_model_is_saved_as_the_float32_numbers_it_means(folder, dtype, tmp_path):
    model, tokenizer = load_pretrained(folder, dtype)
    save_pretrained(tmp_path / "again", model, tokenizer)
    again, _ = load_pretrained(tmp_path / "again")
    assert set(bytes_by_format(again)) == {"float32"}
    assert base_fingerprint(again) == base_fingerprint(model)
    assert base_fingerprint(again) != base_fingerprint(load_pretrained(folder)[0])
    np.testing.assert_allclose(again(IDS).data, model(IDS).data, rtol=1e-4, atol=1e-4)


def test_another_dtype_is_refused(folder):
    with refusal(ValueError, "bfloat16", "float32", "float16", "q4"):
        load_pretrained(folder, "bfloat16")


def test_a_weight_beyond_float16_is_refused_by_name(folder, tmp_path):
    model, tokenizer = load_pretrained(folder)
    model.model.layers[1].mlp.up_proj.weight.data[2, 3] = 1e6
    save_pretrained(tmp_path / "large", model, tokenizer)
    with refusal(ValueError, "layers.1.mlp.up_proj.weight", 1000000):
        load_pretrained(tmp_path / "large", "q4")


# -- GGUF ------------------------------------------------------------------------------------


SIZES = dict(
    hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=16
)


def written(tmp_path, kinds):
    """A GGUF file with some matrices of a type; {} where the gguf package is not there."""
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    from . import ggufs

    tokenizer = ggufs.digit_tokenizer(["The patient takes 1234 mg of lisinopril daily."] * 3)
    model, keys, tensors = ggufs.parts(tokenizer, **SIZES)
    named = {ggufs.stored_name(n): kinds(n) for n, p in model.named_parameters() if p.ndim == 2}
    return ggufs.write_gguf(tmp_path / "m.gguf", keys, tensors, named, "llama")


def kinds(name):
    return "Q8_0" if "embed" in name else "Q4_1"


def test_q4_keeps_a_files_blocks_and_means_the_same_model(tmp_path):
    path = written(tmp_path, kinds)
    dense, _ = load_pretrained(path)
    stored, _ = load_pretrained(path, "q4")
    assert set(bytes_by_format(stored)) == {"q4", "q8", "float32"}
    assert base_fingerprint(stored) == base_fingerprint(dense)
    assert generate(stored, [[5, 9]], 8) == generate(dense, [[5, 9]], 8)
    np.testing.assert_allclose(stored(IDS).data, dense(IDS).data, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["F16", "Q5_0", "Q4_0"])
def test_q4_rounds_what_the_file_holds_in_another_type(tmp_path, kind):
    path = written(tmp_path, lambda name: kind if name.endswith("up_proj.weight") else kinds(name))
    dense, _ = load_pretrained(path)
    stored, _ = load_pretrained(path, "q4")
    other = {
        n for n, a in dense.state_dict().items() if not np.array_equal(a, stored.state_dict()[n])
    }
    assert other == {n for n in dense.state_dict() if n.endswith("up_proj.weight")}
    assert set(bytes_by_format(stored)) == {"q4", "q8", "float32"}


def test_float16_rounds_a_files_numbers(tmp_path):
    path = written(tmp_path, kinds)
    half, _ = load_pretrained(path, "float16")
    dense, _ = load_pretrained(path)
    assert set(bytes_by_format(half)) == {"float16", "float32"}
    for name, array in dense.state_dict().items():
        rounded = array.astype(np.float16) if array.ndim == 2 else array
        assert np.array_equal(half.state_dict()[name], rounded.astype(np.float32)), name


def test_blocks_with_odd_scales_are_refused_by_name(tmp_path):
    from minilora.hub import GGUFFile

    path = written(tmp_path, kinds)
    info = dict(GGUFFile(path).tensors())["model.layers.0.mlp.down_proj.weight"]
    raw = bytearray(path.read_bytes())
    raw[info.offset : info.offset + 2] = b"\xff\xff"  # d, a NaN
    path.write_bytes(raw)
    with refusal(ValueError, "ffn_down.weight", "NaN"):
        load_pretrained(path, "q4")

"""GGUF files: dequantized and stored tensors, permuted rows, config, tokenizer, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

from minilora.hub import GGUFFile, load_pretrained  # noqa: E402
from minilora.hub import gguf as ours  # noqa: E402
from tests.says import refusal  # noqa: E402

from . import ggufs  # noqa: E402

IDS = np.array([[5, 9, 2, 250], [7, 7, 1, 0]])
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
TEXT = "The patient takes 1234 mg of lisinopril daily. Pulse 88, regular. No allergies; 5.5 mg x 2."
Q, K = "model.layers.1.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"


@pytest.fixture(scope="module")
def trained():
    return ggufs.digit_tokenizer([TEXT] * 3)


@pytest.fixture
def write(trained, tmp_path):
    """Write a GGUF file whose metadata (None: left out), tensors and types a test may change."""

    def written(metadata=(), arrays=(), kinds=None, architecture="llama", **config):
        model, keys, tensors = ggufs.parts(trained, **config)
        keys = {**keys, **dict(metadata)}
        keys = {k: v for k, v in keys.items() if v is not None}
        tensors = {k: v for k, v in {**tensors, **dict(arrays)}.items() if v is not None}
        path = tmp_path / "model.gguf"
        return model, ggufs.write_gguf(path, keys, tensors, kinds or {}, architecture)

    return written


SHAPES = {
    "grouped, head_dim apart": {},
    "one head each": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "untied": {"tie_word_embeddings": False},
    "one group": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_float32_file_is_the_model_bit_for_bit(write, shape):
    model, path = write(**SHAPES[shape])
    loaded, _ = load_pretrained(path)
    for name, array in model.state_dict().items():
        assert loaded.state_dict()[name].tobytes() == array.tobytes(), name
    config = {**loaded.config.to_dict(), "initializer_range": 0.3}
    assert config == model.config.to_dict()
    assert loaded(IDS).data.tobytes() == model(IDS).data.tobytes() and not loaded.training


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_dequantized_as_gguf_does_and_in_our_order(write, kind):
    matrices = {ggufs.stored_name(n): kind for n in (Q, K, "model.layers.0.mlp.down_proj.weight")}
    model, path = write(kinds=matrices)
    file, state = GGUFFile(path), model.state_dict()
    errors = []
    for name, array in state.items():
        read = file.dequantize(name)
        assert read.dtype == np.float32 and read.shape == array.shape
        assert read.flags.writeable and read.flags.c_contiguous
        errors.append(np.abs(read - array).max() / np.abs(array).max())
        if ggufs.stored_name(name) not in matrices:
            assert errors[-1] == 0
        elif name in (Q, K):
            # Blocks lie within a row, so an unpermuted matrix quantizes to the same rows.
            quantized = gguf.quants.quantize(array, gguf.GGMLQuantizationType[kind])
            expected = gguf.quants.dequantize(quantized, gguf.GGMLQuantizationType[kind])
            np.testing.assert_array_equal(read, expected)
    limit = {"F32": 0, "F16": 1e-3, "BF16": 1 / 128, "Q8_0": 1 / 100}.get(kind, 0.15)
    assert (max(errors) > 0) == (kind != "F32") and max(errors) <= limit


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", [Q, K, "model.layers.0.mlp.up_proj.weight"])
def test_stored_blocks_are_the_rows_of_the_dequantized_array(write, kind, name):
    _, path = write(kinds={ggufs.stored_name(name): kind})
    file = GGUFFile(path)
    blocks, told = file.blocks(name)
    info = dict(file.tensors())[name]
    assert told == kind == info.type and blocks.dtype == np.uint8
    assert blocks.shape[0] == info.shape[0] and blocks.size == info.nbytes
    floats = gguf.quants.dequantize(np.ascontiguousarray(blocks), gguf.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(floats.reshape(info.shape), file.dequantize(name))


def test_a_vector_is_one_row_of_blocks(write):
    model, path = write()
    blocks, kind = GGUFFile(path).blocks("model.norm.weight")
    assert kind == "F32" and blocks.shape == (1, 4 * 32)
    np.testing.assert_array_equal(blocks.view(np.float32)[0], model.model.norm.weight.data)


def test_the_stored_order_of_q_and_k_is_not_ours(write):
    model, path = write()
    for name in (Q, K):
        raw, _ = GGUFFile(path).blocks(name)
        mine = model.state_dict()[name]
        np.testing.assert_array_equal(np.ascontiguousarray(raw).view(np.float32), mine)
        heads = mine.shape[0] // 8
        assert not np.array_equal(ggufs.permuted(mine, heads), mine)


def test_large_tensors_are_read_in_pieces(write, monkeypatch):
    _, path = write(kinds={ggufs.stored_name(Q): "Q8_0"})
    whole = GGUFFile(path).dequantize(Q)
    monkeypatch.setattr(ours, "CHUNK", 3 * 32 + 5)
    np.testing.assert_array_equal(GGUFFile(path).dequantize(Q), whole)


def test_names_types_and_order_are_told(write):
    model, path = write(kinds={ggufs.stored_name(Q): "Q4_1"})
    file = GGUFFile(path)
    assert {n: i.shape for n, i in file.tensors()} == {
        n: a.shape for n, a in model.state_dict().items()
    }
    assert file.stored_types() == {"F32": 19, "Q4_1": 1}
    with refusal(ValueError, "model.nothing"):
        file.dequantize("model.nothing")


# -- tokenizer and chat template ---------------------------------------------------------------

TEXTS = [
    TEXT,
    "",
    " é漢😀\u2028\n\t  x",
    "1234567 12.5",
    "<|user|>Pulse?<|end|>",
    "it's  I'll x\r\n",
]


def test_the_tokenizer_is_the_one_that_was_written(write, trained):
    _, path = write()
    tokenizer = GGUFFile(path).tokenizer
    for text in TEXTS:
        assert tokenizer.encode(text) == trained.encode(text), text
        assert tokenizer.decode(tokenizer.encode(text)) == trained.decode(trained.encode(text))
    assert (tokenizer.eos_id, tokenizer.pad_id) == (trained.eos_id, trained.pad_id)
    chat = [{"role": "user", "content": "Pulse?"}]
    assert tokenizer.apply_chat_template(chat) == trained.apply_chat_template(chat)
    assert len(tokenizer.encode("8888")) == 4


def test_gpt2_keeps_digits_together(write):
    _, path = write()
    tokens = [t for t in GGUFFile(path).metadata["tokenizer.ggml.tokens"] if t != "88"]
    tokens = [*tokens[:298], "88", "8888"]
    merged = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": ["8 8", "88 88"]}
    _, path = write(merged)
    apart = GGUFFile(path).tokenizer.encode("8888")
    _, path = write({**merged, "tokenizer.ggml.pre": "gpt-2"})
    together = GGUFFile(path).tokenizer.encode("8888")
    assert apart == [tokens.index("8")] * 4 and together == [tokens.index("8888")]


def test_a_users_own_token_is_cut_out_but_decoded(write):
    _, path = write()
    tokens = GGUFFile(path).metadata["tokenizer.ggml.tokens"]
    kinds = GGUFFile(path).metadata["tokenizer.ggml.token_type"]
    at = max(i for i, token in enumerate(tokens) if token.isalpha() and token.isascii())
    word = tokens[at]
    inside = f"{word[0]}{word}"  # merges alone would cut it otherwise, or not at all
    _, path = write({"tokenizer.ggml.token_type": kinds[:at] + [4] + kinds[at + 1 :]})
    tokenizer = GGUFFile(path).tokenizer
    assert len(word) > 1 and tokenizer.encode(f"{inside}y")[1] == at
    assert tokenizer.decode(tokenizer.encode(f"{inside}y")) == f"{inside}y"
    assert tokenizer.decode(tokenizer.encode("a<|end|>")) == "a"


def test_rows_that_are_no_whole_heads_are_refused(write):
    _, path = write({"llama.attention.head_count": 3})
    with refusal(ValueError, "attn_q.weight", 48, 8, 3):
        GGUFFile(path).dequantize(Q)


# -- refusals ----------------------------------------------------------------------------------

EXTRA = np.zeros((4, 32), np.float32)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architecture": "qwen2"}, ("qwen2", "llama")),
        ({"metadata": {"llama.rope.scaling.type": "yarn"}}, ("rope.scaling.type", "yarn")),
        ({"metadata": {"llama.expert_count": 8}}, ("expert_count", 8)),
        ({"metadata": {"llama.attention.sliding_window": 9}}, ("attention.sliding_window", 9)),
        ({"metadata": {"llama.rope.dimension_count": 4}}, ("rope.dimension_count", 4)),
        ({"metadata": {"llama.block_count": None}}, ("llama.block_count",)),
        ({"metadata": {"llama.attention.head_count_kv": 4}}, (6, 4)),
        ({"metadata": {"llama.attention.head_count_kv": [3, 1]}}, ([3, 1],)),
        ({"metadata": {"llama.block_count": 3}}, ("model.layers.2",)),
        ({"metadata": {"llama.block_count": 1}}, ("model.layers.1",)),
        ({"metadata": {"llama.feed_forward_length": 64}}, (96, 64)),
        ({"metadata": {"llama.attention.head_count": 3}}, ("q_proj.weight", (48, 32))),
        ({"metadata": {"tokenizer.ggml.model": "llama"}}, ("llama", "gpt2")),
        ({"metadata": {"tokenizer.ggml.pre": "tekken"}}, ("tekken", "smollm")),
        ({"metadata": {"tokenizer.ggml.merges": ["a b c"]}}, ("a b c",)),
        ({"metadata": {"tokenizer.ggml.merges": ["zz qq"]}}, ("merges",)),
        ({"metadata": {"tokenizer.ggml.token_type": [1]}}, (1,)),
        ({"metadata": {"tokenizer.ggml.eos_token_id": 4000}}, ("eos_token_id", 4000)),
        ({"metadata": {"tokenizer.chat_template": "{% if %}"}}, ("Jinja",)),
        ({"metadata": {"general.alignment": 0}}, ("general.alignment", 0)),
        ({"arrays": {"blk.0.attn_q.bias": EXTRA[0]}}, ("blk.0.attn_q.bias", (32,))),
        ({"arrays": {"rope_freqs.weight": EXTRA[0]}}, ("rope_freqs.weight",)),
        ({"arrays": {"blk.0.ffn_up.weight": None}}, ("model.layers.0.mlp.up_proj",)),
        ({"arrays": {"output_norm.weight": EXTRA[0] + np.nan}}, ("NaN", "model.norm.weight")),
    ],
)
def test_what_this_decoder_does_not_have_is_refused_by_name(write, changes, named):
    _, path = write(**changes)
    with refusal(ValueError, *named) as error:
        load_pretrained(path)
    assert str(path) in str(error.value)


def test_a_number_that_a_writer_repeats_for_every_layer_is_one_number(write):
    model, path = write({"llama.attention.head_count_kv": [3, 3]})
    assert load_pretrained(path)[0].config.num_key_value_heads == 3
    assert model.config.num_key_value_heads == 3


@pytest.mark.parametrize("keep", [0, 3, 20, 90, 3000, -1])
def test_a_truncated_file_is_refused(write, keep):
    _, path = write()
    path.write_bytes(path.read_bytes()[:keep])
    with refusal(ValueError, path):
        load_pretrained(path)


@pytest.mark.parametrize(
    ("at", "value", "named"),
    [
        (0, b"GGML", ("GGUF",)),
        (4, b"\x01\0\0\0", ("0x1",)),
        (4, b"\0\0\0\x03", ("little-endian",)),
        (8, b"\xff" * 8, ("GGUF",)),
        (16, b"\xff" * 8, ("GGUF",)),
        (24, b"\xff" * 8, ("GGUF",)),
        (32, b"\xff", ("UTF-8",)),
    ],
)
def test_a_damaged_head_is_refused(write, at, value, named):
    _, path = write()
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    with refusal(ValueError, *named):
        load_pretrained(path)


def test_a_type_that_gguf_does_not_know_is_refused(write):
    _, path = write()
    data = path.read_bytes()
    at = data.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8
    path.write_bytes(data[:at] + b"\xee\0\0\0" + data[at + 4 :])
    with refusal(ValueError, "output_norm.weight", 238):
        load_pretrained(path)


def test_a_type_that_gguf_does_not_dequantize_is_refused(write):
    _, path = write()
    data = path.read_bytes()
    at = data.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8
    path.write_bytes(data[:at] + (26).to_bytes(4, "little") + data[at + 4 :])  # I32
    with refusal(ValueError, "output_norm.weight", "I32"):
        load_pretrained(path)


def test_without_the_package_the_error_says_how_to_get_it(write, monkeypatch):
    import sys

    _, path = write()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with refusal(ValueError, "pip install 'gguf>=0.10'"):
        load_pretrained(path)


def test_a_loaded_file_is_saved_as_a_folder_that_comes_back(write, tmp_path):
    from minilora.hub import save_pretrained

    _, path = write(kinds={ggufs.stored_name(Q): "Q4_1"})
    model, tokenizer = load_pretrained(path)
    save_pretrained(tmp_path / "folder", model, tokenizer)
    again, reread = load_pretrained(tmp_path / "folder")
    assert again(IDS).data.tobytes() == model(IDS).data.tobytes()
    for text in TEXTS:
        assert reread.encode(text) == tokenizer.encode(text)

"""Hugging Face folders: what is saved comes back bit for bit, and what is odd is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest

from minilora import storage
from minilora.hub import load_pretrained, save_pretrained
from minilora.lora import LoRAConfig, attach
from minilora.storage import read_safetensors, write_safetensors
from tests.says import refusal

IDS = np.array([[5, 9, 2, 250], [7, 7, 1, 0]])


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def edit_config(folder, **changes):
    """Set fields of config.json; a field set to `...` is taken out."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    state, metadata = read_safetensors(path)
    change(state)
    write_safetensors(path, state, metadata)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"head_dim": 6}])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, make_model, tokenizer, changes):
    model = make_model(**changes)
    save_pretrained(tmp_path / "m", model, tokenizer)
    again, again_tokenizer = load_pretrained(tmp_path / "m")
    state, loaded = model.state_dict(), again.state_dict()
    assert list(loaded) == list(state)
    for name, array in state.items():
        assert loaded[name].dtype == np.float32 and loaded[name].tobytes() == array.tobytes(), name
    assert again.config == model.config and not again.training
    assert again(IDS).data.tobytes() == model(IDS).data.tobytes()
    assert again_tokenizer.encode("Pulse 88") == tokenizer.encode("Pulse 88")
    assert all(p.requires_grad and p.data.flags.writeable for p in again.parameters())
    assert set(files(tmp_path / "m")) == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip


def test_the_card_is_the_readme(saved):
    assert (saved / "README.md").read_text() == "# A card\n"


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_are_read_as_float32(saved, dtype):
    _, before = load_pretrained(saved)[0], read_safetensors(saved / "model.safetensors")[0]
    edit_weights(saved, lambda s: s.update({n: a.astype(dtype) for n, a in s.items()}))
    for name, array in load_pretrained(saved)[0].state_dict().items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, before[name].astype(dtype).astype(np.float32))


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "qwen2"}, ("model_type", "qwen2")),
        ({"hidden_act": "gelu"}, ("hidden_act", "gelu")),
        ({"attention_bias": True}, ("attention_bias", True)),
        ({"mlp_bias": True}, ("mlp_bias", True)),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ("rope_scaling",)),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, ("rope_parameters",)),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, ("rope_scaling",)),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, ("rope_parameters",)),
        ({"rope_parameters": "linear"}, ("rope_parameters", "linear")),
        ({"rope_scaling": ["linear"]}, ("rope_scaling", "linear")),
        ({"rope_parameters": {"rope_theta": 7.0}}, ("rope_theta", 5000.0, 7.0)),
        ({"rope_scaling": {"type": "default", "rope_theta": 7.0}}, ("rope_theta", 5000.0, 7.0)),
        ({"rope_theta": ..., "rope_parameters": {"rope_theta": [7]}}, ("rope_theta", "[7]")),
        ({"rope_theta": "7"}, ("rope_theta", "'7'")),
        ({"partial_rotary_factor": 0.25}, ("partial_rotary_factor", 0.25)),
        ({"rope_interleaved": True}, ("rope_interleaved", True)),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            ("LlamaForSequenceClassification",),
        ),
        ({"quantization_config": {"bits": 4}}, ("quantization_config",)),
        ({"hidden_size": ...}, ("hidden_size",)),
        ({"hidden_size": "16"}, ("hidden_size", "16")),
        ({"num_key_value_heads": 3}, (4, 3)),
    ],
)
def test_a_config_that_this_decoder_cannot_run_is_refused(saved, changes, named):
    edit_config(saved, **changes)
    with refusal(ValueError, *named) as error:
        load_pretrained(saved)
    assert str(saved / "config.json") in str(error.value)


def test_all_odd_settings_are_named_at_once(saved):
    edit_config(saved, model_type="gpt2", hidden_act="gelu", mlp_bias=True)
    with refusal(ValueError, "model_type", "gpt2", "hidden_act", "gelu", "mlp_bias", True):
        load_pretrained(saved)


@pytest.mark.parametrize(
    ("changes", "attribute", "value"),
    [
        ({"rms_norm_eps": ...}, "rms_norm_eps", 1e-6),
        ({"rms_norm_eps": None}, "rms_norm_eps", 1e-6),
        ({"max_position_embeddings": ...}, "max_position_embeddings", 2048),
        ({"rope_theta": ...}, "rope_theta", 10000.0),
        ({"rope_theta": ..., "rope_parameters": {"rope_theta": 7.0}}, "rope_theta", 7.0),
        ({"head_dim": ...}, "head_dim", 4),
        ({"eos_token_id": [3, 9]}, "eos_token_id", (3, 9)),
        ({"model_type": ...}, "hidden_size", 16),
        ({"rope_scaling": {"rope_type": "default"}}, "rope_theta", 5000.0),
    ],
)
def test_what_a_config_leaves_out_means_what_a_llama_config_means(saved, changes, attribute, value):
    edit_config(saved, **changes)
    assert getattr(load_pretrained(saved)[0].config, attribute) == value


def test_a_head_is_tied_only_where_the_config_says_so(saved):
    edit_config(saved, tie_word_embeddings=...)
    with refusal(ValueError, "lm_head.weight"):
        load_pretrained(saved)


def test_a_repeated_tied_embedding_must_be_the_embedding(saved):
    embedding = "model.embed_tokens.weight"
    edit_weights(saved, lambda s: s.update({"lm_head.weight": s[embedding].copy()}))
    assert load_pretrained(saved)[0].lm_head is None
    edit_weights(saved, lambda s: s.update({"lm_head.weight": s[embedding] * 2}))
    with refusal(ValueError, "lm_head.weight"):
        load_pretrained(saved)


NAME = "model.layers.1.mlp.up_proj.weight"


def poke(value):
    def change(state):
        state[NAME][3, 2] = value

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop(NAME), (NAME,)),
        (lambda s: s.update({"model.extra": np.zeros(2)}), ("model.extra",)),
        (lambda s: s.update({NAME: s[NAME].T}), (NAME, (16, 20), (20, 16))),
        (poke(np.nan), (NAME, "NaN")),
        (poke(-np.inf), (NAME, "NaN")),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(saved, change, named):
    edit_weights(saved, change)
    with refusal(ValueError, *named) as error:
        load_pretrained(saved)
    assert str(saved / "model.safetensors") in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 2**24},
        {"hidden_size": 2**20},
        {"intermediate_size": 2**22, "num_hidden_layers": 2**12},
        {"num_hidden_layers": 2**12, "vocab_size": 2**20},
        {"head_dim": 2**16, "num_attention_heads": 2**16, "num_key_value_heads": 2**16},
    ],
)
def test_sizes_far_beyond_the_file_are_refused_before_memory_is_taken(saved, changes, monkeypatch):
    held = sum(a.size for a in read_safetensors(saved / "model.safetensors")[0].values())
    edit_config(saved, **changes)
    monkeypatch.setattr("minilora.hub.checkpoint.Transformer", lambda *_, **__: pytest.fail())
    with refusal(ValueError, saved / "model.safetensors", f"{held:,}"):
        load_pretrained(saved)


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_a_truncated_file_is_refused_by_name(saved, keep):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with refusal(ValueError, saved / "model.safetensors"):
        load_pretrained(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with refusal(ValueError, saved, name):
        load_pretrained(saved)


@pytest.mark.parametrize(
    ("content", "named"),
    [("{", ("config.json", "JSON")), ("[]", ("config.json", "list"))],
)
def test_a_config_that_is_no_object_is_named(saved, content, named):
    (saved / "config.json").write_text(content)
    with refusal(ValueError, *named):
        load_pretrained(saved)


def test_a_path_that_is_no_folder_is_named(tmp_path):
    with refusal(ValueError, tmp_path / "nowhere"):
        load_pretrained(tmp_path / "nowhere")


# -- saving ------------------------------------------------------------------------------------


def test_an_adapted_model_is_not_saved_until_it_is_merged(saved, make_model, tokenizer):
    before, model = files(saved), make_model()
    plain = model(IDS).data.copy()
    handle = attach(model, LoRAConfig(r=2), np.random.default_rng(0))
    for name, p in model.named_parameters():
        if name.endswith("lora_B"):
            p.data = np.full(p.shape, 0.5, np.float32)
    with pytest.raises(ValueError, match="merge_and_unload"):
        save_pretrained(saved, model, tokenizer)
    assert files(saved) == before
    adapted = model(IDS).data.copy()
    handle.merge_and_unload()
    save_pretrained(saved, model, tokenizer)
    loaded = load_pretrained(saved)[0](IDS).data
    assert np.abs(adapted - plain).max() > 0.1
    np.testing.assert_allclose(loaded, adapted, rtol=1e-4, atol=1e-4)


def test_a_write_that_fails_leaves_the_old_folder(saved, make_model, tokenizer, monkeypatch):
    before = files(saved)

    def full_disk(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(type(tokenizer), "save", full_disk)
        with pytest.raises(OSError, match="no space left"):
            save_pretrained(saved, make_model(initializer_range=0.1), tokenizer)
    assert files(saved) == before
    assert [p.name for p in saved.parent.iterdir()] == ["model"]
    save_pretrained(saved, make_model(initializer_range=0.1), tokenizer)
    assert files(saved)["model.safetensors"] != before["model.safetensors"]
    assert "README.md" not in files(saved)  # replaced as a whole


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_a_kill_before_the_last_step_leaves_the_old_folder(
    saved, make_model, tokenizer, monkeypatch
):
    before = files(saved)
    die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_put_in_place", die)
        process = multiprocessing.get_context("fork").Process(
            target=save_pretrained, args=(saved, make_model(initializer_range=0.1), tokenizer)
        )
        process.start()
        process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert files(saved) == before
    load_pretrained(saved)
    save_pretrained(saved, make_model(initializer_range=0.1), tokenizer)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path, make_model, tokenizer):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis.docx"):
        save_pretrained(tmp_path, make_model(), tokenizer)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.docx"]

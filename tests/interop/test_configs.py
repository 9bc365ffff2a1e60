"""config.json in all its spellings against transformers: the same logits, or a refusal."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilora.hub import load_pretrained
from minilora.hub.config import config_of
from minilora.storage import write_safetensors
from minilora.text import Tokenizer

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PLAIN = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 270,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "torch_dtype": "float32",
}
DEFAULT, LINEAR = {"rope_type": "default"}, {"rope_type": "linear", "factor": 4.0}
# Each setting and what a file may say of it; `...` leaves it out.
SPELLINGS = {
    "rope_theta": [..., ..., 10000.0, 5000.0, 500, 10000, None, "5000", 0.5],
    "rope_parameters": [
        ...,
        ...,
        None,
        {},
        DEFAULT,
        {**DEFAULT, "rope_theta": 5000.0},
        {"rope_theta": 500.0},
        {**DEFAULT, "rope_theta": 10000.0},
        {"type": "default", "rope_theta": 5000},
        LINEAR,
        {**DEFAULT, "type": "linear", "factor": 2.0},
        {**DEFAULT, "partial_rotary_factor": 0.5},
        {**DEFAULT, "rope_theta": None},
        "default",
        [],
    ],
    "rope_scaling": [
        ...,
        ...,
        ...,
        None,
        {},
        DEFAULT,
        {**DEFAULT, "rope_theta": 500.0},
        {"type": "default"},
        LINEAR,
        {"type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 2.0},
        "linear",
    ],
    "head_dim": [..., ..., None, 6, 8, 0],
    "num_key_value_heads": [..., None, 1, 2, 4, 3],
    "hidden_size": [24, 24, 22],
    "rms_norm_eps": [..., 1e-6, 0.02, None],
    "tie_word_embeddings": [..., True, False, "false", 1],
    "attention_bias": [..., False, True, None],
    "mlp_bias": [..., False, True],
    "hidden_act": ["silu", "silu", "silu", "swish", "gelu", ...],
    "partial_rotary_factor": [..., ..., 1.0, None, 0.5],
    "sliding_window": [..., ..., None, 4],
    "use_sliding_window": [..., False],
    "layer_types": [..., ..., None, ["full_attention"] * 2, ["sliding_attention"] * 2],
    "pretraining_tp": [..., 1, 2],
    "max_position_embeddings": [64, 8, ...],
    "dtype": [..., "bfloat16", "float32"],
    "torch_dtype": [..., "float16"],
    "attention_dropout": [..., 0.0, 0.5],
    "eos_token_id": [..., None, 3, [3, 7], []],
    "pad_token_id": [..., None, 0, -1],
    "rope_interleaved": [..., False],
    "architectures": [["LlamaForCausalLM"], ..., None],
    "model_type": ["llama", "llama"],
}


def spelled(rng, count):
    """PLAIN with `count` of its settings spelled otherwise."""
    values = dict(PLAIN)
    for key in rng.choice(list(SPELLINGS), count, replace=False):
        values[str(key)] = SPELLINGS[key][rng.integers(len(SPELLINGS[key]))]
    return {key: value for key, value in values.items() if value is not ...}


def write_folder(folder, values, tokenizer, rng):
    """A folder of random weights of the sizes that the config says, and this config.json."""
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**json.loads(values)))
    state = {}
    for name, parameter in theirs.named_parameters():
        noise = rng.standard_normal(tuple(parameter.shape)).astype(np.float32)
        state[name] = (1 if parameter.ndim == 1 else 0) + 0.3 * noise
    write_safetensors(folder / "model.safetensors", state, {"format": "pt"})
    (folder / "config.json").write_text(values)
    tokenizer.save(folder)


@pytest.fixture(scope="module")
def words():
    return Tokenizer.train(["Pulse 88"], 260)


@pytest.mark.parametrize("seed", range(240))
def test_logits_are_those_of_transformers_or_the_config_is_refused(seed, words, tmp_path):
    rng = np.random.default_rng(seed)
    # Every fifth config has all its rotary settings spelled, of which several contradict.
    values = spelled(rng, int(rng.integers(1, 6)))
    if seed % 5 == 0:
        for key in ("rope_theta", "rope_parameters", "rope_scaling"):
            choice = SPELLINGS[key][rng.integers(len(SPELLINGS[key]))]
            values = {k: v for k, v in {**values, key: choice}.items() if v is not ...}
    try:
        config = config_of(values)
    except ValueError:
        return
    try:
        transformers.LlamaConfig(**values)
    except Exception:  # a null that this version refuses: there is nothing to compare with
        return
    write_folder(tmp_path, json.dumps(values), words, rng)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours, _ = load_pretrained(tmp_path)
    assert ours.config == config
    ids = rng.integers(0, 270, (2, config.max_position_embeddings))[:, :40]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids), use_cache=False).logits.numpy()
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(ours(ids).data, expected, rtol=0, atol=1e-4)
    ends = values.get("eos_token_id")  # where it is left out, versions of transformers differ
    assert config.eos_token_id == (tuple(ends) or None if isinstance(ends, list) else ends)
    if ends:
        assert theirs.generation_config.eos_token_id == ends

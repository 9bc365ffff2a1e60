"""Folders written here, read by transformers, and the other way round: ids, text and logits."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilora.hub import load_pretrained, save_pretrained
from minilora.nn import generate
from tests import tiny
from tests.tiny import TEXT

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXTS = [TEXT, "", " é漢😀\u2028\n\t  x", "<|user|>Pulse?<|end|><|assistant|>", "naïve  spaces "]
CHATS = [
    [{"role": "user", "content": "Pulse?"}],
    [
        {"role": "system", "content": "Be brief.\n"},
        {"role": "user", "content": " Pulse?  "},
        {"role": "assistant", "content": "88 é"},
        {"role": "user", "content": "And {{ now }}?"},
    ],
]
KINDS = {
    "tied": {},
    "untied": dict(tie_word_embeddings=False),
    "wide heads, long rope": dict(head_dim=8, rope_theta=150_000.0, rms_norm_eps=1e-3),
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tokenizer, tmp_path_factory):
    """A folder of ours, one for each kind of model."""
    shape = dict(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3,
        head_dim=4,
    )  # fmt: skip
    model = tiny.model(norms=0.3, tokenizer=tokenizer, **{**shape, **KINDS[request.param]})
    path = tmp_path_factory.mktemp("hub") / "model"
    save_pretrained(path, model, tokenizer)
    return path


def ids_and_theirs(rng_seed=2):
    ids = np.random.default_rng(rng_seed).integers(0, 270, (3, 50))
    return ids, torch.tensor(ids)


def logits_of(model, ids):
    with torch.no_grad():
        return model(ids).logits.numpy()


def test_transformers_computes_the_same_logits(folder):
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours, _ = load_pretrained(folder)
    ids, tensor = ids_and_theirs()
    a, b = ours(ids).data, logits_of(theirs.eval(), tensor)
    assert np.abs(a).max() > 1
    np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)
    config = theirs.config
    assert config.eos_token_id == ours.config.eos_token_id
    assert config.tie_word_embeddings == ours.config.tie_word_embeddings
    assert config.head_dim == ours.config.head_dim


def test_a_folder_that_transformers_writes_is_read_back(folder, tmp_path):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    ours, first = load_pretrained(folder)
    again, second = load_pretrained(tmp_path)
    ids, _ = ids_and_theirs()
    assert again.config == ours.config
    assert again(ids).data.tobytes() == ours(ids).data.tobytes()
    for text in TEXTS:
        assert second.encode(text) == first.encode(text)
    for chat in CHATS:
        assert second.apply_chat_template(chat) == first.apply_chat_template(chat)
    assert second.eos_id == first.eos_id and second.pad_id == first.pad_id


def test_bfloat16_weights_are_read_exactly(folder, tmp_path):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    load_pretrained(folder)[1].save(tmp_path)
    state = load_pretrained(tmp_path)[0].state_dict()
    for name, tensor in theirs.state_dict().items():
        if name in state:
            np.testing.assert_array_equal(state[name], tensor.float().numpy(), err_msg=name)


def test_transformers_generates_the_same_tokens(folder):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours, tokenizer = load_pretrained(folder)
    prompt = tokenizer.encode_prompt("Pulse?")
    with torch.no_grad():
        out = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
    new = out[0, len(prompt) :].tolist()
    new = new[: new.index(tokenizer.eos_id)] if tokenizer.eos_id in new else new
    assert generate(ours, [prompt], 12, stop_ids=(tokenizer.eos_id,)) == [new]


def test_transformers_reads_the_tokenizer(folder, tokenizer):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert theirs(text)["input_ids"] == ids, text
        assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids), text
    assert theirs.eos_token_id == tokenizer.eos_id and theirs.pad_token_id == tokenizer.pad_id
    assert len(theirs) == tokenizer.vocab_size


@pytest.mark.parametrize("generate_prompt", [False, True])
@pytest.mark.parametrize("chat", CHATS, ids=["one turn", "a dialogue"])
def test_transformers_renders_the_chat_template_alike(folder, tokenizer, chat, generate_prompt):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=generate_prompt)
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=generate_prompt) == text
    ids = theirs.apply_chat_template(
        chat, tokenize=True, add_generation_prompt=generate_prompt, return_dict=False
    )
    assert list(ids) == tokenizer.encode(text)


def test_defaults_of_a_short_config_are_those_of_transformers(folder, tmp_path):
    """A config.json that leaves fields out means the same model to both."""
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    kept = {k: v for k, v in config.items() if k not in ("rms_norm_eps", "rope_theta")}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids, tensor = ids_and_theirs()
    ours = load_pretrained(tmp_path)[0](ids).data
    np.testing.assert_allclose(ours, logits_of(theirs, tensor), atol=1e-4, rtol=1e-4)

"""New tokens: ids, rows, what stays as it was, and a base folder that both libraries read."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.cli.app import main
from minilora.hub import load_pretrained
from minilora.hub.tokens import add_tokens, ids_of
from minilora.lora import Adapter, BaseMismatchError, LoRAConfig, attach
from minilora.nn.base_dtype import store_base
from tests import tiny
from tests.says import refusal

NEW = ("<dose>", "mg of")
TEXT = "The patient takes 20 mg of lisinopril daily."


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_row_is_the_mean_of_its_pieces_and_the_old_ones_stay(tied):
    words = tiny.tokenizer()
    model = tiny.model(tokenizer=words, tie_word_embeddings=tied)
    before, plain = model.state_dict(), model.eval()(np.array([[1, 5, 9]])).data
    pieces = [words.encode(text) for text in NEW]
    grown, ids = add_tokens(model, words, NEW)
    assert ids == (words.vocab_size, words.vocab_size + 1) == ids_of(grown, NEW)
    assert words.backend.token_to_id(NEW[0]) is None  # the one that was given is as it was
    assert model.config.vocab_size == grown.vocab_size == words.vocab_size + 2
    for name, array in before.items():
        now = model.state_dict()[name]
        assert now[: len(array)].tobytes() == array.tobytes()
        if len(now) > len(array):
            for row, old in zip(now[len(array) :], pieces, strict=True):
                np.testing.assert_allclose(row, array[old].mean(axis=0), atol=1e-6)
    now = model(np.array([[1, 5, 9]])).data
    np.testing.assert_allclose(now[..., :-2], plain, atol=1e-5)
    assert all(p.requires_grad for p in model.parameters())


def test_texts_are_read_as_the_new_tokens_and_written_back():
    words, model = tiny.tokenizer(), tiny.model(tokenizer=tiny.tokenizer())
    grown, (_, phrase) = add_tokens(model, words, NEW)
    ids = grown.encode(TEXT)
    assert phrase in ids and len(ids) < len(words.encode(TEXT))
    assert grown.decode(ids) == TEXT


def test_what_makes_no_sense_is_refused_and_nothing_changes():
    words = tiny.tokenizer()
    known = words.backend.id_to_token(40)
    for texts in ((), "<dose>", ("",), ("<a>", "<a>"), (known,), (3,)):
        model = tiny.model(tokenizer=words)
        with refusal(ValueError, "add"):
            add_tokens(model, words, texts)
        assert model.config.vocab_size == words.vocab_size
    adapted = tiny.model(tokenizer=words)
    attach(adapted, LoRAConfig(2), np.random.default_rng(0))
    stored = store_base(tiny.model(tokenizer=words), "float16")
    for model in (adapted, stored):
        with refusal(ValueError, "frozen"):
            add_tokens(model, words, NEW)
    with refusal(ValueError, "<dose>"):
        ids_of(words, NEW)


def test_the_command_writes_a_base(tmp_path, capsys):
    base = tiny.save(tmp_path / "base", tiny.tokenizer())
    out = tmp_path / "grown"
    args = ["tokens", "--base", str(base), "--add", NEW[0], "--add", NEW[1], "--out", str(out)]
    assert main(args) == 0
    model, words = load_pretrained(out)
    assert ids_of(words, NEW) == (model.config.vocab_size - 2, model.config.vocab_size - 1)
    assert main(args) == 1 and "out" in capsys.readouterr().err


@pytest.mark.interop
def test_transformers_reads_it_and_peft_the_rows_that_were_trained(tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=12, num_attention_heads=4, num_key_value_heads=2, head_dim=6)
    base = tiny.save(tmp_path / "base", tiny.tokenizer(), **sizes)
    out = tmp_path / "grown"
    assert main(["tokens", "--base", str(base), "--add", NEW[0], "--add", NEW[1],
                 "--out", str(out)]) == 0  # fmt: skip
    model, words = load_pretrained(out)
    ids = words.encode(f"{NEW[0]} {TEXT}")
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    assert theirs(f"{NEW[0]} {TEXT}", add_special_tokens=False)["input_ids"] == ids
    config = LoRAConfig(2, trainable_token_indices={"embed_tokens": ids_of(words, NEW)})
    handle = attach(model, config, np.random.default_rng(0))
    rows = model.model.embed_tokens.table.trainable_tokens_delta
    rows.data = np.random.default_rng(1).standard_normal(rows.shape).astype(np.float32)
    handle.adapter(base_name=str(out)).write(tmp_path / "a")
    # On their side the base is grown by resize_token_embeddings, with other rows for new tokens.
    peer = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    peer.resize_token_embeddings(len(theirs))
    peer = peft.PeftModel.from_pretrained(peer, tmp_path / "a").eval()
    with torch.no_grad():
        expected = peer(torch.tensor([ids])).logits.numpy()
    assert np.abs(model(np.array([ids])).data - expected).max() < 1e-4


@pytest.mark.interop
@pytest.mark.filterwarnings("ignore:.*not checked:UserWarning")
@pytest.mark.parametrize("way", ["rows", "whole", "product"])
def test_what_peft_saves_of_a_base_that_it_made_larger_works_here(tmp_path, way):
    """There the tables are saved too, with rows that were drawn for the new tokens."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=12, num_attention_heads=4, num_key_value_heads=2, head_dim=6)
    base = tiny.save(tmp_path / "base", tiny.tokenizer(), **sizes)
    model, words = load_pretrained(base)
    words, new = add_tokens(model, words, NEW)
    ids = words.encode(f"{NEW[0]} {TEXT}")
    how = {
        "rows": {"trainable_token_indices": list(new)},
        "whole": {"modules_to_save": ["embed_tokens"]},
        "product": {"target_modules": ["q_proj", "embed_tokens"]},
    }[way]
    peer = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    peer.resize_token_embeddings(words.vocab_size)
    config = peft.LoraConfig(r=2, task_type="CAUSAL_LM", **{"target_modules": ["q_proj"], **how})
    peer = peft.get_peft_model(peer, config).eval()
    torch.manual_seed(0)
    for parameter in peer.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape)
    peer.save_pretrained(tmp_path / "a")
    adapter = Adapter.read(tmp_path / "a")
    if way == "product":  # A and B were trained on rows that are not this base's
        with refusal(BaseMismatchError, "base_layer.weight"):
            attach(model, adapter)
        return
    with torch.no_grad():
        expected = peer(torch.tensor([ids])).logits.numpy()
    handle = attach(model, adapter)
    assert np.abs(model(np.array([ids])).data - expected).max() < 1e-4
    adapter.write(tmp_path / "b")
    assert Adapter.read(tmp_path / "b") == adapter
    assert np.abs(handle.merge_and_unload()(np.array([ids])).data - expected).max() < 1e-4

"""Tokenizer folders: any text survives, chat templates, special tokens, bad files by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minilora.text import Tokenizer
from minilora.text.tokenizer import SPECIAL_TOKENS
from tests.says import refusal

CHAT = [
    {"role": "user", "content": "Pulse?"},
    {"role": "assistant", "content": "88\n"},
    {"role": "user", "content": " And {{ now }}?"},
]
RENDERED = "<|user|>Pulse?<|end|><|assistant|>88\n<|end|><|user|> And {{ now }}?<|end|>"


@pytest.fixture(scope="module")
def reread(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return Tokenizer.from_folder(folder)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_any_text_survives_and_a_reread_tokenizer_gives_the_same_ids(tokenizer, reread, text):
    assume(not any(token in text for token in SPECIAL_TOKENS))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert reread.encode(text) == ids and reread.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert not {*ids} & {tokenizer.backend.token_to_id(t) for t in SPECIAL_TOKENS}


def test_training_merges_what_is_frequent(tokenizer):
    assert len(tokenizer.encode(" lisinopril")) < len(" lisinopril") / 2
    assert len(tokenizer.encode(" nephrology")) > len(" nephrology") / 2


def test_training_gives_the_size_asked_for_and_repeats():
    texts = ["to be or not to be, that is the question " * 3]
    first, second = Tokenizer.train(texts, 270), Tokenizer.train(texts, 270)
    assert first.vocab_size == 270
    assert first.backend.to_str() == second.backend.to_str()


def test_special_tokens_are_one_id_each_and_stay_out_of_decoded_text(tokenizer, reread):
    for which in (tokenizer, reread):
        ids = [which.encode(token) for token in SPECIAL_TOKENS]
        assert ids == [[0], [1], [2], [3]]
        assert which.pad_id == 0 and which.eos_id == 3
        mixed = which.encode("<|user|>Pulse<|end|>")
        assert mixed[0] == 1 and mixed[-1] == 3
        assert which.decode(mixed) == "Pulse"


@pytest.mark.parametrize("generate", [False, True])
def test_the_chat_template_renders_the_messages(tokenizer, reread, generate):
    expected = RENDERED + "<|assistant|>" * generate
    for which in (tokenizer, reread):
        assert which.apply_chat_template(CHAT, add_generation_prompt=generate) == expected
    assert reread.encode_prompt("Pulse?") == [1, *reread.encode("Pulse?"), 3, 2]


def with_template(tokenizer, template, **config):
    return Tokenizer(tokenizer.backend, {**config, "chat_template": template})


def test_a_template_sees_its_special_tokens_in_either_spelling(tokenizer):
    template = "{{ bos_token }}{{ eos_token }}"
    spelled = {"bos_token": {"content": "<|user|>", "lstrip": False}, "eos_token": "<|end|>"}
    which = with_template(tokenizer, template, **spelled)
    assert which.apply_chat_template([]) == "<|user|><|end|>"
    assert which.eos_id == 3 and which._special("bos_token") == 1


def test_the_reason_of_a_template_is_told(tokenizer):
    which = with_template(tokenizer, "{{ raise_exception('roles must alternate') }}")
    with refusal(ValueError, "roles must alternate"):
        which.encode_prompt("a")
    bare = Tokenizer(tokenizer.backend, {})
    with refusal(ValueError, "chat template"):
        bare.apply_chat_template(CHAT)
    assert bare.eos_id is None and bare.pad_id == 0


def test_a_template_file_wins_over_the_config(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("from the file: {{ messages | length }}")
    assert Tokenizer.from_folder(tmp_path).apply_chat_template(CHAT) == "from the file: 3"
    again = tmp_path / "again"
    again.mkdir()
    Tokenizer.from_folder(tmp_path).save(again)
    assert Tokenizer.from_folder(again).apply_chat_template(CHAT) == "from the file: 3"


def test_a_folder_without_a_config_still_encodes(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.from_folder(tmp_path).encode("Pulse") == tokenizer.encode("Pulse")


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("tokenizer.json", "{}", ("tokenizer.json",)),
        ("tokenizer.json", '{"version": "a\\nb"}', ("tokenizer.json",)),
        ("tokenizer.json", '{"version": "1.0", "mod', ("tokenizer.json",)),
        ("tokenizer.json", None, ("tokenizer.json",)),
        ("tokenizer_config.json", '{"eos_token": ', ("tokenizer_config.json", "JSON")),
        ("tokenizer_config.json", "[1]", ("tokenizer_config.json", "list")),
        ("chat_template.jinja", "{% for %}", ("chat template", "Jinja")),
    ],
)
def test_a_bad_file_is_refused_by_name(tokenizer, tmp_path, name, content, named):
    tokenizer.save(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with refusal(ValueError, *named) as error:
        Tokenizer.from_folder(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def save_with(tokenizer, folder, **settings):
    """The tokenizer's folder, with these settings in its tokenizer_config.json."""
    tokenizer.save(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **settings}))
    return folder


@pytest.mark.parametrize("name", ["eos_token", "bos_token", "pad_token", "mask_token"])
@pytest.mark.parametrize("value", [5, True, [], ["<|end|>"], {"content": 5}, {"content": ["a"]}])
def test_a_special_token_that_is_no_text_is_refused(tokenizer, tmp_path, name, value):
    save_with(tokenizer, tmp_path, **{name: value})
    with pytest.raises(ValueError, match=name) as error:
        Tokenizer.from_folder(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"added_tokens_decoder": 5},
        {"added_tokens_decoder": ["<|x|>"]},
        {"added_tokens_decoder": {"x": {"content": "<|x|>"}}},
        {"added_tokens_decoder": {"300": {"name": "<|x|>"}}},
        {"added_tokens_decoder": {"300": {"content": 5}}},
        {"added_tokens_decoder": {"7": {"content": "<|x|>", "special": True}}},
        {"added_tokens_decoder": {"3": {"content": "<|user|>", "special": True}}},
        {"extra_special_tokens": 5},
        {"extra_special_tokens": [5]},
        {"additional_special_tokens": "<|x|>"},
    ],
)
def test_added_tokens_that_are_none_or_have_another_id_are_refused(tokenizer, tmp_path, settings):
    save_with(tokenizer, tmp_path, **settings)
    with pytest.raises(ValueError, match=next(iter(settings))):
        Tokenizer.from_folder(tmp_path)


def test_a_token_that_only_the_config_knows_is_one_id_behind_the_others(tokenizer, tmp_path):
    size = tokenizer.vocab_size
    save_with(tokenizer, tmp_path, eos_token="<|new|>", extra_special_tokens=["<|more|>"])
    which = Tokenizer.from_folder(tmp_path)
    assert which.encode("a<|new|><|more|>") == [*which.encode("a"), size, size + 1]
    assert which.eos_id == size and which.vocab_size == size + 2
    assert which.decode(which.encode("a<|new|>b")) == "ab"
    assert tokenizer.vocab_size == size


def test_the_size_is_that_of_the_highest_id(tokenizer, tmp_path):
    """Ids may have gaps; a model needs a row for each up to the highest."""
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    saved = json.loads(path.read_text("utf-8"))
    last = max(saved["model"]["vocab"].values())
    saved["model"]["vocab"] = {t: i + 9 * (i == last) for t, i in saved["model"]["vocab"].items()}
    path.write_text(json.dumps(saved))
    assert Tokenizer.from_folder(tmp_path).vocab_size == tokenizer.vocab_size + 9


def test_a_file_that_asks_for_short_texts_does_not_get_them(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    saved = json.loads(path.read_text("utf-8"))
    saved["truncation"] = {
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    saved["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<|pad|>",
    }  # fmt: skip
    path.write_text(json.dumps(saved))
    which = Tokenizer.from_folder(tmp_path)
    for text in ("a", "To be or not to be"):
        assert which.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("text", ["caf\udce9", "\ud83d", "a\udcff" * 3])
def test_bytes_of_another_encoding_are_named(tokenizer, text):
    """As a command line in Latin-1 arrives, or half of an emoji's escape in JSON."""
    for encode in (tokenizer.encode, tokenizer.encode_prompt):
        with pytest.raises(ValueError, match="UTF-8") as error:
            encode(text)
        str(error.value).encode()  # it can be printed
        assert type(error.value) is ValueError


def test_what_holds_none_is_absent_from_a_message(tokenizer):
    template = "{% for m in messages %}{{ m | length }}{{ 'name' in m }}{% endfor %}"
    messages = [{"role": "user", "content": "a", "name": None}, {"role": "user", "name": "b"}]
    assert with_template(tokenizer, template).apply_chat_template(messages) == "2False2True"


def test_the_saved_config_is_plain_json(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert config == tokenizer.config

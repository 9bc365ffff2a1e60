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


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}x{% endfor %}", "x"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Pulse?"}'),
        ("{{ 'é' | tojson }}{{ 'é' | tojson(ensure_ascii=true) }}", '"é""\\u00e9"'),
        ("{% if true %}\n  a\n  {% endif %}\nb", "  a\nb"),
        ([{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}], "d"),
    ],
)
def test_templates_have_what_hugging_face_gives_them(tokenizer, template, expected):
    assert with_template(tokenizer, template).apply_chat_template(CHAT) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.no.such }}",
    ],
)
def test_a_template_that_reaches_out_or_refuses_is_a_value_error(tokenizer, template):
    with refusal(ValueError, "chat template"):
        with_template(tokenizer, template).apply_chat_template(CHAT)


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
    assert str(tmp_path) in str(error.value)


def test_the_saved_config_is_plain_json(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert config == tokenizer.config

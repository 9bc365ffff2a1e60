"""Examples: loss masks, the ends of a text, windows, and what can't be encoded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.autograd import IGNORE
from minilora.text import Record, Tokenizer, encode_record, encode_records, prompt_messages
from tests.says import refusal

TEXT = "The patient takes 20 mg of lisinopril daily. Pulse 88, regular. No known allergies."
USER, ASSISTANT = prompt_messages("Pulse?", "88")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([TEXT] * 3, 300)


# -- masks and windows -------------------------------------------------------------------------

WORDS = st.text("abcdefgh .,0123éß漢😀\n", min_size=1, max_size=12)


def labelled(tokenizer, example):
    """Texts of each run of labelled tokens, special tokens kept."""
    runs, open_run = [], False
    for label in example.labels.tolist():
        if label == IGNORE:
            open_run = False
            continue
        if not open_run:
            runs.append([])
        open_run = True
        runs[-1].append(label)
    return [tokenizer.backend.decode(run, skip_special_tokens=False) for run in runs]


@settings(max_examples=40, deadline=None)
@given(turns=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), closing=st.booleans())
def test_labels_are_the_answers_and_their_end_and_nothing_else(tokenizer, turns, closing):
    messages = [m for turn in turns for m in prompt_messages(*turn)]
    if closing:
        messages.append({"role": "user", "content": "never answered"})
    example = encode_record(tokenizer, Record("r", messages=tuple(messages)))
    assert labelled(tokenizer, example) == [answer + "<|end|>" for _, answer in turns]
    whole = "".join(f"<|user|>{q}<|end|><|assistant|>{a}<|end|>" for q, a in turns)
    tokens = [*example.ids.tolist(), int(example.labels[-1])]
    assert tokenizer.backend.decode(tokens, skip_special_tokens=False) == whole
    known = example.labels != IGNORE
    np.testing.assert_array_equal(example.labels[:-1][known[:-1]], example.ids[1:][known[:-1]])
    assert example.ids.dtype == example.labels.dtype == np.int32


def test_the_prompt_is_tokenized_as_it_is_when_the_model_answers(tokenizer):
    example = encode_record(tokenizer, Record("r", messages=prompt_messages("Pulse?", "88")))
    prompt = tokenizer.encode_prompt("Pulse?")
    assert example.ids[: len(prompt)].tolist() == prompt
    assert (example.labels[: len(prompt) - 1] == IGNORE).all()
    assert example.labels[len(prompt) - 1] == tokenizer.encode("88")[0]


def test_plain_text_is_learned_from_its_second_token_on(tokenizer):
    tokens = tokenizer.encode(TEXT)
    example = encode_record(tokenizer, Record("r", text=TEXT))
    assert example.ids.tolist() == tokens[:-1] and example.labels.tolist() == tokens[1:]


@pytest.mark.parametrize("length", [1, 3, 7, 10_000])
def test_windows_of_plain_text_lose_nothing(tokenizer, length):
    tokens = tokenizer.encode(TEXT)
    examples, problems = encode_records(tokenizer, [Record("r", text=TEXT)], length)
    assert problems == []
    assert all(1 <= len(e) <= length for e in examples)
    assert np.concatenate([e.ids for e in examples]).tolist() == tokens[:-1]
    assert np.concatenate([e.labels for e in examples]).tolist() == tokens[1:]


def test_chats_that_are_too_long_are_named(tokenizer):
    good = Record("d.jsonl:1", messages=prompt_messages("a", "b"))
    long = Record("d.jsonl:2", messages=prompt_messages("a", TEXT * 3))
    fits = len(encode_record(tokenizer, good))
    examples, problems = encode_records(tokenizer, [long, good], fits)
    assert [e.source for e in examples] == ["d.jsonl:1"]
    got = len(encode_record(tokenizer, long))
    assert [str(p) for p in problems] == [f"d.jsonl:2: got {got} tokens, expected at most {fits}"]
    examples, problems = encode_records(tokenizer, [long, good], fits - 1)
    assert examples == [] and len(problems) == 2
    with refusal(ValueError, "max_length", 0):
        encode_records(tokenizer, [good], 0)


def test_a_text_of_one_token_and_a_chat_that_the_template_refuses_are_named(tokenizer):
    template = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}"
    template += "{% endif %}{{ m.content }}{% endfor %}"
    strict = Tokenizer(tokenizer.backend, {**tokenizer.config, "chat_template": template})
    records = [
        Record("a", text="x"),
        Record("b", messages=({"role": "tool", "content": "x"}, ASSISTANT)),
        Record("c", messages=(USER, ASSISTANT)),
    ]
    examples, problems = encode_records(strict, records, 99)
    assert [e.source for e in examples] == ["c"]
    assert [p.source for p in problems] == ["a", "b"]
    assert "single token" in problems[0].reason and "no tools" in problems[1].reason


def test_a_template_that_rewrites_earlier_messages_is_refused(tokenizer):
    template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    other = Tokenizer(tokenizer.backend, {**tokenizer.config, "chat_template": template})
    with refusal(ValueError):
        encode_record(other, Record("r", messages=(USER, ASSISTANT)))

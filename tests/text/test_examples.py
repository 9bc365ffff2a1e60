"""Examples: loss masks, the ends of a text, windows, and what can't be encoded."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from minilora.autograd import IGNORE
from minilora.text import Record, Tokenizer, encode_record, encode_records, prompt_messages
from minilora.text.examples import encode_text
from minilora.text.tokenizer import SPECIAL_TOKENS
from tests.says import names, refusal

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


@pytest.mark.parametrize("unlearned", [{1}, {3}, {1, 5}, {1, 3, 5}])
def test_an_answer_that_is_not_to_be_learned_is_read(tokenizer, unlearned):
    messages = [m for i in range(3) for m in prompt_messages(f"Pulse of {i}?", f"It is {i}.")]
    record = Record("r", messages=tuple(messages), unlearned=frozenset(unlearned))
    example = encode_record(tokenizer, record)
    whole = encode_record(tokenizer, Record("r", messages=tuple(messages)))
    assert example.ids.tolist() == whole.ids.tolist()
    learned = [messages[i]["content"] + "<|end|>" for i in (1, 3, 5) if i not in unlearned]
    assert labelled(tokenizer, example) == learned


def test_the_prompt_is_tokenized_as_it_is_when_the_model_answers(tokenizer):
    example = encode_record(tokenizer, Record("r", messages=prompt_messages("Pulse?", "88")))
    prompt = tokenizer.encode_prompt("Pulse?")
    assert example.ids[: len(prompt)].tolist() == prompt
    assert (example.labels[: len(prompt) - 1] == IGNORE).all()
    assert example.labels[len(prompt) - 1] == tokenizer.encode("88")[0]


# -- plain text ------------------------------------------------------------------------------------


def tokens_of(example):
    """All tokens that an example reads or learns."""
    return [*example.ids.tolist(), int(example.labels[-1])]


def test_a_plain_text_is_learned_from_its_second_token_to_its_end(tokenizer):
    tokens = [*tokenizer.encode(TEXT), tokenizer.eos_id]
    example = encode_record(tokenizer, Record("r", text=TEXT))
    assert example.ids.tolist() == tokens[:-1] and example.labels.tolist() == tokens[1:]
    assert example.ids.dtype == example.labels.dtype == np.int32


@pytest.mark.parametrize("length", [1, 3, 7, 10_000])
def test_windows_of_plain_text_lose_nothing_and_only_the_last_one_ends(tokenizer, length):
    tokens = [*tokenizer.encode(TEXT), tokenizer.eos_id]
    examples, problems = encode_records(tokenizer, [Record("r", text=TEXT)], length)
    assert problems == []
    assert [len(e) for e in examples[:-1]] == [length] * (len(examples) - 1)
    assert 1 <= len(examples[-1]) <= length
    assert np.concatenate([e.ids for e in examples]).tolist() == tokens[:-1]
    assert np.concatenate([e.labels for e in examples]).tolist() == tokens[1:]
    ends = [tokenizer.eos_id in e.labels for e in examples]
    assert ends == [False] * (len(examples) - 1) + [True]


@settings(max_examples=40, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=9), st.integers(1, 9), st.integers(1, 30))
def test_windows_do_not_depend_on_the_chunks(tokenizer, words, size, length):
    text = "".join(words)
    whole = encode_record(tokenizer, Record("r", text=text))
    chunks = [text[i : i + size] for i in range(0, len(text), size)]
    examples = list(encode_text(tokenizer, chunks, length, "r"))
    assert np.concatenate([e.ids for e in examples]).tolist() == whole.ids.tolist()
    assert np.concatenate([e.labels for e in examples]).tolist() == whole.labels.tolist()
    assert all(len(e) == length for e in examples[:-1])


def with_template(tokenizer, single, eos="<|end|>"):
    """The tokenizer with a template around every text, as `<s> $A` in Llama's."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    special = [(text, backend.token_to_id(text)) for text in SPECIAL_TOKENS]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return Tokenizer(backend, {**tokenizer.config, "eos_token": eos})


@pytest.mark.parametrize(
    ("single", "eos", "begins", "ends"),
    [
        ("$A", "<|end|>", [], [3]),
        ("<|user|> $A", "<|end|>", [1], [3]),
        ("<|user|> $A <|end|>", "<|end|>", [1], [3]),
        ("<|user|> $A <|pad|>", "<|end|>", [1], [0, 3]),
        ("<|user|> <|pad|> $A", "<|end|>", [1, 0], [3]),
        ("<|user|> $A", None, [1], []),
    ],
)
def test_a_text_begins_as_its_tokenizer_begins_texts(tokenizer, single, eos, begins, ends):
    words = with_template(tokenizer, single, eos)
    assert words.text_ends() == (begins, ends)
    example = encode_record(words, Record("r", text=TEXT))
    assert tokens_of(example) == [*begins, *tokenizer.encode(TEXT), *ends]
    assert (
        tokens_of(example)[: len(begins) + 5] == words.backend.encode(TEXT).ids[: len(begins) + 5]
    )


def test_ends_that_a_text_spells_out_are_not_doubled(tokenizer):
    words = with_template(tokenizer, "<|user|> $A")
    written = encode_record(words, Record("r", text=f"<|user|>{TEXT}<|end|>"))
    assert tokens_of(written) == tokens_of(encode_record(words, Record("r", text=TEXT)))


def test_a_text_of_one_token_ends_where_there_is_an_end(tokenizer):
    (example,), problems = encode_records(tokenizer, [Record("r", text="x")], 9)
    assert problems == [] and tokens_of(example) == [*tokenizer.encode("x"), tokenizer.eos_id]


# -- what can't be encoded -------------------------------------------------------------------------


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


def test_what_leaves_nothing_to_learn_and_what_the_template_refuses_are_named(tokenizer):
    template = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}"
    template += "{% endif %}{{ m.content }}{% endfor %}"
    config = {**tokenizer.config, "chat_template": template, "eos_token": None}
    strict = Tokenizer(tokenizer.backend, config)
    records = [
        Record("a", text="x"),
        Record("b", messages=({"role": "tool", "content": "x"}, ASSISTANT)),
        Record("c", messages=(USER, ASSISTANT)),
        Record("d", messages=({"role": "assistant", "content": "x"},)),
        Record("e", messages=(USER, ASSISTANT), unlearned=frozenset({1})),
    ]
    examples, problems = encode_records(strict, records, 99)
    assert [e.source for e in examples] == ["c"]
    assert [p.source for p in problems] == ["a", "b", "d", "e"]
    assert names(problems[0].reason, 1, 2) and names(problems[1].reason, "no tools")


def test_a_template_that_rewrites_earlier_messages_is_refused(tokenizer):
    template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    other = Tokenizer(tokenizer.backend, {**tokenizer.config, "chat_template": template})
    with refusal(ValueError):
        encode_record(other, Record("r", messages=(USER, ASSISTANT)))

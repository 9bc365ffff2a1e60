"""Data files with every kind of bad line, loss masks, windows, and batches by (seed, step)."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.autograd import IGNORE
from minilora.text import (
    Example,
    Record,
    Tokenizer,
    encode_record,
    encode_records,
    prompt_messages,
    read_records,
)
from minilora.training import Batches
from tests.says import refusal

TEXT = "The patient takes 20 mg of lisinopril daily. Pulse 88, regular. No known allergies."


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([TEXT] * 3, 300)


def write(path, *lines):
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return path


# -- files -------------------------------------------------------------------------------------

PAIR = {"prompt": "Pulse?", "completion": "88"}
USER, ASSISTANT = {"role": "user", "content": "Pulse?"}, {"role": "assistant", "content": "88"}


def test_good_lines_of_every_kind_become_records(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    path = write(
        tmp_path / "d.jsonl",
        {**PAIR, "id": 7},
        "",
        {"messages": [system, USER, ASSISTANT, USER, ASSISTANT]},
        {"text": " two\nlines "},
    )
    records, problems = read_records(path)
    assert problems == []
    assert records == [
        Record(f"{path}:1", messages=(USER, ASSISTANT)),
        Record(f"{path}:3", messages=(system, USER, ASSISTANT, USER, ASSISTANT)),
        Record(f"{path}:4", text=" two\nlines "),
    ]
    assert records[0].messages == prompt_messages("Pulse?", "88")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a", ', "not JSON: .* at column"),
        ("prompt,completion", "not JSON"),
        ("[" * 100_000, "recursion"),
        ([PAIR], "got a JSON list, expected an object"),
        ("null", "got a JSON NoneType"),
        ({}, r"got keys \[\], expected prompt and completion, or messages, or text"),
        ({"question": "a", "answer": "b"}, r"got keys \['answer', 'question'\]"),
        ({"prompt": "", "completion": "b"}, "'prompt' is missing or empty"),
        ({"prompt": "a"}, "'completion' is missing or empty"),
        ({"prompt": "a", "completion": " \n"}, "'completion' is missing or empty"),
        ({"prompt": 3, "completion": "b"}, "'prompt' is missing or empty"),
        ('{"prompt": "\\ud800", "completion": "b"}', "half of a surrogate pair"),
        ({"text": ""}, "'text' is empty"),
        ({"messages": []}, "'messages' is not a list of messages"),
        ({"messages": "hello"}, "'messages' is not a list of messages"),
        ({"messages": ["hello"]}, "a message has no 'role'"),
        ({"messages": [{"content": "a"}, ASSISTANT]}, "a message has no 'role'"),
        ({"messages": [{"role": "user"}, ASSISTANT]}, "the user message is empty"),
        ({"messages": [USER, {**ASSISTANT, "content": None}]}, "the assistant message is empty"),
        ({"messages": [USER]}, "no message has the role 'assistant'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_line_is_a_problem_with_its_place_and_reason(tmp_path, line, reason):
    path = write(tmp_path / "d.jsonl", PAIR, "", line, PAIR)
    records, problems = read_records(path)
    assert [r.source for r in records] == [f"{path}:1", f"{path}:4"]
    assert [p.source for p in problems] == [f"{path}:3"]
    assert re.search(reason, problems[0].reason), problems[0].reason
    assert str(problems[0]) == f"{path}:3: {problems[0].reason}"


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85"])
def test_only_a_newline_ends_a_line(tmp_path, odd):
    text = f"one{odd}two"
    path = tmp_path / "d.jsonl"
    lines = [{"prompt": text, "completion": "b"}, PAIR]
    content = "\r\n".join(json.dumps(x, ensure_ascii=False) for x in lines)
    path.write_bytes(content.encode())
    records, problems = read_records(path)
    assert problems == []
    assert records[0].messages[0]["content"] == text
    assert records[1].source == f"{path}:2"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(PAIR).encode())
    assert len(read_records(path)[0]) == 1


@pytest.mark.parametrize("name", ["d.jsonl", "d.txt"])
def test_a_file_that_is_not_utf8_is_refused_by_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(json.dumps(PAIR).encode() + b"\nL\xe4kare")
    with refusal(ValueError, name, "UTF-8", 42):
        read_records(path)
    with pytest.raises(FileNotFoundError):
        read_records(tmp_path / "none.jsonl")


def test_a_text_file_is_one_record(tmp_path):
    path = write(tmp_path / "note.txt", "one", "{two}")
    assert read_records(path) == ([Record(str(path), text="one\n{two}\n")], [])


@pytest.mark.parametrize(("name", "expected"), [("a.txt", "text"), ("a.jsonl", "JSON")])
def test_a_file_without_text_is_refused_by_name(tmp_path, name, expected):
    path = tmp_path / name
    for content in ("", "\ufeff", "\n \n\n"):
        path.write_text(content, "utf-8")
        with refusal(ValueError, path, expected):
            read_records(path)


def test_what_is_wrong_with_json_is_told_in_whole_words(tmp_path):
    """Some of json's own messages end in "at"."""
    path = write(tmp_path / "a.jsonl", '{"prompt": "cut', '{"prompt": "a\tb"}', '{"a" 1}')
    _, problems = read_records(path)
    reasons = [p.reason for p in problems]
    assert reasons[0] == "not JSON: Unterminated string starting at column 12"
    assert reasons[1].startswith("not JSON: Invalid control character at column")
    assert reasons[2] == "not JSON: Expecting ':' delimiter at column 6"


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


# -- batches -----------------------------------------------------------------------------------


def some_examples(lengths):
    rng = np.random.default_rng(0)
    return [
        Example(rng.integers(1, 9, n, np.int32), rng.integers(1, 9, n, np.int32)) for n in lengths
    ]


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=40)
SIZES = st.integers(1, 7)
BUCKETS = st.integers(1, 3)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, SIZES, BUCKETS, st.integers(0, 2**40), st.integers(0, 3))
def test_every_example_comes_once_an_epoch(lengths, size, bucket, seed, epoch):
    batches = Batches(some_examples(lengths), size, seed, bucket=bucket)
    steps = range(epoch * len(batches), (epoch + 1) * len(batches))
    seen = np.concatenate([batches.batch(step).indices for step in steps])
    assert sorted(seen.tolist()) == list(range(len(lengths)))


@settings(max_examples=60, deadline=None)
@given(LENGTHS, SIZES, st.integers(0, 2**40), st.lists(st.integers(0, 60), max_size=6))
def test_a_batch_depends_on_seed_and_step_alone(lengths, size, seed, detour):
    examples = some_examples(lengths)
    first, second = Batches(examples, size, seed), Batches(examples, size, seed)
    for step in detour:  # whatever was asked before must not matter
        second.batch(step)
    for step in (0, 7, 31):
        a, b = first.batch(step), second.batch(step)
        for x, y in ((a.ids, b.ids), (a.labels, b.labels), (a.indices, b.indices)):
            np.testing.assert_array_equal(x, y)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, SIZES, st.integers(0, 60))
def test_rows_are_the_examples_and_padding_has_no_label(lengths, size, step):
    examples = some_examples(lengths)
    batch = Batches(examples, size, seed=1, pad_id=77).batch(step)
    assert batch.ids.dtype == batch.labels.dtype == np.int32
    assert batch.ids.shape == batch.labels.shape
    assert batch.ids.shape[1] == max(lengths[i] for i in batch.indices)
    for row, i in enumerate(batch.indices):
        n = lengths[i]
        np.testing.assert_array_equal(batch.ids[row, :n], examples[i].ids)
        np.testing.assert_array_equal(batch.labels[row, :n], examples[i].labels)
        assert (batch.ids[row, n:] == 77).all() and (batch.labels[row, n:] == IGNORE).all()
    assert batch.tokens == sum(lengths[i] for i in batch.indices)


def test_epochs_and_seeds_differ():
    examples = some_examples([3] * 40)
    orders = []
    for seed in (0, 1):
        batches = Batches(examples, 4, seed)
        for epoch in (0, 1, 2):
            steps = range(epoch * 10, epoch * 10 + 10)
            orders.append(tuple(int(i) for s in steps for i in batches.batch(s).indices))
    assert len(set(orders)) == len(orders) and tuple(range(40)) not in orders


def test_examples_of_one_length_meet():
    lengths = [1 + i % 8 for i in range(128)]
    padded = [b.ids.size for b in map(Batches(some_examples(lengths), 4, 0).batch, range(32))]
    unsorted = Batches(some_examples(lengths), 4, 0, bucket=1)
    assert sum(padded) < 0.8 * sum(unsorted.batch(s).ids.size for s in range(32))


@pytest.mark.parametrize(("count", "size"), [(0, 4), (3, 0), (3, -1)])
def test_nothing_to_batch_is_refused(count, size):
    with refusal(ValueError, *(("batch_size", size) if count else (0,))):
        Batches(some_examples([2] * count), size, 0)


@pytest.mark.parametrize("seed", [-1, 1.5, None])
def test_a_seed_that_numpy_would_refuse_later_is_refused_at_once(seed):
    with refusal(ValueError, "seed", str(seed)):
        Batches(some_examples([2]), 1, seed)

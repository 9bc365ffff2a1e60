"""Rows of every shape: how each is read, and what is refused by name."""

from __future__ import annotations

import json

import pytest

from minilora.text import Record, prompt_messages
from minilora.text.records import SHAPES, parse_json, parse_record
from tests.says import refusal

PAIR = {"prompt": "Pulse?", "completion": "88"}
USER, ASSISTANT = prompt_messages("Pulse?", "88")
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [{"from": "human", "value": "Pulse?"}, {"from": "gpt", "value": "88"}]
ALPACA = {"instruction": "Pulse?", "output": "88"}


def chat(*messages, **more):
    return {"messages": list(messages), **more}


def messages_of(row):
    return parse_record(row, "r").messages


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        (PAIR, "prompt"),
        ({**PAIR, "id": 7, "task": "x", "messages": None, "text": None}, "prompt"),
        (chat(USER, ASSISTANT), "messages"),
        (chat(USER, ASSISTANT, prompt=None, completion=None), "messages"),
        (chat(USER, ASSISTANT, prompt="Pulse?", prompt_id="7"), "messages"),
        ({"conversations": TURNS}, "conversations"),
        ({"conversations": [USER, ASSISTANT]}, "conversations"),
        (chat(*TURNS), "messages"),
        (ALPACA, "instruction"),
        ({**ALPACA, "input": "", "text": "### Instruction: Pulse?"}, "instruction"),
        ({**ALPACA, "input": None, "system": "", "history": []}, "instruction"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_every_shape_of_a_chat_is_the_same_chat(row, shape):
    record = parse_record(row, "my.jsonl:3")
    assert record == Record("my.jsonl:3", messages=(USER, ASSISTANT))
    assert record.shape == shape and shape in SHAPES
    assert record.row is row and record.last_answer == 1


def test_an_input_follows_its_instruction():
    asked, _ = messages_of({"instruction": "Sum up.", "input": "A note.", "output": "b"})
    assert asked == {"role": "user", "content": "Sum up.\n\nA note."}


def test_a_text_is_itself():
    record = parse_record({"text": " two\nlines ", "id": 1}, "r")
    assert record == Record("r", text=" two\nlines ") and record.shape == "text"


@pytest.mark.parametrize("row", [PAIR, chat(USER, ASSISTANT), {"conversations": TURNS}, ALPACA])
def test_a_system_text_beside_a_chat_is_its_first_message(row):
    record = parse_record({**row, "system": "Be brief."}, "r")
    assert record.messages == (SYSTEM, USER, ASSISTANT) and record.last_answer == 2


def test_every_role_of_sharegpt_is_known():
    turns = [{"from": name, "value": "a"} for name in ("system", "human", "gpt", "user")]
    turns.append({"from": "chatgpt", "value": "b"})
    roles = [m["role"] for m in messages_of({"conversations": turns})]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def test_texts_of_parts_are_joined():
    parts = [{"type": "text", "text": "Pul"}, {"type": "text", "text": "se?"}]
    assert messages_of(chat({"role": "user", "content": parts}, ASSISTANT)) == (USER, ASSISTANT)


def test_only_role_and_content_reach_the_template():
    noisy = [{**USER, "id": 1, "name": None}, {**ASSISTANT, "tool_calls": [], "weight": 1}]
    assert messages_of(chat(*noisy)) == (USER, ASSISTANT)


# -- weights ---------------------------------------------------------------------------------------


def test_a_message_of_weight_0_is_read_and_not_learned():
    row = chat(USER, {**ASSISTANT, "weight": 0}, USER, {**ASSISTANT, "weight": 1})
    record = parse_record(row, "r")
    assert record.messages == (USER, ASSISTANT) * 2
    assert record.unlearned == {1} and record.last_answer == 3
    with_system = parse_record({**row, "system": "s"}, "r")
    assert with_system.unlearned == {2} and with_system.last_answer == 4
    of_users = parse_record(chat({**USER, "weight": 0}, ASSISTANT), "r")
    assert of_users.unlearned == frozenset()


@pytest.mark.parametrize("weight", [0.5, 2, -1, "0", True, [0]])
def test_another_weight_is_refused(weight):
    with refusal(ValueError, "assistant", "weight", 0, 1):
        parse_record(chat(USER, {**ASSISTANT, "weight": weight}), "r")


def test_a_chat_without_anything_to_learn_is_refused():
    for row in (chat(USER), chat(USER, {**ASSISTANT, "weight": 0}), {"conversations": TURNS[:1]}):
        with refusal(ValueError, "assistant"):
            parse_record(row, "r")


# -- what is refused -------------------------------------------------------------------------------

CALLS = [{"type": "function", "function": {"name": "pulse", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({**ASSISTANT, "tool_calls": CALLS}, "tool_calls"),
        ({"role": "assistant", "content": None, "tool_calls": CALLS}, "tool_calls"),
        ({**ASSISTANT, "function_call": {"name": "pulse"}}, "function_call"),
        ({**ASSISTANT, "name": "Anna"}, "name"),
        ({**ASSISTANT, "images": ["a.png"]}, "images"),
        ({**ASSISTANT, "reasoning_content": "Well."}, "reasoning_content"),
        ({**ASSISTANT, "role": "tool"}, "tool"),
        ({**ASSISTANT, "role": "developer"}, "developer"),
        ({**ASSISTANT, "role": "Assistant"}, "Assistant"),
        ({**ASSISTANT, "role": 3}, 3),
        ({"from": "function_call", "value": "x"}, "function_call"),
        ({"from": "observation", "value": "x"}, "observation"),
        ({"content": "a"}, "role"),
        ("hello", "hello"),
        ({**ASSISTANT, "content": None}, "null"),
        ({"role": "assistant"}, "missing"),
        ({**ASSISTANT, "content": " \n"}, "empty"),
        ({**ASSISTANT, "content": 88}, 88),
        ({**ASSISTANT, "content": {"text": "a"}}, "object"),
        ({**ASSISTANT, "content": []}, "empty"),
        ({**ASSISTANT, "content": ["a"]}, "'a'"),
        ({**ASSISTANT, "content": [{"text": "a"}]}, "type"),
        ({**ASSISTANT, "content": [{"type": "text"}]}, "null"),
        ({**ASSISTANT, "content": [{"type": "image_url", "image_url": {}}]}, "image_url"),
        ({**ASSISTANT, "content": [{"type": "text", "text": "a"}, {"type": "input_audio"}]},
         "input_audio"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_a_message_that_says_more_or_less_than_a_text_is_refused(message, named):
    with refusal(ValueError, named):
        parse_record(chat(USER, message, USER, ASSISTANT), "r")


@pytest.mark.parametrize(
    "key", ["tools", "functions", "documents", "history", "image", "images", "audio", "videos"]
)
@pytest.mark.parametrize("row", [PAIR, chat(USER, ASSISTANT), ALPACA, {"text": "a"}])
def test_a_row_that_says_more_than_its_texts_is_refused(row, key):
    with refusal(ValueError, key):
        parse_record({**row, key: ["x"]}, "r")
    for empty in (None, [], ""):
        assert parse_record({**row, key: empty}, "r") == parse_record(row, "r")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ([PAIR], ["array", "object"]),
        (None, ["null", "object"]),
        ("hello", ["hello", "object"]),
        ({}, ["[]", "prompt", "messages", "conversations", "instruction", "text"]),
        ({"question": "a", "answer": "b"}, ["question", "answer", "prompt"]),
        ({"prompt": "", "completion": "b"}, ["prompt", "empty"]),
        ({"prompt": "a"}, ["completion", "missing"]),
        ({"completion": "a"}, ["prompt", "missing"]),
        ({"prompt": "a", "completion": " \n"}, ["completion", "empty"]),
        ({"prompt": 3, "completion": "b"}, ["prompt", 3]),
        ({"prompt": True, "completion": "b"}, ["prompt", "true"]),
        ({"prompt": "a", "completion": None}, ["completion", "null"]),
        ({"prompt": [USER], "completion": [ASSISTANT]}, ["prompt", "array"]),
        ({"prompt": "\ud800", "completion": "b"}, ["prompt", "surrogate"]),
        ({"text": ""}, ["text", "empty"]),
        ({"text": None}, ["text", "null"]),
        ({"text": "a", "system": "b"}, ["text", "system"]),
        ({"messages": []}, ["messages", "empty"]),
        ({"messages": "hello"}, ["messages", "hello"]),
        ({"messages": None}, ["messages", "null"]),
        ({"conversations": {}}, ["conversations", "object"]),
        ({"instruction": "a"}, ["output", "missing"]),
        ({"instruction": "a", "input": 7, "output": "b"}, ["input", 7]),
        (chat(SYSTEM, USER, ASSISTANT, system="b"), ["system"]),
        ({**PAIR, "system": 5}, ["system", 5]),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_row_of_no_known_shape_is_refused(row, named):
    with refusal(ValueError, *named):
        parse_record(row, "r")


@pytest.mark.parametrize(
    "value", ["x" * 10**6, "\ud800\n\x1b[31m", int("9" * 4000), 1e300, [[]], "\u2028\r\n"]
)
def test_what_was_got_fits_on_a_line_of_any_terminal(value):
    for row in ({"prompt": value}, {str(value): 1}, value,
                chat({"role": str(value), "content": "a"}), {"messages": value},
                chat({**USER, "content": [{"type": str(value)}]})):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            parse_record(row, "r")
        said = str(caught.value)
        assert len(said) < 300 and said.isprintable()


# -- JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"prompt": "a", ', ["JSON", 17]),
        ("prompt,completion", ["JSON", 1]),
        ('{"prompt": "cut', ["JSON", 12]),
        ('{"prompt": "a\tb"}', ["JSON", 14]),
        ('{"a" 1}', ["JSON", 6]),
        ('{"a": 1} {"a": 2}', ["JSON", 10]),
        ("[" * 100_000, ["nested"]),
        ('{"a":' * 100_000, ["nested"]),
        ('{"prompt": "a", "prompt": "b"}', ["prompt", "twice"]),
        ('{"x": {"k": 1, "k": 1}}', ["k", "twice"]),
        ('{"x": NaN}', ["NaN"]),
        ('{"x": [-Infinity]}', ["-Infinity"]),
        ("9" * 5000, [4300]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_json_is_refused_in_one_line(text, named):
    with refusal(ValueError, *named) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(" at")


def test_many_keys_and_one_of_them_twice_take_no_time():
    keys = ",".join(f'"{i}":0' for i in range(200_000))
    with refusal(ValueError, "0", "twice"):
        parse_json(f'{{{keys},"0":1}}')


def test_json_is_read_as_python_reads_it():
    value = {"a": [1, 2.5, None, True, "é\u2028"], "b": {"c": {}}}
    assert parse_json(json.dumps(value)) == parse_json(json.dumps(value, indent=1)) == value

"""Cases: what a data file gives to ask, how a variant asks it, and which rows have room."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from minilora.evaluation.cases import Case, chat, choose_shots, instructed, read_cases
from minilora.evaluation.house import SPARE_TOKENS, read_house
from minilora.evaluation.variants import Variant, with_room
from minilora.text.answers import prompt_ids
from minilora.ward import house_examples, house_instruction
from tests.cli.conftest import pairs, write_jsonl
from tests.says import refusal


@pytest.fixture
def data(tmp_path):
    return write_jsonl(tmp_path / "my.jsonl", pairs(6))


@pytest.fixture
def ward_file(tmp_path):
    examples = house_examples("cardiology", "heldout", 5, seed=3)
    return write_jsonl(tmp_path / "ward.jsonl", [e.to_dict() for e in examples])


def test_an_instruction_takes_the_place_of_the_bare_one_and_of_nothing_else(ward_file, data):
    cases = read_cases(ward_file).cases
    note = cases[0].messages[0]["content"].rsplit("\n\n", 1)[0]
    (message,) = instructed(cases[0], "house")
    assert message["content"] == f"{note}\n\n{house_instruction('cardiology')}"
    (message,) = instructed(cases[0], "Sum up.")
    assert message["content"] == f"{note}\n\nSum up."
    plain = read_cases(data).cases[0]
    (message,) = instructed(plain, "Sum up.")
    assert message["content"] == f"{pairs(1)[0]['prompt']}\n\nSum up."
    assert instructed(plain, None) == plain.messages
    own = replace(plain, messages=({"role": "user", "content": "Read one.\n\nAnd two."},))
    assert instructed(own, "Sum up.")[0]["content"] == "Read one.\n\nAnd two.\n\nSum up."


def test_shots_are_earlier_turns_and_one_lacks_a_dose(ward_file):
    cases = read_cases(ward_file).cases
    whole = [c for c in cases if not c.house["facts"]["no_dose"]]
    lacking = [c for c in cases if c.house["facts"]["no_dose"]]
    assert whole and lacking
    assert choose_shots([*whole, *lacking], 1) == lacking[:1]
    assert choose_shots([lacking[0], *whole], 1) == lacking[:1]
    assert choose_shots(whole, 1) == whole[:1]
    assert choose_shots(cases, 2, scored=cases[:2])[0] == cases[2]
    with refusal(ValueError, "--examples", 0):
        choose_shots(cases[:2], 1, scored=cases)
    messages = chat(cases[0], "New.", cases[1:4])
    assert [m["role"] for m in messages] == ["user", "assistant"] * 3 + ["user"]
    assert [m["content"].endswith("\n\nNew.") for m in messages[::2]] == [True, False, False, True]
    assert [m["content"] for m in messages[1::2]] == [c.expected for c in cases[1:4]]


def test_chats_are_asked_for_their_last_answer_and_a_system_message_stays_first(tmp_path):
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    record = {"messages": [{"role": role, "content": text} for role, text in turns]}
    data = write_jsonl(tmp_path / "chat.jsonl", [record])
    (case,) = read_cases(data).cases
    assert case.expected == "d" and len(case.messages) == 4
    shot = read_cases(write_jsonl(tmp_path / "my.jsonl", pairs(1))).cases
    roles = [m["role"] for m in chat(case, None, shot)]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


def test_rows_are_counted_over_cases_and_texts(tmp_path):
    rows = [*pairs(1), {"text": "plain"}, *pairs(2, 5)]
    data = write_jsonl(tmp_path / "my.jsonl", rows)
    read = read_cases(data, 3)
    assert [case.expected for case in read.cases] == [pairs(1)[0]["completion"],
                                                      pairs(1, 5)[0]["completion"]]  # fmt: skip
    assert [text.text for text in read.texts] == ["plain"]


@pytest.mark.parametrize(
    "facts",
    [
        {"name": "A B", "phones": [], "no_dose": [{"drug": "aspirin"}]},
        {"name": "A B", "phones": "555", "no_dose": []},
        {"name": ["A"], "phones": [], "no_dose": []},
        {"name": "A B", "phones": [7], "no_dose": []},
        {"name": "A B", "phones": []},
        [],
    ],
)
def test_a_house_record_that_can_not_be_scored_is_a_problem_of_its_line(ward_file, facts):
    lines = [json.loads(line) for line in ward_file.read_text().splitlines()]
    lines[1]["facts"] = facts
    write_jsonl(ward_file, lines)
    cases, _, problems = read_cases(ward_file)
    assert [problem.source for problem in problems] == [f"{ward_file}:2"]
    assert [case.source for case in cases] == [f"{ward_file}:{i}" for i in (1, 3, 4, 5)]
    house, same = read_house(ward_file)
    assert same == problems and [line.number for line in house] == [1, 3, 4, 5]


def test_a_record_in_another_format_is_no_house_record(ward_file):
    lines = [json.loads(line) for line in ward_file.read_text().splitlines()]
    lines[0]["completion"] = "Name: somebody"
    lines[0]["facts"] = None
    lines[1]["task"] = "house/surgery"
    write_jsonl(ward_file, lines)
    cases, _, problems = read_cases(ward_file)
    assert problems == [] and [case.ward for case in cases] == [None, None, *["cardiology"] * 3]


class Letters:
    """A tokenizer of one token a letter, and no template."""

    def encode(self, text):
        return list(text)

    def apply_chat_template(self, messages, add_generation_prompt=True):
        return "".join(message["content"] for message in messages)


def case(number, prompt, expected):
    messages = ({"role": "user", "content": "p" * prompt},)
    return Case(f"my.jsonl:{number}", messages, "e" * expected, None, None)


def test_rows_share_the_room_that_leaves_out_the_fewest():
    limit = 100
    cases = [case(1, 50, 10), case(2, 90, 1), case(3, 60, 12), case(4, 10, 70), case(5, 20, 5)]
    kept, room, problems = with_room(cases, [Variant("base")], Letters(), limit)
    # Row 2 has no room for any answer; row 4's answer would take the others' room.
    assert [one.source[-1] for one in kept] == ["1", "3", "5"]
    assert room == 12 + SPARE_TOKENS
    assert [problem.source[-1] for problem in problems] == ["2", "4"]
    assert all(len(prompt_ids(Letters(), list(c.messages))) + room <= limit for c in kept)


def test_a_row_must_have_room_in_every_variant():
    cases = [case(1, 50, 10), case(2, 10, 10)]
    variants = [Variant("base"), Variant("base, instructed", "i" * 40)]
    kept, _, (problem,) = with_room(cases, variants, Letters(), 100)
    assert [one.source[-1] for one in kept] == ["2"]
    assert problem.source[-1] == "1" and "base, instructed" in problem.reason

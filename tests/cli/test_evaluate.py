"""`minilora evaluate`: what each column asks, its scores, and what is refused before any answer."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from minilora.cli import evaluate as command
from minilora.cli.app import main
from minilora.evaluation.cases import chat, choose_shots, instructed, read_cases
from minilora.ward import house_examples, house_instruction, score_house
from tests.cli.conftest import make_base, pairs, write_jsonl


@pytest.fixture
def data(tmp_path):
    return write_jsonl(tmp_path / "my.jsonl", pairs(6))


@pytest.fixture
def ward_file(tmp_path):
    examples = house_examples("cardiology", "heldout", 5, seed=3)
    return write_jsonl(tmp_path / "ward.jsonl", [e.to_dict() for e in examples])


def run(data, base, *flags):
    return main(["evaluate", "--data", str(data), "--base", str(base), *map(str, flags)])


def answering(monkeypatch, answer):
    """Replace the model's answers by answer(messages)."""
    seen = []

    def fake(model, tokenizer, prompts, room, progress=""):
        seen.append((progress, prompts))
        return [answer(prompt, progress) for prompt in prompts]

    monkeypatch.setattr(command, "answers", fake)
    return seen


# -- scores ----------------------------------------------------------------------------------------


def test_exact_answers_are_counted_by_variant(base, adapter, data, tmp_path, capsys, monkeypatch):
    right = {r["prompt"]: r["completion"] for r in pairs(6)}

    def answer(messages, variant):
        known = right[messages[-1]["content"].split("\n\n")[0]]
        good = {"base": "no 0", "base, instructed": "no 1", "base, 2 shots": "no 2", "mine": ""}
        return f" {known}\n" if good[variant] in messages[-1]["content"] else "wrong"

    answering(monkeypatch, answer)
    monkeypatch.setattr(command, "check", lambda *_: None)  # the tiny base has room for no shots
    out = tmp_path / "scores.json"
    shots = write_jsonl(tmp_path / "train.jsonl", pairs(3, 50))
    flags = ("--adapter", f"mine={adapter}", "--instruction", "Be short.", "--json", out)
    assert run(data, base, *flags, "--shots", 2, "--examples", shots) == 0
    told = json.loads(out.read_text("utf-8"))
    assert [(v["name"], round(v["exact"], 3)) for v in told["variants"]] == [
        ("base", 0.167), ("base, instructed", 0.167), ("base, 2 shots", 0.167), ("mine", 1.0),
    ]  # fmt: skip
    assert told["rows"] == 6 and [v["adapter"] for v in told["variants"]][-1] == str(adapter)
    said = capsys.readouterr().out
    assert re.search(r"exact answers +16\.7% +16\.7% +16\.7% +100\.0%", said)
    assert "Peak memory" in said


def test_real_answers_of_the_base_and_of_an_adapter(base, adapter, data, tmp_path, capsys):
    """The columns are the model's own answers: with the adapter they are other ones."""
    out = tmp_path / "scores.json"
    assert run(data, base, "--adapter", adapter, "--json", out, "--rows", 4) == 0
    first, second = json.loads(out.read_text("utf-8"))["variants"]
    assert len(first["outputs"]) == 4 and first["outputs"] != second["outputs"]
    said = capsys.readouterr().out
    assert "4 prompts of my.jsonl" in said and "4 of 4 that differ" not in said
    assert "2 of 4 that differ" in said


def test_the_wards_records_get_the_houses_scores(ward_file, tmp_path, capsys, monkeypatch):
    base = make_base(tmp_path / "base", 0, limit=700)
    records = [json.loads(line) for line in ward_file.read_text().splitlines()]
    by_prompt = {r["prompt"]: r["completion"] for r in records[:3]}
    answering(monkeypatch, lambda m, _: by_prompt.get(m[-1]["content"], "Dx: ?"))
    out = tmp_path / "scores.json"
    assert run(ward_file, base, "--json", out) == 0
    (variant,) = json.loads(out.read_text("utf-8"))["variants"]
    given = [by_prompt.get(r["prompt"], "Dx: ?") for r in records]
    assert variant["house"]["cardiology"] == score_house("cardiology", records, given).to_dict()
    assert variant["exact"] == 0.6
    said = capsys.readouterr().out
    assert said.count("exact answers") == 1 and "cardiology: invented doses" in said


# -- how a variant asks ----------------------------------------------------------------------------


def test_an_instruction_takes_the_place_of_the_bare_one_and_of_nothing_else(ward_file, data):
    cases, _ = read_cases(ward_file)
    note = cases[0].messages[0]["content"].rsplit("\n\n", 1)[0]
    (message,) = instructed(cases[0], "house")
    assert message["content"] == f"{note}\n\n{house_instruction('cardiology')}"
    (message,) = instructed(cases[0], "Sum up.")
    assert message["content"] == f"{note}\n\nSum up."
    plain = read_cases(data)[0][0]
    (message,) = instructed(plain, "Sum up.")
    assert message["content"] == f"{pairs(1)[0]['prompt']}\n\nSum up."
    assert instructed(plain, None) == plain.messages
    own = replace(plain, messages=({"role": "user", "content": "Read one.\n\nAnd two."},))
    assert instructed(own, "Sum up.")[0]["content"] == "Read one.\n\nAnd two.\n\nSum up."


def test_shots_are_earlier_turns_and_one_lacks_a_dose(ward_file):
    cases, _ = read_cases(ward_file)
    whole = [c for c in cases if not c.house["facts"]["no_dose"]]
    lacking = [c for c in cases if c.house["facts"]["no_dose"]]
    assert whole and lacking
    assert choose_shots([*whole, *lacking], 1) == lacking[:1]
    assert choose_shots([lacking[0], *whole], 1) == lacking[:1]
    assert choose_shots(whole, 1) == whole[:1]
    assert choose_shots(cases, 2, scored=cases[:2])[0] == cases[2]
    with pytest.raises(ValueError, match="expected 1 to the 0 of --examples that are not scored"):
        choose_shots(cases[:2], 1, scored=cases)
    messages = chat(cases[0], "New.", cases[1:4])
    assert [m["role"] for m in messages] == ["user", "assistant"] * 3 + ["user"]
    assert [m["content"].endswith("\n\nNew.") for m in messages[::2]] == [True, False, False, True]
    assert [m["content"] for m in messages[1::2]] == [c.expected for c in cases[1:4]]


def test_chats_are_asked_for_their_last_answer_and_a_system_message_stays_first(tmp_path):
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    record = {"messages": [{"role": role, "content": text} for role, text in turns]}
    data = write_jsonl(tmp_path / "chat.jsonl", [record])
    (case,), _ = read_cases(data)
    assert case.expected == "d" and len(case.messages) == 4
    shot = read_cases(write_jsonl(tmp_path / "my.jsonl", pairs(1)))[0]
    roles = [m["role"] for m in chat(case, None, shot)]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


# -- what is refused -------------------------------------------------------------------------------

REFUSED = [
    (("--rows", 0), "got --rows 0, expected at least 1"),
    (("--shots", 2), "--shots and --examples"),
    (("--shots", 9, "--examples", "MY"), "1 to the 0 of --examples"),
    (("--shots", 0, "--examples", "MY"), "got --shots 0"),
    (("--instruction", " "), "empty --instruction"),
    (("--instruction", "house"), "my.jsonl:1 is no record of a house task"),
    (("--instruction", "word " * 60), "base, instructed: prompt"),
    (("--json", "no/such/file.json"), "--json no/such/file.json"),
    (("--adapter", "no/such"), "no/such"),
    (("--base", "no/such"), "no/such"),
    (("--data", "none.jsonl"), "none.jsonl"),
]


@pytest.mark.parametrize(("flags", "words"), REFUSED, ids=lambda x: " ".join(map(str, x))[:24])
def test_odd_settings_are_refused_before_anything_is_answered(
    base, data, capsys, monkeypatch, flags, words
):
    seen = answering(monkeypatch, lambda messages, variant: "")
    flags = [str(data) if flag == "MY" else flag for flag in flags]
    assert run(data, base, *flags) == 1
    errors = [line for line in capsys.readouterr().err.split("\n") if "error:" in line]
    assert len(errors) == 1 and words in errors[0]
    assert seen == []


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "my.jsonl is empty"),
        ([" ", ""], "my.jsonl holds nothing but blank lines"),
        ([{"text": "plain"}], "plain text has no answer"),
    ],
)
def test_a_file_without_a_case_is_refused(base, tmp_path, capsys, lines, words):
    assert run(write_jsonl(tmp_path / "my.jsonl", lines), base) == 1
    assert words in capsys.readouterr().err


def test_lines_without_an_answer_are_named(base, tmp_path, capsys, monkeypatch):
    answering(monkeypatch, lambda messages, variant: "")
    data = write_jsonl(tmp_path / "my.jsonl", ["{bad", *pairs(2), {"text": "plain"}])
    assert run(data, base) == 0
    said = capsys.readouterr().out
    assert "2 left out" in said and "my.jsonl:1" in said and "my.jsonl:4" in said
    assert "2 prompts of my.jsonl" in said

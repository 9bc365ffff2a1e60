"""Replay: how much of what, from where, and what a plan refuses."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

from minilora.hub import load_pretrained
from minilora.hub.bases import WARD_BASE
from minilora.lora import Adapter
from minilora.runs import AdaptPlan, run
from minilora.runs.data import read_file
from minilora.runs.replay import file_replay, ward_replay, ward_rows
from minilora.storage import sha256_file
from minilora.text import Tokenizer
from minilora.ward import HOUSE_INSTRUCTION, regression_suite
from tests.cli.conftest import pairs, write_jsonl
from tests.says import refusal


def test_the_wards_rows_are_its_groups_in_turn_and_never_the_houses_question():
    rows = ward_rows(500)
    assert Counter(row["task"].split("/")[0] for row in rows) == dict.fromkeys(
        ("public", "question", "formulary", "abbreviation", "refusal"), 100
    )
    assert [len(ward_rows(count)) for count in (1, 7, 2000)] == [1, 7, 2000]
    assert ward_rows(500) == rows != ward_rows(500, seed=1)
    made = [e.to_dict() for e in regression_suite("train", 200, 1)]
    assert any(row["prompt"].endswith(f"\n{HOUSE_INSTRUCTION}") for row in made)
    assert not any(row["prompt"].endswith(f"\n{HOUSE_INSTRUCTION}") for row in ward_rows(2000))


def test_no_replay_row_is_one_that_a_gate_asks():
    lines = (WARD_BASE.parent / "ward" / "regression.jsonl").read_text("utf-8").splitlines()
    asked = {row["prompt"] for row in map(json.loads, lines) if "name" in row["facts"]}
    assert asked and not asked & {row["prompt"] for row in ward_rows(2000)}


def test_a_share_of_what_is_trained_on_is_replay(base, tmp_path):
    _, tokenizer = load_pretrained(base)
    train = read_file(write_jsonl(tmp_path / "a.jsonl", pairs(90)), tokenizer, 64)
    other = read_file(write_jsonl(tmp_path / "b.jsonl", pairs(7, start=200)), tokenizer, 64)
    mixed = file_replay(0.25, other).mixed(train.examples, seed=3)
    assert len(mixed) == 120
    assert [e.ids.tolist() for e in mixed[:90]] == [e.ids.tolist() for e in train.examples]
    times = Counter(e.source for e in mixed[90:])  # a small file is repeated, each row as often
    assert len(times) == 7 and set(times.values()) == {4, 5}
    for one, twin in zip(
        mixed[90:], file_replay(0.25, other).mixed(train.examples, 3)[90:], strict=True
    ):
        assert one.source == twin.source and one.labels.tolist() == twin.labels.tolist()
    assert [e.source for e in file_replay(0.25, other).mixed(train.examples, 4)[90:]] != [
        e.source for e in mixed[90:]
    ]
    assert len(file_replay(0.001, other).mixed(train.examples, 0)) == 91


def test_the_wards_rows_are_learnt_as_its_notes_are():
    tokenizer = Tokenizer.from_folder(WARD_BASE)
    pool = ward_replay(0.2, tokenizer, 512).pool(10)
    rows = ward_rows(10)
    for example, row in zip(pool, rows, strict=True):
        labels = [int(i) for i in example.labels if i >= 0]
        assert row["completion"] in tokenizer.decode(labels)
        assert row["prompt"] in tokenizer.decode(example.ids.tolist())
    with refusal(ValueError, 3):
        ward_replay(0.2, tokenizer, 3).pool(10)


def test_a_plan_refuses_what_makes_no_sense(data, tmp_path):
    plan = AdaptPlan(data=data, out=tmp_path / "out")
    assert plan.replay == 0.0
    for share in (1.0, -0.1, float("nan")):
        with refusal(ValueError, "replay", share):
            replace(plan, replay=share)
    with refusal(ValueError, 0.2, "my-base", "--replay-data"):
        replace(plan, replay=0.2, base="my-base")
    with refusal(ValueError, str(data), "--replay"):
        replace(plan, replay_data=data)


def test_an_adapter_says_what_was_replayed(plan, data, tmp_path):
    old = write_jsonl(tmp_path / "old.jsonl", pairs(12, start=300))
    plan = replace(plan, replay=0.1, replay_data=old)
    result = run(plan)
    told = Adapter.read(tmp_path / "out").provenance["replay"]
    # Of 30 rows a tenth is held out; three are a tenth of them with what is left.
    assert told == {"share": 0.1, "rows": 3, "of": "old.jsonl", "sha256": sha256_file(old)}
    assert result.provenance["replay"] == told
    settings = json.loads((tmp_path / "out.run" / "run.json").read_text())["settings"]
    assert settings["replay"] == told
    plain = run(replace(plan, out=tmp_path / "plain", replay=0.0, replay_data=None))
    assert "replay" not in plain.provenance
    assert Adapter.read(tmp_path / "plain") != Adapter.read(tmp_path / "out")

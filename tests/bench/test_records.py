"""Records of the benchmark: what a summary keeps, what is read back, and what goals say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minilora.bench import records as r
from minilora.bench import summary as s
from minilora.bench import workloads as w
from minilora.bench.busy import Busy
from minilora.bench.race import Result, Turn
from tests.says import refusal

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "data" / "bench").glob("*.json"))


@pytest.fixture
def race(tiny):
    """A record of two rounds of ours, the matmuls and torch, in which torch takes twice as long."""
    tiny = w.Workload("S", tiny.config, tiny.rows, tiny.time, tiny.labels)
    seconds = {"minilora@1": 1.0, "matmul@1": 0.5, "torch@1": 2.0}
    memory = [{"base": 10, "growth": 4 * int(2 * took), "peak": 20} for took in seconds.values()]
    result = Result(tiny, w.JOBS["lora-qv"])
    result.about = {name: {"loss": 3.0, "loss_after": 2.5} for name in seconds}
    result.memory = {name: [held] for name, held in zip(seconds, memory, strict=True)}
    for factor in (1.0, 1.1234567891):
        result.rounds.append({n: Turn(took * factor, took, 0.0) for n, took in seconds.items()})
    return r.race_record(result)


def numbers_of(line):
    return line.over_torch, line.over_matmuls, line.memory, line.ours, line.theirs


def test_a_summary_says_what_the_record_says_without_its_turns(race):
    brief = r.summarised(race)
    assert "turns" in race["sides"]["torch@1"] and "turns" not in brief["sides"]["torch@1"]
    assert brief["sides"]["torch@1"]["clean_turns"] == 2
    assert brief["ratios"] == race["ratios"] and brief["best"] == race["best"]
    assert brief["ratios"][r.best_title("torch")]["pairs"] == 2
    (whole,), (short,) = s.speed_lines([race]), s.speed_lines([brief])
    assert numbers_of(whole)[:3] == numbers_of(short)[:3]
    assert short.ours.tokens_per_second == pytest.approx(whole.ours.tokens_per_second, rel=1e-5)
    assert r.summarised(brief) == brief


def test_goals_are_judged_by_their_side_of_the_aim(race):
    lines = {line.measure: line for line in s.goal_lines([race])}
    assert [(line.aim, line.value, line.met) for line in lines.values()] == [
        (1.5, 2.0, True),
        (1.6, 2.0, False),
    ]
    del race["ratios"][r.best_title("matmul")]
    race["ratios"][r.best_title("torch")]["median"] = None
    (line,) = s.goal_lines([race])
    assert line.value is None and line.met is None


def test_only_our_own_slow_down_has_a_goal(tiny):
    result = Busy(tiny, w.JOBS["lora-qv"], fair=2.0, alone=[4.0])
    for name, slow in (("minilora@2", 2.1), ("torch@2", 4.0)):
        result.pairs[name] = [(Turn(1.0, 1.0, 0.0), Turn(slow, 1.0, 0.0))]
        result.beside[name] = [2.0]
    record = r.busy_record(result)
    brief = r.summarised(record)
    assert "pairs" not in brief and brief["slowdowns"]["torch@2"]["pairs"] == 1
    for cell in (record, brief):
        ours, theirs = s.goal_lines([cell])
        assert (ours.aim, ours.value, ours.met) == (pytest.approx(2.2), 2.1, True)
        assert (theirs.aim, theirs.value, theirs.met) == (None, 4.0, None)


def test_what_is_written_is_read_back_and_files_are_joined(tmp_path, race):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    r.write_records(first, "minilora bench", {"CPU": "one"}, [race])
    r.write_records(second, "minilora bench --busy", {"dtype": "float32"}, [])
    command, about, records = r.read_records([first, second])
    assert command == "minilora bench; minilora bench --busy"
    assert about == {"CPU": "one", "dtype": "float32"} and records == [race]
    assert max(map(len, first.read_text().splitlines())) <= r.LINE + 100


def test_a_file_from_before_commands_were_noted_is_read(tmp_path, race):
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"about": {"CPU": "one"}, "results": [race]}, indent=1))
    assert r.read_records([path]) == ("", {"CPU": "one"}, [race])


@pytest.mark.parametrize("text", ["", "[]", "3", '{"about": {}}', '{"about": 3, "results": []}'])
def test_another_file_is_named(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with refusal(ValueError, "other.json"):
        r.read_records([path])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_is_a_summary_with_its_command(path):
    command, about, records = r.read_records([path])
    assert command.startswith("minilora bench ") and about["CPU"] and records
    assert [r.summarised(record) for record in records] == records
    assert len(path.read_text().splitlines()) < 200

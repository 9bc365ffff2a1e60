"""compare(plan): a base, its prompts and its adapters on the same rows, as values."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest

from minilora.hub.several import NamedAdapter
from minilora.runs import Reporter, run
from minilora.runs.compare import ComparePlan, compare
from tests.cli.conftest import pairs, write_jsonl
from tests.says import refusal


@pytest.fixture
def compare_plan(plan, data, tmp_path):
    """Base and one adapter of it on four rows."""
    run(plan)
    adapters = (NamedAdapter("mine", plan.out),)
    return ComparePlan(data=data, base=plan.base, adapters=adapters, rows=4)


def test_plan_and_comparison_are_values(compare_plan, tmp_path):
    result = compare(compare_plan)
    assert [one.variant.name for one in result.columns] == ["base", "mine"]
    assert [one.adapter for one in result.columns] == ["", str(compare_plan.adapters[0].folder)]
    assert all(len(one.outputs) == 4 for one in result.columns)
    assert list(result.seconds) == ["opening", "base", "mine"]
    assert pickle.loads(pickle.dumps(result)) == result
    assert pickle.loads(pickle.dumps(compare_plan)) == compare_plan
    again = compare(compare_plan)
    assert [one.outputs for one in again.columns] == [one.outputs for one in result.columns]


def test_scores_and_answers_are_written_where_they_are_wanted(compare_plan, tmp_path):
    out = tmp_path / "scores.json"
    result = compare(replace(compare_plan, json_file=out))
    written = json.loads(out.read_text("utf-8"))
    assert written == json.loads(json.dumps(result.to_dict()))
    assert written["rows"] == 4 and written["base_dtype"] == "float32"


class Listener(Reporter):
    """Notes which places are left out."""

    def __init__(self):
        self.sources = []

    def left_out(self, path, problems):
        self.sources += [problem.source for problem in problems]


def test_rows_that_can_not_be_asked_go_to_the_reporter(base, tmp_path):
    long = {"prompt": "word " * 60, "completion": "x"}
    data = write_jsonl(tmp_path / "my.jsonl", ["{bad", *pairs(2), long])
    listener = Listener()
    result = compare(ComparePlan(data=data, base=str(base)), listener)
    assert listener.sources == [f"{data}:1", f"{data}:4"] and len(result.cases) == 2
    write_jsonl(data, [long])
    with refusal(ValueError, f"{data}:1"):
        compare(ComparePlan(data=data, base=str(base)))


@pytest.mark.parametrize(
    "settings",
    [{"shots": 2}, {"examples": "e.jsonl"}, {"instruction": " "}, {"json_file": "no/such/x.json"},
     {"raw": True, "shots": 1, "examples": "e.jsonl"}],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused_with_the_plan(settings):
    option = {"json_file": "--json"}.get(next(iter(settings)), f"--{next(iter(settings))}")
    with refusal(ValueError, option):
        ComparePlan(data="d.jsonl", **settings)

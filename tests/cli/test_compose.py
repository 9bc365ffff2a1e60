"""`minilora compose`: what it writes, what it evaluates, and what it refuses before that."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from minilora.cli.app import main
from minilora.evaluation import variants
from minilora.evaluation.cases import read_cases
from minilora.evaluation.touched import Touched, right
from minilora.hub import load_pretrained
from minilora.lora import Adapter, LoRAConfig, attach, combine
from minilora.ward.steering import steering_examples
from tests.cli.conftest import pairs, write_jsonl
from tests.says import error_line, names


def make_adapter(base, folder, seed, r=2):
    model, tokenizer = load_pretrained(base)
    handle = attach(model, LoRAConfig(r, 2 * r), np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    for layer in handle.layers.values():
        layer.lora_B.data = rng.standard_normal(layer.lora_B.shape).astype(np.float32)
    return handle.adapter(base_name=str(base), tokenizer=tokenizer).write(folder)


@pytest.fixture
def two(base, tmp_path):
    return [make_adapter(base, tmp_path / f"a:{seed}", seed, seed) for seed in (1, 2)]


def run(*flags):
    return main(["compose", *map(str, flags)])


@pytest.mark.parametrize("how", ["cat", "ties"])
def test_the_folder_holds_what_combine_gives(two, tmp_path, how, capsys):
    out = tmp_path / "out"
    assert run(f"one={two[0]}", f"two={two[1]}:-0.5", "--how", how, "--out", out) == 0
    adapters = [Adapter.read(folder) for folder in two]
    expected, report = combine(adapters, (1, -0.5), how, names=("one", "two"))
    assert Adapter.read(out) == expected
    said = capsys.readouterr().out
    assert names(said, "one at 1", "two at -0.5", f"{report.error:.2%}")


def test_every_task_is_evaluated_with_every_adapter(base, two, tmp_path, monkeypatch, capsys):
    files = [write_jsonl(tmp_path / f"{i}.jsonl", pairs(4, 4 * i)) for i in range(3)]
    right_answers = {r["prompt"]: r["completion"] for r in pairs(12)}
    share = {
        "base: one": 0, "base: two": 1, "base: both": 0,
        "one: one": 4, "one: two": 0, "one: both": 1,
        "two: one": 1, "two: two": 2, "two: both": 2,
        "composition: one": 3, "composition: two": 1, "composition: both": 4,
    }  # fmt: skip
    asked = []

    def fake(model, tokenizer, prompts, room, progress="", workers=1):
        asked.append(progress)
        known = [right_answers[p[-1]["content"]] for p in prompts]
        return [text if i < share[progress] else "no" for i, text in enumerate(known)]

    monkeypatch.setattr(variants, "answers", fake)
    out, told = tmp_path / "out", tmp_path / "told.json"
    tasks = [f"--eval={n}={f}" for n, f in zip(("one", "two", "both"), files, strict=True)]
    code = run(f"one={two[0]}:1", f"two={two[1]}", "--out", out, *tasks, "--json", told)
    assert code == 0 and sorted(asked) == sorted(share)
    result = json.loads(told.read_text("utf-8"))
    found = result["tasks"]
    assert found["alone"] == {
        "one": {"one": 1.0, "two": 0.0, "both": 0.25},
        "two": {"one": 0.25, "two": 0.5, "both": 0.5},
    }
    assert found["normalised"] == {"one": 0.75, "two": 0.5, "both": None}
    assert found["mean_normalised"] == 0.625 and found["worst_normalised"] == 0.5
    assert found["jointly"] == pytest.approx(8 / 12)
    assert [(p["disturbed"], p["by"]) for p in result["forecast"]] == [
        ("one", "two"), ("two", "one"),
    ]  # fmt: skip
    one, two_ = (p["on_inputs"] for p in result["forecast"])
    assert one > 0 and two_ > 0
    assert re.search(r"one +4 +0\.0% +100\.0% +25\.0% +75\.0% +75\.0%", capsys.readouterr().out)


def test_real_answers_are_those_of_base_and_adapters(base, two, tmp_path, capsys):
    file, told = write_jsonl(tmp_path / "x.jsonl", pairs(3)), tmp_path / "told.json"
    out = tmp_path / "out"
    code = run(f"one={two[0]}", f"two={two[1]}", "--out", out, f"--eval=one={file}", "--rows", 2,
               "--json", told)  # fmt: skip
    assert code == 0
    found = json.loads(told.read_text("utf-8"))
    assert found["tasks"]["rows"] == {"one": 2} and found["composition"]["error"] < 1e-6


def test_a_rule_counts_as_kept_beside_others(tmp_path):
    (one,) = steering_examples(["tone"], "heldout", 1, 0, 0.0)
    (both,) = steering_examples(["tone", "domain"], "heldout", 1, 0, 0.0)
    file = write_jsonl(tmp_path / "tone.jsonl", [one.to_dict()])
    (case,) = read_cases(file).cases
    assert case.rules == ("tone",)
    assert right(case, one.completion) and right(case, both.completion)
    assert not right(case, one.completion.replace("Please", "Kindly"))


def test_a_task_whose_adapter_gets_nothing_has_no_share():
    found = Touched({"a": 2}, {"a": 0.0}, {"a": {"a": 0.0}}, {"a": 0.5})
    assert found.normalised("a") is None and found.mean_normalised is None
    assert found.jointly == 0.5


@pytest.mark.parametrize(
    "flags, said",
    [
        (["one"], ("one", "NAME=DIR")),
        (["one={0}", "one={1}"], ("one",)),
        (["one={0}", "two={1}", "--how", "mean"], ("mean", "cat")),
        (["one={0}", "two={1}", "--how", "svd"], ("svd",)),
        (["one={0}", "two={1}:inf"], ("inf", "two")),
        (["one={0}", "two={1}", "--eval", "x"], ("x", "NAME=FILE")),
        (["one={0}", "two={1}", "--eval", "x=nowhere.jsonl"], ("nowhere.jsonl",)),
        (["one={0}", "two=nowhere"], ("nowhere",)),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    two, tmp_path, capsys, flags, said
):
    out = tmp_path / "out"
    assert run(*(flag.format(*two) for flag in flags), "--out", out) == 1
    assert names(error_line(capsys), *said) and not out.exists()


def test_adapters_of_two_bases_are_refused(two, other_base, tmp_path, capsys):
    other = make_adapter(other_base, tmp_path / "other", 3)
    assert run(f"one={two[0]}", f"other={other}", "--out", tmp_path / "out") == 1
    assert names(error_line(capsys), "one", "other")


def test_a_folder_that_holds_something_else_stays(two, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert run(f"one={two[0]}", "--out", out) == 1
    assert names(error_line(capsys), out) and (out / "thesis.txt").read_text() == "mine"

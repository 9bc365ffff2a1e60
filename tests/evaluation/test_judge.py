"""Judge: the same questions before and after, what it says of answers, and when it shows a bar."""

from __future__ import annotations

from copy import deepcopy

import pytest

from minilora.evaluation import HouseRecords, Judge, Scores
from minilora.evaluation import judge as judging
from minilora.evaluation.cases import ward_case
from minilora.hub import load_pretrained
from minilora.nn import NotFiniteError
from minilora.text import Record, encode_record
from minilora.text.answers import answers, prompt_ids
from minilora.training import evaluate
from minilora.ward import house_examples, regression_suite, score_house, score_regression
from tests.cli.conftest import make_base, pairs
from tests.says import refusal


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Model and tokenizer with room for a ward's note."""
    return load_pretrained(make_base(tmp_path_factory.mktemp("bases") / "wide", 0, limit=700))


def examples_of(tokenizer, count):
    return [
        encode_record(tokenizer, Record(str(i), text=f"{r['prompt']} {r['completion']}"))
        for i, r in enumerate(pairs(count))
    ]


def test_a_judge_asks_only_what_it_has(opened):
    model, tokenizer = opened
    assert Judge(tokenizer)(model, "before") == Scores()
    assert Scores().to_dict() == {}
    examples = examples_of(tokenizer, 3)
    scores = Judge(tokenizer, examples)(model, "before")
    assert scores.to_dict() == {
        "loss": pytest.approx(evaluate(model, examples, pad_id=tokenizer.pad_id)), "loss_rows": 3,
    }  # fmt: skip
    assert scores.house == {} and scores.suite is None


def test_house_and_suite_are_scored_on_the_models_own_answers(opened):
    model, tokenizer = opened
    records = [e.to_dict() for e in house_examples("pediatrics", "heldout", 2, seed=1)]
    suite = regression_suite("heldout", 1, 3)
    judge = Judge(tokenizer, houses=[HouseRecords("pediatrics", records, 0, 7)], suite=suite)
    scores = judge(model, "after")
    texts = answers(model, tokenizer, [r["prompt"] for r in records], 7)
    assert scores.outputs == {"pediatrics": texts}
    assert scores.house == {"pediatrics": score_house("pediatrics", records, texts)}
    asked = answers(model, tokenizer, [example.prompt for example in suite])
    assert scores.suite == score_regression(suite, asked)
    ids = [tuple(prompt_ids(tokenizer, r["prompt"])) for r in records]
    assert judge.newest == dict(zip(ids, texts, strict=True))
    assert "house" in scores.to_dict() and "outputs" not in scores.to_dict()


@pytest.mark.parametrize("part", ["houses", "suite", "kept"])
def test_the_answers_to_every_part_are_dealt_to_its_processes(opened, part, monkeypatch):
    model, tokenizer = opened
    records = [e.to_dict() for e in house_examples("pediatrics", "heldout", 2, seed=1)]
    parts = {
        "houses": [HouseRecords("pediatrics", records, 0, 7)],
        "suite": regression_suite("heldout", 1, 3),
        "kept": {"old": [ward_case(record, "old:1") for record in records]},
    }
    dealt = []

    def answered(model, tokenizer, prompts, *_, workers, **__):
        dealt.append(workers)
        return [""] * len(prompts)

    monkeypatch.setattr(judging, "answers", answered)
    Judge(tokenizer, **{part: parts[part]}, workers=3)(model, "before")
    assert dealt == [3]


@pytest.mark.parametrize("part", ["examples", "houses", "suite"])
def test_a_model_of_which_no_number_comes_is_not_scored(opened, part, recwarn):
    model, tokenizer = deepcopy(opened[0]), opened[1]
    records = [e.to_dict() for e in house_examples("cardiology", "heldout", 1, seed=1)]
    parts = {
        "examples": examples_of(tokenizer, 2),
        "houses": [HouseRecords("cardiology", records, 0, 3)],
        "suite": regression_suite("heldout", 1, 3),
    }
    judge = Judge(tokenizer, **{part: parts[part]})
    judge(model, "before")
    model.model.norm.weight.data[:] = 3e38
    with refusal(NotFiniteError):
        judge(model, "after")
    assert not recwarn.list


def test_every_part_shows_a_bar_where_bars_are_wanted(opened, capsys):
    model, tokenizer = opened
    records = [e.to_dict() for e in house_examples("cardiology", "heldout", 1, seed=1)]
    parts = {
        "examples": examples_of(tokenizer, 2),
        "houses": [HouseRecords("cardiology", records, 0, 3)],
        "suite": regression_suite("heldout", 1, 3),
    }
    for name, part in parts.items():
        Judge(tokenizer, **{name: part})(model, "before")
        assert capsys.readouterr().err == ""
        Judge(tokenizer, **{name: part}, bars=True)(model, "before")
        drawn = capsys.readouterr().err
        assert "before" in drawn and f"{len(part)}/{len(part)}" in drawn

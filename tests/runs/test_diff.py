"""diff(plan): two adapters or an adapter and its base, as values, JSON and a page."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from minilora.hub.several import BASE
from minilora.runs import run
from minilora.runs.diff import DiffPlan, diff
from minilora.runs.diff_page import because
from tests.cli.conftest import pairs, write_jsonl
from tests.says import refusal


@pytest.fixture
def diff_plan(plan, tmp_path):
    """The base and one adapter of it, on rows with signs that HTML has a use for."""
    run(replace(plan, lr=0.3))
    rows = [{"prompt": f"<b>{r['prompt']}</b> & co", "completion": r["completion"]}
            for r in pairs(6)]  # fmt: skip
    data = write_jsonl(tmp_path / "asked.jsonl", rows)
    return DiffPlan(a=BASE, b=str(plan.out), data=data, base=plan.base)


def test_plan_and_diff_are_values(diff_plan):
    found = diff(diff_plan)
    assert found.names == ("base", diff_plan.b) and len(found.modules) == 4
    assert pickle.loads(pickle.dumps(diff_plan)) == diff_plan
    assert pickle.loads(pickle.dumps(found)).to_dict() == found.to_dict()
    again = diff(diff_plan)
    assert again.to_dict() == found.to_dict()
    answered = found.answered
    assert answered.changes and len(answered.causes) == len(answered.changes)
    outputs = [score.outputs for score in answered.scores]
    differing = [i for i, (x, y) in enumerate(zip(*outputs, strict=True)) if x != y]
    assert [change.number for change in answered.changes] == differing
    assert all(cause.modules for cause in answered.causes)
    pairs_ = zip(answered.changes, answered.causes, strict=True)
    assert answered.whole == sum(change.a == cause.answer for change, cause in pairs_)


def test_the_other_way_round_the_same_answers_hang_on_the_same_modules(diff_plan):
    found = diff(diff_plan).answered
    turned = diff(replace(diff_plan, a=diff_plan.b, b=BASE)).answered
    assert [c.modules for c in turned.causes] == [c.modules for c in found.causes]
    assert turned.whole == found.whole
    assert [(c.a, c.b) for c in turned.changes] == [(c.b, c.a) for c in found.changes]
    assert [c.parting.a.in_a for c in turned.changes] == pytest.approx(
        [c.parting.b.in_b for c in found.changes]
    )


def test_fewer_causes_are_looked_for_where_that_is_asked(diff_plan):
    found = diff(replace(diff_plan, causes=1))
    told = found.to_dict()
    assert [one["cause"] is None for one in told["changed"]][:2] == [False, True]
    assert told["causes"]["of"] == 1
    assert not diff(replace(diff_plan, causes=0)).answered.causes


def test_without_data_no_model_is_opened(diff_plan):
    found = diff(replace(diff_plan, data=None, base="no-such-base"))
    assert found.answered is None and len(found.modules) == 4
    assert found.settings["r"] == (None, 2)


class Page(HTMLParser):
    """Which tags and addresses a page has, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_json_and_page_tell_all_of_it(diff_plan, tmp_path):
    files = dict(json_file=tmp_path / "d.json", html_file=tmp_path / "d.html")
    found = diff(replace(diff_plan, **files))
    assert json.loads(files["json_file"].read_text("utf-8")) == json.loads(
        json.dumps(found.to_dict())
    )
    text = files["html_file"].read_text("utf-8")
    page = Page(text)
    change = found.answered.changes[0]
    assert "<b>Dose of" in page.text and "&lt;b&gt;Dose of" in text  # escaped, and so shown
    assert " ".join(change.b.split()) in " ".join(page.text.split())
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    assert not {name for name, _ in page.attributes} & {"src", "href", "action", "onload"}
    assert not re.search(r"@import|url\(", text)
    assert "prefers-color-scheme: dark" in text and "color-scheme: light dark" in text


def test_plain_texts_have_a_loss(diff_plan, tmp_path):
    data = write_jsonl(tmp_path / "texts.jsonl", [{"text": "aspirin heparin"}] * 2)
    scores = diff(replace(diff_plan, data=data)).answered.scores
    assert [score.loss_rows for score in scores] == [2, 2] and scores[0].loss != scores[1].loss


def test_what_makes_no_sense_is_refused(diff_plan, tmp_path):
    with refusal(ValueError, BASE):
        diff(replace(diff_plan, b=BASE))
    with refusal(ValueError, "--causes", -1):
        replace(diff_plan, causes=-1)
    for option in ("json", "html"):
        with refusal(ValueError, f"--{option}"):
            replace(diff_plan, **{f"{option}_file": tmp_path})
    with refusal(ValueError, "no-such-adapter"):
        diff(replace(diff_plan, b="no-such-adapter"))


def test_two_adapters_exchange_modules_and_the_base_leaves_them_out(diff_plan, plan, tmp_path):
    run(replace(plan, lr=0.3, seed=5, out=tmp_path / "other"))
    for a, both in ((str(tmp_path / "other"), True), (BASE, False)):
        told = diff(replace(diff_plan, a=a)).to_dict()
        assert told["both_adapters"] == both
        cause = {"modules": ["m.x"], "single": ["m.x", "m.y"]}
        assert because(cause, told).startswith("With " if both else "Without ")
        assert "1 other" in because(cause, told)
        assert because({"modules": [], "single": []}, told).startswith("No set")
        assert because({"modules": ["m.x", "m.y"], "single": []}, told).startswith("No single")

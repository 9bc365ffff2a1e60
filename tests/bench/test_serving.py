"""The load on a server: what is asked, what it comes to, and that a wrong answer is seen."""

from __future__ import annotations

import json
import sys
from itertools import islice

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from minilora.bench.serving import (
    ADAPTERS,
    Answer,
    Ask,
    Load,
    adapters_for,
    check,
    main,
    rate_of,
    requests_of,
)
from minilora.hub.bases import open_base
from minilora.text.answers import prompt_ids


def test_requests_of_each_kind():
    notes = [[1], [2], [3]]
    asks = {
        work: list(islice(requests_of(work, notes), 20)) for work in ("base", "mixed", "shared")
    }
    assert [one.note for one in asks["base"][:4]] == [0, 1, 2, 0]
    assert {one.adapter for one in asks["base"]} == {None}
    assert [one.adapter for one in asks["mixed"][:9]] == [*range(ADAPTERS), 0]
    assert [one.note for one in asks["shared"]] == [0] * 8 + [1] * 8 + [2] * 4
    assert all(one.ids == notes[one.note] for own in asks.values() for one in own)


def test_rates():
    ask = Ask(0, [1], None)
    whole = [Answer(ask, 0.0, 1.0, 3.0, tokens=21), Answer(ask, 2.0, 4.0, 5.0, tokens=31)]
    cut = Answer(ask, 5.0, 6.0, tokens=8)
    rate = rate_of(Load("minilora", "base", 2, 10.0, 4.0, [*whole, cut, Answer(ask, 9.0)]))
    assert (rate.tokens, rate.by_cpu, rate.answers, rate.done) == (6.0, 15.0, 0.2, 2)
    assert (rate.first, rate.whole, rate.pace) == (1.0, 3.0, 20.0)


def test_rates_of_so_many_answers_each_are_until_the_last():
    ask = Ask(0, [1], None)
    whole = [Answer(ask, 0.0, 1.0, 3.0, tokens=21), Answer(ask, 2.0, 4.0, 5.0, tokens=31)]
    rate = rate_of(Load("minilora", "base", 2, 600.0, 4.0, whole))
    assert (rate.seconds, rate.tokens, rate.answers) == (5.0, 10.4, 0.4)


def test_activated_adapters_act_from_the_answer_on():
    model, tokenizer = open_base("ward-base")
    invocation = adapters_for(model, tokenizer, "shared")[0].config.invocation
    assert prompt_ids(tokenizer, "x")[-len(invocation) :] == list(invocation)
    assert adapters_for(model, tokenizer, "mixed")[0].config.invocation is None


@pytest.mark.slow
@pytest.mark.processes
def test_a_load_is_measured_and_a_wrong_answer_is_seen(tmp_path, monkeypatch):
    figures, told = tmp_path / "figures.json", tmp_path / "answers.json"
    command = ["serving", "--clients", "3", "--seconds", "1", "--work", "shared"]
    outputs = ["--json", str(figures), "--answers", str(told)]
    monkeypatch.setattr(sys, "argv", [*command, *outputs])
    main()
    rates = json.loads(figures.read_text())["rates"]
    assert [one["work"] for one in rates] == ["shared"]
    assert all(one["tokens"] > 0 and one["by_cpu"] > 0 for one in rates)
    answers = json.loads(told.read_text())[:4]
    checked = check("ward-base", answers)
    assert sum(one["answers"] for one in checked.values()) == len(answers)
    assert sum(one["as alone"] for one in checked.values()) == len(answers)
    answers[0][3] += "."
    assert sum(one["as alone"] for one in check("ward-base", answers).values()) == len(answers) - 1

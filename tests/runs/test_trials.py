"""Trials: each is done once, one that fails is named and done again, and any error is its own."""

from __future__ import annotations

import pytest

from minilora.runs import trials
from minilora.runs.trials import trials_in
from tests.says import names, refusal


def in_this_process(points, jobs=0, work=None):
    return map(work, points)


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "on_this_machine", in_this_process)
    return tmp_path / "out"


def doubled(told):
    if told["n"] < 0:
        raise KeyError(f"no {told['n']}")  # of no kind that a trial is known to raise
    return {"n": 2 * told["n"]}


def test_results_come_in_the_order_of_the_settings_and_once(out):
    done = []

    def work(told):
        done.append(told["n"])
        return doubled(told)

    for _ in range(2):
        with trials_in(out, {"a": 1}, work) as some:
            assert some.run([{"n": n} for n in (3, 1, 3)]) == [{"n": 6}, {"n": 2}, {"n": 6}]
    assert done == [3, 1]


def test_one_that_fails_is_named_after_the_others_are_done_and_is_done_again(out):
    settings = [{"n": n} for n in (-7, 1, 2)]
    with trials_in(out, {}, doubled) as some, refusal(ValueError, "KeyError", -7):
        some.run(settings)
    asked = []

    def work(told):
        asked.append(told["n"])
        return {"n": 0}

    with trials_in(out, {}, work) as some:
        assert some.run(settings) == [{"n": 0}, {"n": 2}, {"n": 4}]
    assert asked == [-7]


def test_a_folder_of_other_settings_or_in_use_is_refused(out):
    with trials_in(out, {"a": 1}, doubled):
        with pytest.raises(ValueError) as caught, trials_in(out, {"a": 1}, doubled):
            pass
        assert names(caught, "ledger.run")
    with refusal(ValueError, "ledger.jsonl"), trials_in(out, {"a": 2}, doubled):
        pass

"""why(plan): notes ranked for an answer and as suspects, over a run's checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from minilora.hub import load_pretrained
from minilora.lora import Adapter
from minilora.runs import RunFolder, run
from minilora.runs.data import read_file
from minilora.runs.why import WhyPlan, run_moments, why, write_without
from minilora.training.checkpoint import checkpoints
from tests.cli.conftest import pairs, write_jsonl
from tests.says import refusal

ASKED = {"prompt": "Dose of aspirin no 40?", "completion": "none given."}


@pytest.fixture
def trained(plan, tmp_path):
    """The plan of an adapter that was made, with all its checkpoints."""
    held = write_jsonl(tmp_path / "held.jsonl", [ASKED] * 3)
    made = replace(plan, eval_data=held, steps=20, keep_checkpoints=True)
    run(made)
    return made


@pytest.fixture
def why_plan(trained):
    return WhyPlan(adapter=trained.out, data=trained.data, eval_data=trained.eval_data,
                   base=trained.base, row=1)  # fmt: skip


def by_source(found):
    return {note.source: note for note in found.notes}


def test_a_training_note_that_is_asked_about_is_its_own_best_teacher(why_plan):
    note = pairs(30)[4]
    asked = replace(why_plan, row=None, prompt=note["prompt"], answer=note["completion"], moments=1)
    found = why(asked)
    first, *others = sorted(found.notes, key=lambda one: -one.cosine)
    assert first.source.endswith(":5") and first.cosine == pytest.approx(1, abs=1e-6)
    assert all(one.cosine < 0.999 for one in others)
    assert first.score == pytest.approx(first.own, rel=1e-6)
    assert found.notes[0].completion and len(found.notes) == 30 and len(found.steps) == 1
    scores = [one.score for one in found.notes]
    assert scores == sorted(scores, reverse=True)
    told = found.to_dict()
    assert json.loads(json.dumps(told)) == told and told["asked"]["expected"] is None


def test_of_a_wrong_answer_what_the_right_one_shares_is_taken_off(why_plan):
    wrong = why(replace(why_plan, answer="heparin: 5 mg."))
    assert wrong.asked.is_wrong and wrong.asked.expected == "none given."
    own = replace(why_plan, row=None, prompt=ASKED["prompt"])
    bad, good = (
        by_source(why(replace(own, answer=text))) for text in ("heparin: 5 mg.", "none given.")
    )
    for source, note in by_source(wrong).items():
        expected = bad[source].score - good[source].score
        assert note.score == pytest.approx(expected, rel=1e-3, abs=1e-4)
    right = why(replace(why_plan, answer="none given."))
    assert not right.asked.is_wrong
    assert [n.source for n in right.notes] == sorted(good, key=lambda s: -good[s].score)


def test_without_an_answer_it_is_the_adapters_own(why_plan):
    found = why(replace(why_plan, row=None, prompt="Dose of aspirin no 40?", moments=1))
    assert found.asked.expected is None and found.asked.answer


@pytest.mark.parametrize("by", ["influence", "own", "loss"])
def test_suspects_are_ranked_and_left_out_of_a_copy(why_plan, by, tmp_path):
    clean = tmp_path / "clean.jsonl"
    found = why(replace(why_plan, row=None, suspects=0.1, by=by, clean=clean))
    if by == "influence":  # the three trusted rows are one and the same
        own = by_source(why(replace(why_plan, answer="none given.")))
        expected = {source: -3 * own[source].score for source in own}
    else:
        expected = {one.source: getattr(one, by) for one in found.notes}
    for note in found.notes:
        assert note.score == pytest.approx(expected[note.source], rel=1e-4, abs=1e-4)
    out = {int(note.source.rpartition(":")[2]) for note in found.notes[:3]}
    kept = [row for number, row in enumerate(pairs(30), 1) if number not in out]
    assert found.left == 27
    assert [json.loads(line) for line in clean.read_text("utf-8").splitlines()] == kept


def test_checkpoints_are_spread_over_the_run(trained):
    adapter, folder = Adapter.read(trained.out), RunFolder(trained.out)
    saved = [int(path.name[5:]) for path in checkpoints(folder.checkpoints)]
    assert len(saved) == 10
    for count, expected in ((1, [saved[4]]), (10, saved), (99, saved)):
        moments, steps = run_moments(trained.out, adapter, count)
        assert list(steps) == expected
    rates = {r["step"]: r["lr"] for r in map(json.loads, (folder.path / "history.jsonl").open())}
    assert [one.rate for one in moments] == [rates[step] for step in steps]
    last = moments[-1].factors
    for name in adapter.modules:  # 20 steps, and a checkpoint after every second
        assert all(map(np.array_equal, last[name], adapter.factors(name)))


def test_without_checkpoints_the_adapter_itself_is_all_there_is(plan):
    run(plan)
    moments, steps = run_moments(plan.out, Adapter.read(plan.out), 3)
    assert steps == () and len(moments) == 1 and moments[0].rate == 1
    found = why(WhyPlan(adapter=plan.out, data=plan.data, base=plan.base, prompt="Dose of x?"))
    # A tenth was held out, and is none of the training notes.
    assert len(found.notes) == 27 and found.steps == ()


def test_the_notes_are_those_that_were_trained_on(why_plan, trained, tmp_path):
    other = write_jsonl(tmp_path / "other.jsonl", pairs(12))
    with refusal(ValueError, trained.out, other):
        why(replace(why_plan, data=other))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"row": None}, ["--row", "--prompt", "--suspects"]),
        ({"prompt": "x"}, ["--row", "--prompt"]),
        ({"row": 0}, ["--row", 0]),
        ({"eval_data": None}, ["--row", "--eval"]),
        ({"row": None, "suspects": 1.5}, ["--suspects", 1.5]),
        ({"row": None, "suspects": 0.1, "eval_data": None}, ["--suspects", "--eval"]),
        ({"row": None, "suspects": 0.1, "by": "luck"}, ["--by", "luck"]),
        ({"clean": "x"}, ["--clean"]),
        ({"moments": 0}, ["--checkpoints", 0]),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, named):
    settings = dict(adapter="a", data="d", eval_data="e", row=1)
    with refusal(ValueError, *named):
        WhyPlan(**{**settings, **changes})


def test_a_row_that_is_not_there_is_refused(why_plan):
    with refusal(ValueError, "--row", 9):
        why(replace(why_plan, row=9))


def test_only_lines_can_be_left_out(base, tmp_path):
    path = tmp_path / "array.json"
    path.write_text(json.dumps(pairs(3)))
    file = read_file(path, load_pretrained(base)[1], 64)
    with refusal(ValueError, "--clean", path):
        write_without(file, set(), tmp_path / "out.jsonl")

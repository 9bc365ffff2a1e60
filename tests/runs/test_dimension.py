"""Intrinsic dimension: the trials, the best rate by other rows, d90, and a stopped measurement."""

from __future__ import annotations

import json
import shutil
import statistics
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from matplotlib.image import imread

from minilora.cli.app import main
from minilora.runs import trials
from minilora.runs.dimension import (
    Curve,
    DimensionPlan,
    Level,
    measure,
    run_trial,
    settings_of,
)
from minilora.runs.sweep.pools import Outcome
from minilora.runs.trials import DIVERGED
from minilora.training import DivergedError
from tests.cli.conftest import pairs, write_jsonl
from tests.says import names, refusal


@pytest.fixture
def plan(base, tmp_path):
    return DimensionPlan(
        data=write_jsonl(tmp_path / "train.jsonl", pairs(20)),
        eval_data=write_jsonl(tmp_path / "eval.jsonl", pairs(32)[20:]),
        bases=(str(base),), dimensions=(5, 50), steps_a_weight=(0.001, 0.01), seeds=2, steps=3,
        batch_size=4, rows=20, choose_rows=4, report_rows=6,
    )  # fmt: skip


def known(trial):
    """A training that is not run: the larger rate is the better, more directions as well."""
    loss, told = 4.0, trial.told
    if told["step_a_weight"]:
        gain = {5: 1.0, 50: 2.8, None: 3.0}[told["d"]]
        best = told["step_a_weight"] in (0.01, 0.0015)
        loss -= gain * (1.0 if best else 0.5) - 0.1 * told["seed"]
    return Outcome(trial, {"choose_loss": loss, "loss": loss + 0.5, "exact": 0.5})


def here(points, jobs=0, work=None):
    return map(known, points)


def test_the_curve_takes_each_best_rate_and_all_seeds(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "on_this_machine", here)
    curves = measure(replace(plan, starts=("pretrained",)), tmp_path / "out")
    (curve,) = curves
    assert [(level.d, level.step_a_weight) for level in curve.levels] == [
        (5, 0.01), (50, 0.01), (None, 0.01),
    ]  # fmt: skip
    assert curve.levels[1].loss == pytest.approx((1.7, 1.8))
    assert curve.before == 4.5
    assert curve.threshold == pytest.approx(4.5 - 0.9 * (4.5 - 1.55))
    assert curve.d90 == 50
    # From 3.55 at d 5 to 1.75 at d 50, straight over log d, 1.845 is crossed at this share.
    assert curve.d90_between == pytest.approx(5 * 10 ** ((3.55 - 1.845) / (3.55 - 1.75)))
    written = json.loads((tmp_path / "out" / "dimension.json").read_text())
    assert written == json.loads(json.dumps({"curves": [curve.to_dict()]}))


def test_each_base_has_a_curve_of_its_own(plan, base, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(base, other)

    def work(points, jobs=0, work=None):
        for point in points:
            outcome = known(point)
            if point.told["base"] == str(other) and point.told["d"] == 5:
                outcome.result["loss"] = 1.6
            yield outcome

    monkeypatch.setattr(trials, "on_this_machine", work)
    both = replace(plan, bases=(str(base), str(other)), starts=("pretrained",))
    curves = measure(both, tmp_path / "out")
    assert [(c.base, c.d90) for c in curves] == [(str(base), 50), (str(other), 5)]
    with refusal(ValueError, "nowhere"):
        measure(replace(plan, bases=(str(base), "nowhere")), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_no_dimension_may_be_enough():
    levels = (Level("random", 5, 0.01, (3.0,), (0.0,)), Level("random", None, 0.01, (1.0,), (1.0,)))
    assert Curve("tiny", "random", 99, 4.0, 0.0, levels).d90 is None
    assert Curve("tiny", "random", 99, 4.0, 0.0, levels).d90_between is None
    assert Curve("tiny", "random", 99, 4.0, 0.0, levels).d90_exact is None


def test_where_the_first_dimension_is_enough_nothing_is_between():
    levels = tuple(
        Level("random", d, 0.01, (loss,), (1.0,))
        for d, loss in ((5, 1.1), (50, 2.0), (500, 1.1), (None, 1.0))
    )
    curve = Curve("tiny", "random", 999, 4.0, 0.0, levels)  # it crosses 1.3 again, after 50
    assert curve.d90 == 5 and curve.d90_between is None
    later = replace(curve, levels=levels[1:])
    assert later.d90 == 500 and 50 < later.d90_between < 500


def test_by_exact_answers_more_may_be_needed_than_by_the_loss():
    levels = tuple(
        Level("pretrained", d, 0.01, (loss,), (exact,))
        for d, loss, exact in ((5, 0.3, 0.5), (50, 0.1, 0.9), (None, 0.0, 1.0))
    )
    curve = Curve("tiny", "pretrained", 99, 4.0, 0.0, levels)
    assert (curve.d90, curve.d90_exact) == (5, 50)
    blank = tuple(replace(level, exact=(0.0,)) for level in levels)
    assert replace(curve, levels=blank).d90_exact is None


def test_what_was_measured_is_not_measured_again(plan, tmp_path, monkeypatch):
    asked = []

    def counting(points, jobs=0, work=None):
        asked.extend(points)
        return map(known, points)

    monkeypatch.setattr(trials, "on_this_machine", counting)
    first = measure(plan, tmp_path / "out")
    count = len(asked)
    assert count == len({t.id for t in asked}) == 2 * (1 + 3 * 2 + 3)
    assert measure(plan, tmp_path / "out") == first and len(asked) == count
    with refusal(ValueError, "ledger.jsonl"):
        measure(replace(plan, steps=4), tmp_path / "out")


def test_rates_are_chosen_by_the_first_rows_and_the_others_are_told(plan, monkeypatch):
    losses, asked = [], []

    def loss(model, examples, pad_id):
        losses.append([example.ids.tolist() for example in examples])
        return float(len(examples))

    def score(model, tokenizer, cases, variant, room):
        asked.extend(case.expected for case in cases)
        return SimpleNamespace(exact=0.25)

    monkeypatch.setattr("minilora.runs.dimension.evaluate", loss)
    monkeypatch.setattr("minilora.runs.dimension.score_variant", score)
    told = run_trial(settings_of(plan, plan.bases[0], "pretrained", None, 0.0, 0))
    assert told == {"choose_loss": 4.0, "loss": 6.0, "exact": 0.25}
    assert not [ids for ids in losses[0] if ids in losses[1]]
    assert asked == [row["completion"] for row in pairs(32)[24:30]]


@pytest.mark.parametrize("scaled", [False, True])
def test_a_weight_moves_as_far_whatever_the_dimension(plan, monkeypatch, scaled):
    trained = []
    monkeypatch.setattr(
        "minilora.runs.dimension.fit",
        lambda model, batches, config, optimizer, progress: trained.append((config, optimizer)),
    )
    own = replace(plan, scaled=scaled)
    for d in (50, 200, None):
        run_trial(settings_of(own, plan.bases[0], "pretrained", d, 0.01, 0))
    (few, first), (many, second), (free, third) = trained
    size = sum(p.size for p in first.parameters.values())
    assert (few.lr, many.lr, free.lr) == pytest.approx(
        (0.01 * (size / 50) ** 0.5, 0.01 * (size / 200) ** 0.5, 0.01)
    )
    assert (first.subspace.d, second.subspace.d) == (50, 200) and first.subspace.scaled is scaled
    assert not hasattr(third, "subspace")


def test_each_seed_has_a_random_start_of_its_own(plan):
    def before(start, seed):
        return run_trial(settings_of(plan, plan.bases[0], start, None, 0.0, seed))["loss"]

    assert before("random", 0) != before("random", 1)
    assert before("pretrained", 0) == before("pretrained", 1)


@pytest.mark.slow
def test_real_trainings_learn_more_from_more_directions(plan):
    own = replace(plan, steps=12)

    def loss(start, d, step):
        return run_trial(settings_of(own, *own.bases, start, d, step, 0))["loss"]

    for start in own.starts:
        before, few, many, free = (
            loss(start, d, step) for d, step in ((None, 0.0), (2, 0.01), (4000, 0.01), (None, 0.01))
        )
        assert free < many < few <= before + 0.05
    assert loss("random", None, 0.0) != loss("pretrained", None, 0.0)


def test_a_trial_repeats_bit_for_bit(plan):
    told = settings_of(plan, *plan.bases, "pretrained", 50, 0.01, 1)
    assert run_trial(told) == run_trial(told)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dimensions": (0,)}, (0,)),
        ({"dimensions": ()}, ()),
        ({"starts": ("middle",)}, ("middle", "random")),
        ({"starts": ("random", "random")}, ("random", "starts")),
        ({"bases": ()}, ()),
        ({"bases": ("ward-base", "ward-base")}, ("ward-base", "bases")),
        ({"seeds": 0}, ("seeds", 0)),
        ({"steps_a_weight": (-1.0,)}, (-1.0,)),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(plan, change, named):
    with refusal(ValueError, *named):
        replace(plan, **change)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dimensions": (10_000_000,)}, ("10,000,000",)),
        ({"dimensions": (5, 50), "scaled": True}, (5, 20)),  # a factor an array: two blocks, 20
        ({"report_rows": 9}, ("eval.jsonl", 12, 13)),
        ({"bases": ("nowhere",)}, ("nowhere",)),
    ],
)
def test_what_can_t_be_measured_leaves_no_folder(plan, tmp_path, change, named):
    with refusal(ValueError, *named):
        measure(replace(plan, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad", ['{"prompt": 3', {"prompt": "Dose?", "completion": "5 mg. " * 60}])
def test_a_row_that_can_t_be_asked_leaves_no_folder(plan, tmp_path, bad):
    rows = pairs(34)[20:]
    write_jsonl(plan.eval_data, [*rows[:6], bad, *rows[6:]])
    with refusal(ValueError, "eval.jsonl"):
        measure(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_processes_are_a_number_and_a_folder_of_something_else_is_left(plan, tmp_path):
    with refusal(ValueError, "jobs", -1):
        measure(plan, tmp_path / "out", jobs=-1)
    assert not (tmp_path / "out").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with refusal(ValueError, "thesis", "chapter.tex"):
        measure(plan, tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_rate_that_diverges_is_not_taken(plan, tmp_path, monkeypatch):
    def diverge(*_, **__):
        raise DivergedError("step 1: loss nan")

    with monkeypatch.context() as patched:
        patched.setattr("minilora.runs.dimension.fit", diverge)
        told = settings_of(plan, plan.bases[0], "pretrained", 50, 0.01, 0)
        assert run_trial(told) == {"choose_loss": DIVERGED, "loss": DIVERGED, "exact": 0.0}
        with pytest.raises(DivergedError):
            run_trial({**told, "seed": 1})

    def high_ones_diverge(points, jobs=0, work=None, above=0.005):
        for outcome in map(known, points):
            bad = outcome.point.told["step_a_weight"] > above
            lost = {"choose_loss": DIVERGED} if bad else {}
            yield replace(outcome, result={**outcome.result, **lost})

    monkeypatch.setattr(trials, "on_this_machine", high_ones_diverge)
    for curve in measure(plan, tmp_path / "out"):
        assert {level.step_a_weight for level in curve.levels} == {0.001}
    monkeypatch.setattr(trials, "on_this_machine", partial(high_ones_diverge, above=0))
    with refusal(ValueError, 0.01, 5):
        measure(plan, tmp_path / "other")


def test_the_command_shows_and_draws(plan, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "on_this_machine", here)
    out = tmp_path / "out"
    command = ["dimension", "--out", str(out), "--data", str(plan.data), "--base", *plan.bases]
    eval_data = write_jsonl(tmp_path / "many.jsonl", pairs(160))
    command += ["--eval", str(eval_data), "--d", "5,50", "--seeds", "2"]
    assert main(command) == 0
    told = json.loads((out / "dimension.json").read_text())
    assert [curve["start"] for curve in told["curves"]] == ["pretrained", "random"]
    mean = statistics.fmean(told["curves"][1]["levels"][0]["loss"])
    assert names(capsys.readouterr().out, f"{mean:.3f}")
    assert imread(out / "dimension.png")[..., :3].std() > 0.01
    assert main([*command[:-4], "--d", "5,five"]) == 1

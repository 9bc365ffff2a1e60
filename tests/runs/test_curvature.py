"""Curvature and rates: the table from known trials, a real one, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from matplotlib.image import imread

from minilora.cli.app import main
from minilora.cli.curvature import trend_text
from minilora.runs import trials
from minilora.runs.curvature import (
    CurvaturePlan,
    Curved,
    Shape,
    measure,
    run_trial,
    settings_of,
    trend,
)
from minilora.runs.sweep.pools import Outcome
from minilora.runs.trials import DIVERGED
from minilora.training import DivergedError
from tests.cli.conftest import pairs, write_jsonl
from tests.says import names, refusal

SHAPES = (Shape(1, 4), Shape(2, 4), Shape(2, 8, True, "all-linear"))


@pytest.fixture
def plan(base, tmp_path):
    return CurvaturePlan(
        data=write_jsonl(tmp_path / "train.jsonl", pairs(24)), base=str(base), shapes=SHAPES,
        rates=(0.01, 0.02, 0.04, 0.08), seeds=2, steps=2, batch_size=4, rows=16, choose_rows=4,
        curved_rows=4,
    )  # fmt: skip


def obeying(points, jobs=0, work=None):
    """Trials in which the best rate is one over the eigenvalue, which the rank decides."""
    for point in points:
        eigenvalue = 100.0 / (point.told["shape"]["r"] * (1 + point.told["shape"]["use_rslora"]))
        off = abs(point.told["rate"] * eigenvalue - 1.0)
        yield Outcome(point, {"eigenvalue": eigenvalue, "loss": 1.0 + off})


def test_a_rate_that_follows_has_one_product(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "on_this_machine", obeying)
    found = measure(plan, tmp_path / "out")
    assert [c.best_rate for c in found] == [(0.01,) * 2, (0.02,) * 2, (0.04,) * 2]
    assert [c.product for c in found] == pytest.approx([1.0, 1.0, 1.0])
    assert trend(found).exponent == trend(found).correlation == pytest.approx(-1.0)
    written = json.loads((tmp_path / "out" / "curvature.json").read_text())
    assert written["correlation"] == written["exponent"] == pytest.approx(-1.0)
    assert written["exponent_interval"] == pytest.approx([-1.0, -1.0])
    assert [s["name"] for s in written["shapes"]] == [shape.name for shape in SHAPES]


def test_a_trend_is_as_certain_as_its_shapes_agree():
    rng = np.random.default_rng(0)
    eigenvalues, off = 2.0 ** np.arange(8), rng.normal(0, 0.3, 8)
    wide, near = (
        trend([
            Curved(Shape(1, 4), (v,), (float(v**-0.5 * np.exp(size * o)),), (1.0,))
            for v, o in zip(eigenvalues, off, strict=True)
        ])
        for size in (1.0, 0.1)
    )  # fmt: skip
    assert near.exponent == pytest.approx(-0.5, abs=0.05)
    for found in (wide, near):
        low, high = found.exponent_interval
        assert low < -0.5 < high < 0
    assert np.diff(wide.exponent_interval) > 5 * np.diff(near.exponent_interval)
    same = trend([Curved(Shape(1, 4), (v,), (0.02,), (1.0,)) for v in eigenvalues])
    assert math.isnan(same.exponent) and math.isnan(same.correlation)


def test_a_best_rate_at_the_end_of_the_grid_is_known(plan):
    assert plan.ends_at((0.02, 0.08)) and plan.ends_at((0.01,))
    assert not plan.ends_at((0.02, 0.04))


def test_rates_that_do_not_differ_have_no_trend(plan, tmp_path, monkeypatch):
    def flat(points, jobs=0, work=None):
        for outcome in obeying(points):
            yield Outcome(outcome.point, {**outcome.result, "loss": outcome.point.told["rate"]})

    monkeypatch.setattr(trials, "on_this_machine", flat)
    found = measure(plan, tmp_path / "out")
    assert {c.best_rate for c in found} == {(0.01, 0.01)}
    written = json.loads((tmp_path / "out" / "curvature.json").read_text())
    assert written["exponent"] is None and written["correlation_interval"] is None
    assert not names(trend_text(trend(found)), "nan")


def test_real_trials(plan):
    steep = run_trial(settings_of(plan, SHAPES[2], 0.0, 0))
    assert steep["eigenvalue"] != 0 and steep["iterations"] > 1
    assert steep["residual"] < abs(steep["eigenvalue"])
    assert run_trial(settings_of(plan, SHAPES[2], 0.0, 0)) == steep
    losses = [run_trial(settings_of(plan, SHAPES[0], rate, 0))["loss"] for rate in (1e-9, 0.05)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shapes": SHAPES[:2]}, (2, 3)),
        ({"rates": (0.1,)}, (1, 2)),
        ({"rates": (0.1, 0.0)}, (0.0,)),
        ({"seeds": 0}, ("seeds", 0)),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(plan, change, named):
    with refusal(ValueError, *named):
        replace(plan, **change)


def test_the_command_shows_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "on_this_machine", obeying)
    out = tmp_path / "out"
    command = ["curvature", "--out", str(out)]
    assert main([*command, "--seeds", "1", "--rates", "0.01,0.02,0.04,0.08"]) == 0
    told = json.loads((out / "curvature.json").read_text())
    assert names(capsys.readouterr().out, f"{told['correlation']:.2f}", f"{told['exponent']:.2f}")
    assert told["rates"] == [0.01, 0.02, 0.04, 0.08]
    assert imread(out / "curvature.png")[..., :3].std() > 0.01
    assert main([*command, "--rates", "high"]) == 1


def test_no_rate_is_chosen_on_rows_that_are_trained_on(plan, monkeypatch):
    seen = {}

    def fit(model, batches, config, progress):
        seen["trained"] = {tuple(row) for i in range(40) for row in batches.batch(i).ids.tolist()}
        seen["config"] = config

    def loss(model, examples, pad_id):
        seen["chosen"] = [example.ids for example in examples]
        return 1.0

    monkeypatch.setattr("minilora.runs.curvature.fit", fit)
    monkeypatch.setattr("minilora.runs.curvature.evaluate", loss)
    assert run_trial(settings_of(plan, SHAPES[0], 0.03, 1)) == {"loss": 1.0}
    assert len(seen["chosen"]) == 4 and seen["config"].lr == 0.03
    for ids in seen["chosen"]:
        assert not any(row[: len(ids)] == tuple(ids) for row in seen["trained"])


def test_a_rate_that_diverges_is_not_the_best_and_ends_nothing(plan, tmp_path, monkeypatch):
    def diverge(*_, **__):
        raise DivergedError("step 1: loss nan")

    with monkeypatch.context() as patched:
        patched.setattr("minilora.runs.curvature.fit", diverge)
        assert run_trial(settings_of(plan, SHAPES[0], 0.01, 1)) == {"loss": DIVERGED}

    def first_diverges(points, jobs=0, work=None, bad=(0.01,)):
        for outcome in obeying(points):
            if outcome.point.told["rate"] in bad:
                outcome = Outcome(outcome.point, {"loss": DIVERGED})
            yield outcome

    monkeypatch.setattr(trials, "on_this_machine", first_diverges)
    found = measure(plan, tmp_path / "out")
    assert [c.best_rate for c in found] == [(0.02,) * 2, (0.02,) * 2, (0.04,) * 2]
    monkeypatch.setattr(trials, "on_this_machine", partial(first_diverges, bad=plan.rates))
    with refusal(ValueError, 0.08, SHAPES[0].name):
        measure(plan, tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"base": "nowhere"}, "nowhere"),
        ({"rows": 30}, 34),
        ({"shapes": (*SHAPES, Shape(99, 4))}, 99),
    ],
)
def test_what_can_t_be_measured_leaves_no_folder(plan, tmp_path, change, named):
    with refusal(ValueError, named):
        measure(replace(plan, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()

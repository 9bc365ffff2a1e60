"""Variants: the search for a rate, the table from known trials, real ones, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from matplotlib.image import imread

from minilora.cli.app import main
from minilora.lora import LoRAConfig, Vera, lora_layers
from minilora.runs import trials
from minilora.runs.sweep.pools import Outcome
from minilora.runs.variants import (
    DIVERGED,
    FIRST,
    WAYS,
    VariantsPlan,
    Way,
    measure,
    next_rates,
    ratios,
    run_trial,
    settings_of,
    time_settings,
)
from minilora.training import DivergedError
from tests.cli.conftest import pairs, write_jsonl
from tests.says import names, refusal

SMALL = (
    Way(FIRST, 0.01, LoRAConfig(2)),
    Way("LoRA+", 0.01, LoRAConfig(2), loraplus_lr_ratio=4.0),
    Way("LoRA-FA", 0.01, LoRAConfig(2), freeze_a=True),
    Way("DoRA", 0.01, LoRAConfig(2, use_dora=True)),
    Way("PiSSA", 0.01, LoRAConfig(2), pissa=True),
    Way("VeRA", 0.01, LoRAConfig(16, vera=Vera())),
)


@pytest.fixture
def plan(base, tmp_path):
    return VariantsPlan(
        data=write_jsonl(tmp_path / "train.jsonl", pairs(24)), base=str(base), ways=SMALL,
        eval_data=write_jsonl(tmp_path / "eval.jsonl", pairs(8)), seeds=2, steps=2, batch_size=4,
        rows=16, choose_rows=4, eval_rows=6, timed_steps=3,
    )  # fmt: skip


def best_at_8(points, jobs=0, work=None):
    """Trials in which every way's best rate is 8 times 0.01, and LoRA+ answers one row more."""
    for point in points:
        told = point.told
        if "ways" in told:
            steps = {n: [1.0, 2.0, 4.0] if n == FIRST else [2.0, 2.0, 8.0] for n in told["ways"]}
            yield Outcome(point, {"steps": steps})
            continue
        better = told["loraplus_lr_ratio"] != 1
        right = [True, False, better, False, False, False]
        loss = abs(told["rate"] - 0.08)
        yield Outcome(point, {"loss": loss, "trained": 10 + better, "right": right})


def test_the_search_walks_to_the_best_rate_and_the_table_says_what_was_found(
    plan, tmp_path, monkeypatch
):
    monkeypatch.setattr(trials, "on_this_machine", best_at_8)
    found = measure(plan, tmp_path / "out")
    assert [one.rate for one in found] == [0.08] * len(SMALL)
    assert sorted(found[0].tried) == [0.005, 0.01, 0.02, 0.04, 0.08, 0.16]
    assert found[0].exact == (1 / 6,) * 2 and found[1].exact == (1 / 3,) * 2
    assert found[1].trained == 11 and found[1].step == pytest.approx((2.0, 1.5, 2.0))
    change, low, high = found[1].against(found[0])
    assert change == pytest.approx(1 / 6) and low < change < high
    assert found[0].interval[0] < 1 / 6 < found[0].interval[1]
    written = json.loads((tmp_path / "out" / "variants.json").read_text())["ways"]
    assert [way["name"] for way in written] == [way.name for way in SMALL]
    assert written[1]["against"] == [change, low, high] and written[0]["step"] == [1.0, 1.0, 1.0]
    with refusal(ValueError, "another sweep"):
        measure(replace(plan, steps=3), tmp_path / "out")


def test_the_next_rates_are_the_neighbours_of_the_best():
    assert next_rates(1.0, {}) == [0.5, 1.0, 2.0]
    assert next_rates(1.0, {0.5: 2.0, 1.0: 1.0, 2.0: 3.0}) == []
    assert next_rates(1.0, {0.5: 2.0, 1.0: 1.0, 2.0: 0.5}) == [4.0]
    assert next_rates(1.0, {1024.0: 1.0, 512.0: 2.0}) == []


def test_a_ratio_is_taken_turn_by_turn():
    steps = {FIRST: [1.0, 10.0, 1.0], "other": [2.0, 20.0, 3.0]}
    assert ratios(steps, "other") == (2.0, 2.0, 2.5)


@pytest.mark.parametrize("way", SMALL, ids=lambda way: way.name)
def test_real_trials(plan, way):
    tuned, told = run_trial(settings_of(plan, way, 0.05, 0)), settings_of(plan, way, 0.05, 1)
    assert "right" not in tuned and tuned["loss"] > 0
    result = run_trial(told)
    assert run_trial(told) == result and len(result["right"]) == 6
    assert result["loss"] != run_trial({**told, "rate": 1e-9})["loss"]


@pytest.mark.parametrize("way", SMALL, ids=lambda way: way.name)
def test_each_way_is_trained_as_it_says_on_other_rows_than_it_is_chosen_by(plan, way, monkeypatch):
    seen = {}

    def fit(model, batches, config, progress):
        seen["trained"] = {tuple(row) for i in range(40) for row in batches.batch(i).ids.tolist()}
        seen["config"] = config
        seen["layers"] = {type(layer).__name__ for layer in lora_layers(model).values()}
        seen["frozen"] = {
            n.rpartition(".")[2] for n, p in model.named_parameters()
            if "lora" in n and not p.requires_grad
        }  # fmt: skip

    def loss(model, examples, pad_id):
        seen["chosen"] = [example.ids for example in examples]
        return 1.0

    monkeypatch.setattr("minilora.runs.variants.fit", fit)
    monkeypatch.setattr("minilora.runs.variants.evaluate", loss)
    run_trial(settings_of(plan, way, 0.05, 0))
    kinds = {"DoRA": "DoraLinear", "PiSSA": "PissaLinear", "VeRA": "VeraLinear"}
    assert seen["layers"] == {kinds.get(way.name, "LoRALinear")}
    assert seen["config"].lr == 0.05
    assert seen["config"].loraplus_lr_ratio == (4.0 if way.name == "LoRA+" else 1.0)
    assert seen["frozen"] == ({"lora_A"} if way.name == "LoRA-FA" else set())
    assert len(seen["chosen"]) == 4
    for ids in seen["chosen"]:
        assert not any(row[: len(ids)] == tuple(ids) for row in seen["trained"])


def test_fewer_numbers_are_trained_by_vera_and_with_a_frozen(plan):
    trained = {w.name: run_trial(settings_of(plan, w, 0.01, 0))["trained"] for w in SMALL}
    assert trained["LoRA-FA"] < trained[FIRST] == trained["PiSSA"] < trained["DoRA"]


def test_a_search_outlives_what_diverges_and_a_report_does_not(plan, monkeypatch):
    def diverge(*_, **__):
        raise DivergedError("step 1: loss nan")

    monkeypatch.setattr("minilora.runs.variants.fit", diverge)
    told = settings_of(plan, SMALL[0], 1.0, 0)
    assert run_trial(told)["loss"] == DIVERGED
    with pytest.raises(DivergedError):
        run_trial({**told, "seed": 1})


def test_every_way_is_timed_in_turns(plan):
    steps = run_trial(time_settings(plan, {way.name: 0.01 for way in SMALL}))["steps"]
    assert steps.keys() == {way.name for way in SMALL}
    assert all(len(one) == 3 and min(one) >= 0 for one in steps.values())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ways": SMALL[1:]}, (FIRST,)),
        ({"ways": (*SMALL, SMALL[0])}, (FIRST,)),
        ({"ways": (Way(FIRST, 0.0),)}, (0.0,)),
        ({"seeds": 0}, ("seeds", 0)),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(plan, change, named):
    with refusal(ValueError, *named):
        replace(plan, **change)


def test_the_command_shows_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "on_this_machine", best_at_8)
    out, png = tmp_path / "out", tmp_path / "plot.png"
    assert main(["variants", "--out", str(out), "--plot", str(png), "--seeds", "1"]) == 0
    assert names(capsys.readouterr().out, *(way.name for way in WAYS[:2]))
    assert imread(png)[..., :3].std() > 0.01


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"base": "nowhere"}, "nowhere"),
        ({"rows": 30}, 34),
        ({"ways": (*SMALL, Way("wide", 0.1, LoRAConfig(99)))}, 99),
        ({"ways": (*SMALL, Way("wide PiSSA", 0.1, LoRAConfig(8), pissa=True))}, 16),
    ],
)
def test_what_can_t_be_compared_leaves_no_folder(plan, tmp_path, change, named):
    with refusal(ValueError, named):
        measure(replace(plan, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_plot_that_has_no_place_is_refused_before_anything_is_done(tmp_path, capsys):
    command = ["variants", "--out", str(tmp_path / "out"), "--plot", str(tmp_path / "no" / "v.png")]
    assert main(command) == 1 and names(capsys.readouterr().err, "--plot")
    assert not (tmp_path / "out").exists()

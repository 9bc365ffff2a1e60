"""The memory of adapters: facts, what is known of them, and the table."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imread

from minilora.autograd import IGNORE
from minilora.cli.app import main
from minilora.runs import trials
from minilora.runs.memory_law import (
    KEY,
    TUNED,
    VALUE,
    Held,
    MemoryPlan,
    _asked,
    exponent,
    measure,
    most_held,
    random_facts,
    run_trial,
    settings_of,
)
from minilora.runs.sweep.pools import Outcome
from minilora.runs.trials import DIVERGED
from minilora.text import Example
from minilora.training import DivergedError
from tests.says import names, refusal


def test_facts_are_distinct_keys_with_random_values():
    symbols = np.array([5, 9, 11, 40, 41, 42, 43, 44])
    facts = random_facts(60, symbols, np.random.default_rng(0))
    keys = {tuple(fact.ids[:KEY]) for fact in facts}
    assert len(facts) == len(keys) == 60
    for fact in facts:
        assert len(fact.ids) == KEY + VALUE - 1
        assert (fact.labels[: KEY - 1] == IGNORE).all()
        assert set(fact.labels[KEY - 1 :]) <= set(symbols) and set(fact.ids) <= set(symbols)
        assert np.array_equal(fact.labels[KEY - 1 : -1], fact.ids[KEY:])
    assert len(random_facts(8**KEY, symbols, np.random.default_rng(0))) == 8**KEY
    with refusal(ValueError, 8**KEY + 1, 8**KEY):
        random_facts(8**KEY + 1, symbols, np.random.default_rng(0))


def test_an_untrained_adapter_holds_about_nothing_and_a_trained_one_something(base):
    plan = MemoryPlan(base=str(base), ranks=(2,), symbols=16, fewest_steps=1, passes=1)
    idle = run_trial(settings_of(plan, 2, 1.0, 1e-9, 1))
    plan = replace(plan, fewest_steps=150)
    taught = run_trial(settings_of(plan, 2, 1.0, 0.03, 1))
    assert idle["facts"] == taught["facts"] == plan.facts(idle["trained"], 1.0)
    assert taught["bits"] > max(idle["bits"], 0) and taught["probability"] > idle["probability"]
    assert taught["bits"] <= taught["facts"] * VALUE * 4
    assert run_trial(settings_of(plan, 2, 1.0, 0.03, 1)) == taught


def test_each_seed_has_facts_of_its_own(base, monkeypatch):
    taught = []
    monkeypatch.setattr(
        "minilora.runs.memory_law.fit",
        lambda model, batches, training, progress: taught.append(batches.batch(0).ids.tolist()),
    )
    plan = MemoryPlan(base=str(base), ranks=(2,), symbols=16)
    for seed in (1, 1, 2):
        run_trial(settings_of(plan, 2, 1.0, 0.01, seed))
    assert taught[0] == taught[1]
    assert not [row for row in taught[0] if row in taught[2]]


def test_what_is_known_is_counted_in_bits_of_whole_values():
    symbols, vocab = np.array([5, 9, 11, 40]), 50
    rows = np.array([[5, 9, 11, 40, 9, 11, 9], [9, 9, 5, 11, 11, 5, 40]])
    facts = [
        Example(ids=row[:-1], labels=np.where(np.arange(1, 7) < KEY, IGNORE, row[1:]))
        for row in rows
    ]

    def told(ids):  # all of the first fact; of the second all but its last token, and not that
        logits = np.zeros((*ids.shape, vocab), np.float32)
        logits[..., 7] = 1000.0  # no symbol, so it counts for nothing
        for fact, row in enumerate(rows):
            for place in range(6 - fact):
                logits[fact, place, row[place + 1]] = 60.0
        return SimpleNamespace(data=logits)

    model = type("Model", (), {
        "config": SimpleNamespace(vocab_size=vocab), "__call__": lambda self, ids: told(ids),
    })()  # fmt: skip
    found = _asked(model, facts, symbols)
    assert found["bits"] == pytest.approx(2 * (VALUE + VALUE - 1))  # 2 bits a symbol
    assert found["recall"] == 0.5
    assert found["probability"] == pytest.approx((1 + 1 / 4) / 2)


def law(points, jobs=0, work=None):
    """Adapters that hold 1.5 bits a number and no more, at the middle rate, and half of that at
    others; of few facts the highest rate is the best.
    """
    plan = MemoryPlan()
    for point in points:
        trained = 2048 * point.told["r"]
        facts = plan.facts(trained, point.told["load"])
        bits = min(facts * plan.bits_a_fact, 1.5 * trained)
        few = point.told["load"] == 0.25
        bits *= 1.0 if point.told["rate"] == (0.03 if few else 0.015) else 0.5
        share = bits / (facts * plan.bits_a_fact)
        told = {"trained": trained, "facts": facts, "recall": share, "probability": share}
        yield Outcome(point, {**told, "bits": bits})


def test_the_most_held_and_its_law(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "on_this_machine", law)
    found = measure(MemoryPlan(), tmp_path / "out")
    assert len(found) == 4 * 3 and all(len(held.bits) == 3 for held in found)
    assert [held.bits_a_number for held in most_held(found).values()] == pytest.approx([1.5] * 4)
    assert exponent(found) == pytest.approx(1.0)
    assert [held.rate for held in found] == [0.03, 0.015, 0.015] * 4
    written = json.loads((tmp_path / "out" / "memory.json").read_text())
    assert written["bits_a_fact"] == 32 and len(written["held"]) == 12
    assert math.isnan(exponent([Held(1, 2, 3, 0.1, (4.0,), (1.0,), (1.0,))]))


def test_one_rate_is_taken_without_trials_to_choose_it(tmp_path, monkeypatch):
    seeds = []

    def work(points, jobs=0, work=None):
        points = list(points)
        seeds.extend(point.told["seed"] for point in points)
        return law(points)

    monkeypatch.setattr(trials, "on_this_machine", work)
    (held,) = measure(MemoryPlan(ranks=(8,), loads=(1.0,), rates=(0.015,)), tmp_path / "out")
    assert seeds == [1, 2, 3] and held.rate == 0.015 and held.bits_a_number == 1.5


def test_a_rate_that_diverges_is_not_taken(base, tmp_path, monkeypatch):
    def diverge(*_, **__):
        raise DivergedError("step 1: loss nan")

    plan = MemoryPlan(base=str(base), ranks=(2,), symbols=16, fewest_steps=1, passes=1)
    with monkeypatch.context() as patched:
        patched.setattr("minilora.runs.memory_law.fit", diverge)
        assert run_trial(settings_of(plan, 2, 1.0, 9.0, TUNED))["bits"] == -DIVERGED
        with pytest.raises(DivergedError):
            run_trial(settings_of(plan, 2, 1.0, 9.0, 1))

    def high_ones_diverge(points, jobs=0, work=None, above=0.01):
        for outcome in law(points):
            told = outcome.point.told
            bad = told["seed"] == TUNED and told["rate"] > above
            yield replace(
                outcome, result={**outcome.result, **({"bits": -DIVERGED} if bad else {})}
            )

    monkeypatch.setattr(trials, "on_this_machine", high_ones_diverge)
    assert {h.rate for h in measure(MemoryPlan(ranks=(1,)), tmp_path / "out")} == {0.005}
    monkeypatch.setattr(trials, "on_this_machine", partial(high_ones_diverge, above=0))
    with refusal(ValueError, 0.03):
        measure(MemoryPlan(ranks=(1,)), tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "named"),
    [({"ranks": ()}, ()), ({"ranks": (0,)}, (0,)), ({"symbols": 1}, (1,)),
     ({"loads": (0.0,)}, (0.0,)), ({"seeds": 0}, ("seeds", 0))],
)  # fmt: skip
def test_a_plan_that_makes_no_sense_is_refused(change, named):
    with refusal(ValueError, *named):
        replace(MemoryPlan(), **change)


def test_the_command_shows_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "on_this_machine", law)
    out = tmp_path / "out"
    assert main(["memory", "--out", str(out), "--r", "1,4", "--seeds", "2"]) == 0
    assert names(capsys.readouterr().out, "1.50", "2,048", "8,192")
    assert imread(out / "memory.png")[..., :3].std() > 0.01
    assert main(["memory", "--out", str(tmp_path / "one"), "--r", "1", "--seeds", "1"]) == 0
    assert not names(capsys.readouterr().out, "nan")
    assert json.loads((tmp_path / "one" / "memory.json").read_text())["exponent"] is None
    capsys.readouterr()
    assert main(["memory", "--out", str(tmp_path / "two"), "--r", "1,1", "--seeds", "1"]) == 0
    assert "nan" not in capsys.readouterr().out
    assert json.loads((tmp_path / "two" / "memory.json").read_text())["exponent"] is None
    assert main(["memory", "--out", str(out), "--r", "one"]) == 1


def test_a_base_that_is_not_there_leaves_no_folder(tmp_path):
    with refusal(ValueError, "nowhere"):
        measure(MemoryPlan(base="nowhere"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"symbols": 99_999}, 99_999),
        ({"target_modules": ("no_proj",)}, "no_proj"),
        ({"ranks": (1, 99)}, 99),
        ({"symbols": 2, "ranks": (8,)}, 8),
    ],
)
def test_what_the_base_does_not_have_is_refused_before_there_is_a_folder(
    base, tmp_path, settings, told
):
    plan = MemoryPlan(base=str(base), **{"symbols": 16, **settings})
    with refusal(ValueError, told):
        measure(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()

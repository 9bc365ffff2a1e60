"""The steering wheels: what is kept, chosen and correlated, and what the run writes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilora.lora import Adapter
from minilora.runs import steering as runs
from minilora.runs.steering import Kept, Setting, Steering, SteeringPlan, correlations, steer
from minilora.runs.steering_plot import plot_steering
from minilora.storage import atomic_write
from minilora.ward.steering import RULES, steering_examples
from tests.says import refusal

LAYER = "model.layers.0.self_attn.q_proj"


def kept(*shares, jointly=0.0):
    return Kept(dict(zip(RULES, shares, strict=True)), jointly, 0.0)


@pytest.fixture
def result(tmp_path):
    found = Steering(SteeringPlan(out=tmp_path / "out", seeds=(0, 1)), base=kept(0, 0, 0, 0))
    found.alone = {
        rule: [kept(*(0.8 * (rule == r) for r in RULES)), kept(*(0.5 * (rule == r) for r in RULES))]
        for rule in RULES
    }
    found.joint = [kept(0.8, 0.8, 0.8, 0.8, jointly=0.7)] * 2
    found.methods = {"cat": {"kept": [kept(0.4, 0.8, 0, 0), kept(0.5, 0.5, 0.5, 0)]}}
    found.pairs = [
        {"disturbed": rule, "by": "tone", "on_inputs": i + 1.0, "loss": i / 4}
        for i, rule in enumerate(RULES)
    ]
    found.correlations = {"on_inputs": 1.0}
    return found


def test_shares_are_of_each_adapter_alone(result):
    assert result.normalised("cat") == pytest.approx([(0.5 + 1 + 0 + 0) / 4, (1 + 1 + 1 + 0) / 4])
    assert result.normalised("joint training") == pytest.approx([1, 1.6])
    result.alone["tone"] = [kept(0, 0, 0, 0)] * 2  # what nothing can be a share of is left out
    assert result.normalised("cat")[0] == pytest.approx((0.5 + 0 + 0) / 3)


def test_the_plot_is_a_picture(result, tmp_path):
    bars = result.bars()
    assert bars["alone"]["tone"] == [0.8, 0.5]
    assert bars["joint training"] == {
        **{rule: [0.8, 0.8] for rule in RULES}, "all four at once": [0.7, 0.7]
    }  # fmt: skip
    plot_steering(bars, result.pairs, 1.0, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_correlations_are_of_ranks_and_of_a_cosines_size():
    rows = [(0.1, -0.3, 0.0), (0.5, 0.1, 0.2), (9.0, -0.2, 0.9)]
    pairs = [
        {"on_inputs": size, "cosine": cosine, "reads": 1.0, "writes": -loss, "loss": loss}
        for size, cosine, loss in rows
    ]
    found = correlations(pairs)
    assert found["on_inputs"] == pytest.approx(1)
    assert found["cosine"] == pytest.approx(-0.5)
    assert found["reads"] == 0  # it says the same of all
    assert found["imbalance"] == pytest.approx(-0.5)  # 2.3, 0.7 and 2.2
    assert found["writes"] == pytest.approx(1)


def test_a_run_trains_joins_asks_and_keeps_its_adapters(tmp_path, monkeypatch):
    """The answers are made up: base and adapters say what keeps the rule of tone."""
    plan = SteeringPlan(
        out=tmp_path / "out", seeds=(0,), steps=1, rates=(0.01,), batch_size=2, notes=4,
        chosen_on=2, asked=3, workers=3,
    )  # fmt: skip
    known = {}
    for seed, n in ((9001, 2), (9002, 3)):
        rows = steering_examples(["tone"], "heldout", n, seed, 0.0)
        known |= {row.prompt: row.completion for row in rows}
    dealt = []

    def answered(model, tokenizer, prompts, room, workers):
        dealt.append(workers)
        return [known[prompt] for prompt in prompts]

    monkeypatch.setattr(runs, "answers", answered)
    settings = {"cat": [Setting("cat"), Setting("cat", 0.5)], "svd": [Setting("svd", rank=8)]}
    monkeypatch.setattr(runs, "settings_to_try", lambda r: settings)
    told = []
    found = steer(plan, told.append)
    assert found.base.rules == {"domain": 0, "tone": 1, "safety": 0, "customer": 0}
    assert found.base.jointly == found.base.exact == 0
    assert found.methods["cat"]["setting"]["weight"] == 1.0 and found.methods["cat"]["tried"] == 2
    assert found.methods["cat"]["error"][0] < 1e-6 < found.methods["svd"]["error"][0]
    starts = [
        Adapter.read(plan.out / "adapters" / f"{rule}-0-0.01").factors(LAYER)[0] for rule in RULES
    ]
    assert np.abs(starts[0] - starts[1]).max() > 0.05
    assert len(found.pairs) == 12 and {p["loss"] for p in found.pairs} == {0.0}
    assert len(told) == 7 and set(dealt) == {3}
    written = json.loads((plan.out / "steering.json").read_text("utf-8"))
    assert written["alone"]["tone"][0]["rules"]["tone"] == 1
    assert written["settings"]["steps"] == 1 and not {"out", "workers"} & set(written["settings"])
    assert (plan.out / "steering.png").is_file()

    def refuse(*_, **__):
        raise AssertionError("an adapter was trained again")

    monkeypatch.setattr(runs, "fit", refuse)
    assert steer(plan).to_dict() | {"seconds": 0} == found.to_dict() | {"seconds": 0}


@pytest.mark.parametrize("settings, said", [({"seeds": ()}, ("()",)), ({"steps": 0}, (0,))])
def test_settings_that_make_no_sense_are_refused(tmp_path, settings, said):
    with refusal(ValueError, *said):
        SteeringPlan(out=tmp_path / "out", **settings)


def test_a_folder_of_something_else_stays(tmp_path):
    atomic_write(tmp_path / "thesis.txt", b"mine")
    with refusal(ValueError, tmp_path):
        SteeringPlan(out=tmp_path)

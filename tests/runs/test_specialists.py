"""Specialists: an adapter a ward, what is written beside them, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from minilora.cli import app
from minilora.evaluation.paired import wilson
from minilora.hub.bases import WARD, open_base
from minilora.lora import Adapter, attach
from minilora.runs.specialists import SpecialistsPlan, train_specialists
from minilora.ward import HOUSE_FORMATS, house_examples
from tests.says import names, refusal


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Two wards, two steps, three notes to be judged on."""
    data = tmp_path_factory.mktemp("ward")
    for ward in ("nephrology", "cardiology"):
        for split, name, n in (("train", "train", 8), ("heldout", "eval", 3)):
            lines = [json.dumps(e.to_dict()) for e in house_examples(ward, split, n, seed=1)]
            (data / f"{ward}.{name}.jsonl").write_text("\n".join(lines))
    out = tmp_path_factory.mktemp("made") / "all"
    wards = ("nephrology", "cardiology")
    return SpecialistsPlan(out=out, wards=wards, data=data, steps=2, batch_size=2, workers=1)


@pytest.fixture(scope="module")
def made(plan):
    return train_specialists(plan)


def test_each_ward_has_an_adapter_of_its_own(plan, made):
    assert [one.ward for one in made] == list(plan.wards)
    model, _ = open_base(WARD)
    adapters = [Adapter.read(one.folder) for one in made]
    for one, adapter in zip(made, adapters, strict=True):
        assert one.folder == plan.out / one.ward
        attach(model, adapter).detach()
        assert adapter.provenance["data"]["sha256"] == one.data_sha256


def test_figures_and_card_hold_shares_and_their_intervals(plan, made):
    figures = json.loads((plan.out / "specialists.json").read_text())
    assert figures["steps"] == 2 and figures["lr"] == plan.lr
    card = (plan.out / "README.md").read_text()
    for one, told in zip(made, figures["specialists"], strict=True):
        assert told["after"] == one.after.to_dict() and told["before"] == one.before.to_dict()
        exact = one.after.exact
        assert told["intervals"]["exact"] == list(wilson(round(3 * exact), 3))
        assert one.after.count == 3
        assert f"| {one.ward} | {one.after.rule} | " in card


def test_earlier_specialists_may_be_replaced_and_nothing_else(plan, made, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with refusal(ValueError, "mine.txt"):
        train_specialists(replace(plan, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    again = train_specialists(replace(plan, wards=("cardiology",)))
    assert again[0].after == made[1].after


@pytest.mark.parametrize("wards", [(), ("cardiology", "cardiology"), ("surgery",)])
def test_wards_that_make_no_sense_are_refused(wards):
    with refusal(ValueError, *wards[:1]):
        SpecialistsPlan(wards=wards)


def test_all_houses_are_the_default():
    assert SpecialistsPlan().wards == tuple(HOUSE_FORMATS)


def test_the_command_prints_a_line_a_ward(plan, made, tmp_path, capsys):
    words = ["specialists", "--out", str(tmp_path / "s"), "--data", str(plan.data)]
    assert app.main([*words, "--ward", "nephrology", "--steps", "2", "--workers", "1"]) == 0
    assert names(capsys.readouterr().out, "nephrology", "stop")
    assert (tmp_path / "s" / "nephrology" / "adapter_config.json").is_file()

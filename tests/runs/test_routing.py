"""Routing measured on the ward's notes, and the command that routes a text."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from minilora.cli import app
from minilora.evaluation.paired import wilson
from minilora.hub.bases import WARD, open_base
from minilora.hub.several import BASE, NamedAdapter
from minilora.lora import LoRAConfig, attach
from minilora.runs import routing
from minilora.runs.routing import (
    NONE,
    Routed,
    RoutingPlan,
    adapters_in,
    measure_routing,
    open_bank,
    ward_rules,
)
from minilora.serving import Centres, RuleRouter
from minilora.ward import HOUSE_FORMATS, mixed_notes
from minilora.ward.strangers import STRANGE_WARDS
from tests.says import error_line, names, refusal

WARDS = ("cardiology", "vascular")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Adapters of two wards that have learned nothing, but differ."""
    out = tmp_path_factory.mktemp("bank")
    model, tokenizer = open_base(WARD)
    for seed, ward in enumerate(WARDS):
        rng = np.random.default_rng(seed)
        attachment = attach(model, LoRAConfig(r=2, lora_alpha=4), rng)
        for layer in attachment.layers.values():
            layer.lora_B.data[...] = rng.normal(0, 0.05, layer.lora_B.shape)
        attachment.adapter(base_name=WARD, tokenizer=tokenizer).write(out / ward)
        attachment.detach()
    return out


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("measured") / "router"
    plan = RoutingPlan(adapters=tuple(adapters_in(folder)), out=out, choosing=14, notes=21)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "TOKENS_TRIED", (1, 2))
        patch.setattr(routing, "LEARNT_NOTES", 12)
        return plan, measure_routing(plan)


def test_settings_are_chosen_on_some_notes_and_counted_on_others(measured):
    _, result = measured
    assert [(one["by"], one["tokens"]) for one in result.tried] == [
        ("prompt", 16), ("answer", 1), ("answer", 2)
    ]  # fmt: skip
    best = max(one["accuracy"] for one in result.tried)
    chosen = {"by": result.chosen.by, "tokens": result.chosen.tokens,
              "threshold": result.chosen.threshold}  # fmt: skip
    assert {**chosen, "accuracy": best} in result.tried
    assert [one.name for one in result.by_loss] == ["prompt", "answer"]
    assert len(result.ways) == 4
    for one in result.ways.values():
        places = {}
        for (place, _), count in one.counts.items():
            places[place] = places.get(place, 0) + count
        assert places == {"cardiology": 3, "vascular": 3, NONE: 15}
    counted = {note.example.prompt for note in mixed_notes(21, routing.MEASURING_SEED)}
    assert not counted & {n.example.prompt for n in mixed_notes(14, routing.CHOOSING_SEED)}


def test_what_is_written_holds_the_figures(measured):
    plan, result = measured
    told = json.loads((plan.out / "router.json").read_text())
    assert told["settings"]["by"] == result.chosen.by
    for one in result.by_loss:
        figures = told["by_loss"][one.name]
        assert figures["of"] == 21 and figures["accuracy"] == one.right / 21
        assert figures["interval"] == list(wilson(one.right, 21))
    assert told["by_reading"]["accuracy"] == result.by_reading.right / 21
    centres = Centres.read(plan.out / "reading.safetensors")
    assert centres.names == WARDS and centres.threshold == result.centres.threshold
    card = (plan.out / "README.md").read_text()
    assert names(card, *WARDS, NONE, f"{result.by_rule.right} of 21")
    assert (plan.out / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_accuracy_is_the_share_that_came_to_its_place():
    one = Routed("x", {("a", "a"): 3, ("a", NONE): 1, (NONE, NONE): 2, (NONE, "a"): 4})
    assert (one.right, one.of) == (5, 10)
    assert one.to_dict()["confusion"] == {"a": {"a": 3, NONE: 1}, NONE: {NONE: 2, "a": 4}}


def test_the_rules_know_every_house_and_no_stranger():
    router = RuleRouter(ward_rules(list(HOUSE_FORMATS)))
    for note in mixed_notes(140, seed=9):
        sent = router.route(note.example.prompt).name
        assert sent == (note.ward if note.house else None)


def test_what_can_not_be_measured_is_refused(folder, tmp_path):
    adapters = tuple(adapters_in(folder))
    with refusal(ValueError, "notes", 0):
        RoutingPlan(adapters=adapters, notes=0)
    (tmp_path / "mine.txt").write_text("keep")
    with refusal(ValueError, "mine.txt"):
        RoutingPlan(adapters=adapters, out=tmp_path)
    with refusal(ValueError, tmp_path):
        adapters_in(tmp_path)
    with refusal(ValueError, BASE):
        open_bank([NamedAdapter(BASE)])


def test_the_command_names_an_adapter_or_none(folder, capsys):
    note = mixed_notes(1, seed=5)[0].example.prompt
    words = ["route", "--bank", str(folder), "--prompt", note]
    assert app.main([*words, "--by", "prompt"]) == 0
    said = capsys.readouterr().out
    first, losses = said.splitlines()[0], dict(re.findall(r"(\w+) +(\d\.\d{4})", said))
    assert set(losses) == set(WARDS) and first == min(losses, key=lambda n: float(losses[n]))
    assert app.main([*words, "--by", "prompt", "--threshold", "0.0001"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == NONE


def test_the_command_routes_by_rule_without_a_bank(tmp_path, capsys):
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"heart": "AF"}))
    words = ["route", "--rules", str(rules), "--prompt"]
    assert app.main([*words, "Dx: AF"]) == 0 and app.main([*words, "Dx: UTI"]) == 0
    assert capsys.readouterr().out.split("\n")[:2] == ["heart", NONE]
    rules.write_text("[1]")
    assert app.main([*words, "x"]) == 1
    assert names(error_line(capsys), rules)
    rules.write_text("{")
    assert app.main([*words, "x"]) == 1
    assert names(error_line(capsys), rules)
    assert app.main(["route", "--rules", str(rules), "--answer", "--prompt", "x"]) == 1
    assert names(error_line(capsys), "--rules", "--answer")


def test_the_command_routes_by_reading(folder, measured, capsys):
    plan, _ = measured
    note = next(n for n in mixed_notes(21, seed=5) if n.ward == "vascular").example.prompt
    words = ["route", "--bank", str(folder), "--prompt", note]
    router = ["--router", str(plan.out / "reading.safetensors"), "--threshold", "1e9"]
    assert app.main([*words, *router]) == 0
    assert capsys.readouterr().out.splitlines()[0] in WARDS
    assert app.main([*words, *router[:2], "--threshold", "0"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == NONE
    assert app.main([*words, "--by", "reading"]) == 1
    assert names(error_line(capsys), "--router")
    assert app.main([*words, *router, "--by", "prompt"]) == 1
    assert names(error_line(capsys), "--router", "prompt")
    other = ["route", "--adapter", f"heart={folder}/cardiology", "--prompt", note, *router]
    assert app.main(other) == 1
    assert names(error_line(capsys), "cardiology", "vascular")


def test_strangers_are_no_house():
    assert not set(STRANGE_WARDS) & set(HOUSE_FORMATS)

"""The tour on the shipped base, cut short: what it shows, checks, writes and refuses."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from minilora.cli import app
from minilora.evaluation.merging import logits
from minilora.hub import load_pretrained
from minilora.hub.bases import WARD, open_base
from minilora.lora import Adapter, LoRAConfig, attach, base_fingerprint
from minilora.runs import Reporter, TourPlan
from minilora.runs import tour as touring
from minilora.runs.tour import check_promises
from tests.says import error_line, names

SHORT = ["--steps", "3", "--workers", "1"]


@pytest.fixture(scope="module")
def short_tour(tmp_path_factory):
    """One tour of three steps on a dozen prompts: (folder, what it printed)."""
    out = tmp_path_factory.mktemp("tour") / "t"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(touring, "CHECK_ROWS", 24)
        svg = out.with_name("tour.svg")
        raise SystemExit(app.main(["tour", "--out", str(out), "--svg", str(svg), *SHORT]))
    assert stop.value.code == 0
    return out


def test_tour_writes_adapter_merged_model_plot_and_figures(short_tour):
    figures = json.loads((short_tour / "tour.json").read_text())
    assert figures["ward"] == "cardiology"
    for when in ("before", "after"):
        assert figures[when]["house"]["count"] == 24
        assert set(figures[when]["base"]["groups"]) >= {"public", "questions", "refusals"}
    assert figures["before"]["house"]["exact"] == 0.0
    # The verdict is on the rows of the table above it.
    measures = {m["name"]: m for m in figures["gate"]["metrics"]}
    exact = measures["house/cardiology: exact"]
    assert (exact["rows"], exact["after"]) == (24, figures["after"]["house"]["exact"])
    base = measures["regression: exact"]
    for when in ("before", "after"):
        assert base[when] == figures[when]["base"]["exact"]
    assert base["rows"] == figures["before"]["base"]["count"]
    assert figures["gate"]["verdict"] in ("pass", "fail", "can't tell")
    assert (short_tour / "tour.png").read_bytes().startswith(b"\x89PNG")
    assert Adapter.read(short_tour / "adapter").config == LoRAConfig()


def test_the_prompted_base_answers_in_as_many_processes_as_train(tmp_path, monkeypatch):
    job = TourPlan(out=tmp_path / "t", steps=1, workers=3).open(Reporter())
    dealt = []

    def answered(model, tokenizer, prompts, *_, workers, **__):
        dealt.append(workers)
        return [""] * len(prompts)

    monkeypatch.setattr(touring, "answers", answered)
    job.judge.ask_by_form(job.model, job.judge.houses[0])
    assert dealt == [3]


def test_the_picture_shows_note_answers_and_scores_and_loads_nothing(short_tour):
    svg = short_tour.with_name("tour.svg").read_text("utf-8")
    root = ElementTree.fromstring(svg)
    shown = " ".join("".join(root.itertext()).replace("\xa0", " ").split())
    assert names(shown, "furosemide", "The base answers", "With the adapter", "exact")
    links = re.findall(r"url\(([^)]*)\)|href=['\"]([^'\"]*)", svg)
    assert all(link.startswith("#") for pair in links for link in pair if link)
    assert "@font-face" not in svg and "Parameters" not in shown


def test_a_picture_without_a_place_is_refused_before_the_base_is_asked(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(touring, "open_base", None)
    place = tmp_path / "none" / "tour.svg"
    assert app.main(["tour", "--out", str(tmp_path / "t"), "--svg", str(place)]) == 1
    assert names(error_line(capsys), "--svg", place)


def test_merged_model_answers_as_base_and_adapter_do(short_tour):
    merged, tokenizer = load_pretrained(short_tour / "merged")
    base, _ = open_base(WARD)
    ids = np.array([tokenizer.encode_prompt("What does AF stand for?")])
    plain = base(ids).data
    attach(base, Adapter.read(short_tour / "adapter"))
    adapted = base(ids).data
    assert np.abs(adapted - plain).max() > 1e-3
    np.testing.assert_allclose(merged(ids).data, adapted, atol=1e-4)


def test_tour_may_replace_an_earlier_tour_but_nothing_else(short_tour, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    assert app.main(["tour", "--out", str(tmp_path), *SHORT]) == 1
    assert "mine.txt" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.txt"]
    TourPlan(out=short_tour).check()


def test_unknown_ward_is_one_error(tmp_path, capsys):
    assert app.main(["tour", "--ward", "surgery", "--out", str(tmp_path / "t")]) == 1
    assert names(error_line(capsys), "surgery", "cardiology")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("lr", ["0", "-1", "nan", "inf"])
def test_a_rate_that_is_none_is_refused_before_the_base_is_asked(lr, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(touring, "open_base", None)
    assert app.main(["tour", "--lr", lr, "--out", str(tmp_path / "t")]) == 1
    assert names(error_line(capsys), "lr", float(lr))


def attached():
    model, tokenizer = open_base(WARD)
    ids = np.array([tokenizer.encode_prompt("What does AF stand for?")])
    plain, fingerprint = logits(model, ids), base_fingerprint(model)
    return attach(model, LoRAConfig(), np.random.default_rng(0)), ids, plain, fingerprint


def test_a_changed_base_is_noticed():
    handle, ids, plain, before = attached()
    norm = handle.model.model.norm.weight
    norm.data = norm.data * np.float32(1.001)
    with pytest.raises(ValueError, match="changed"):
        check_promises(handle, ids, plain, before)

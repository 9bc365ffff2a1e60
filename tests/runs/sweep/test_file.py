"""Sweep files: what is read, what is refused, and which runs follow."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from minilora.hub import load_pretrained
from minilora.runs import AdaptPlan
from minilora.runs.sweep import SweepFile
from tests.cli.conftest import pairs, write_jsonl
from tests.says import refusal

ROOT = Path(__file__).resolve().parents[3]

SWEEP = """
base = "{base}"
eval = "eval.jsonl"
choose_rows = 6
report_rows = 4
[grid]
r = [1, 2]
target_modules = [["q_proj", "v_proj"], "all-linear"]
lr = 0.02
steps = 4
seed = [0, 1]
[data.few]
"train.jsonl" = 10
[data.both]
"train.jsonl" = true
"other.jsonl" = 5
"""


@pytest.fixture
def folder(base, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", pairs(30))
    write_jsonl(tmp_path / "other.jsonl", pairs(40)[30:])
    write_jsonl(tmp_path / "eval.jsonl", pairs(52)[40:])
    (tmp_path / "sweep.toml").write_text(SWEEP.format(base=base))
    return tmp_path


def read(folder, old="", new=""):
    path = folder / "sweep.toml"
    path.write_text(path.read_text().replace(old, new) if old else path.read_text())
    return SweepFile.read(path)


def points(sweep, folder, steps=None):
    return sweep.points(sweep.write_data(folder / "data"), folder / "runs", steps)


def test_every_combination_is_a_run_with_a_name_of_its_own(folder):
    sweep = read(folder)
    found = points(sweep, folder)
    assert len(found) == sweep.runs == 16
    assert len({p.id for p in found}) == 16 and len({p.kind for p in found}) == 8
    assert {p.mix for p in found} == {"few", "both"}
    assert points(sweep, folder) == found


def test_a_run_is_an_adaptation_of_its_settings(folder):
    plan = points(read(folder), folder)[-1].plan()
    assert isinstance(plan, AdaptPlan)
    assert (plan.r, plan.target_modules, plan.lr, plan.seed) == (2, "all-linear", 0.02, 1)
    assert (plan.steps, plan.workers, plan.out.parent) == (4, 1, folder / "runs")
    assert (plan.gate, plan.eval_rows) == (False, 2)  # the sweep asks its own questions


def test_a_mix_may_replay_the_bases_own_tasks(folder):
    (folder / "sweep.toml").write_text(SWEEP.format(base="ward-base"))
    sweep = read(folder, '"other.jsonl" = 5', '"other.jsonl" = 5\nreplay = 0.25')
    found = points(sweep, folder)
    assert {(p.mix, p.plan().replay) for p in found} == {("few", 0.0), ("both", 0.25)}


def test_another_base_settings_data_or_code_are_other_runs(folder, other_base, monkeypatch):
    sweep = read(folder)
    names = {p.id for p in points(sweep, folder)}
    assert names.isdisjoint(p.id for p in points(sweep, folder, steps=9))
    assert names.isdisjoint(p.id for p in points(replace(sweep, choose_rows=5), folder))
    with monkeypatch.context() as patched:
        patched.setattr("minilora.runs.sweep.file.code_fingerprint", lambda rooms: "sha256:other")
        assert names.isdisjoint(p.id for p in points(sweep, folder))
    assert names.isdisjoint(p.id for p in points(replace(sweep, base=str(other_base)), folder))
    assert names == {p.id for p in points(sweep, folder)}


def test_a_mix_holds_the_rows_that_it_asks_for(folder):
    files = read(folder).write_data(folder / "data")
    rows = {
        name: [json.loads(line) for line in path.read_text().splitlines()]
        for name, path in files.items()
    }
    assert {name: len(own) for name, own in rows.items()} == {
        "choose": 6, "report": 4, "mix-few": 10, "mix-both": 35,
    }  # fmt: skip
    whole = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert all(row in whole for row in rows["mix-few"])
    assert rows["mix-few"] != whole[:10]  # drawn, not the first
    assert not [row for row in rows["choose"] if row in rows["report"]]
    first = [row in whole for row in rows["mix-both"]]
    assert first != sorted(first, reverse=True)  # the files are mixed, and not one after the other
    again = {n: p.read_bytes() for n, p in read(folder).write_data(folder / "again").items()}
    assert again == {name: path.read_bytes() for name, path in files.items()}


def test_the_fingerprint_is_of_settings_and_data(folder):
    first = read(folder).fingerprint
    assert read(folder).fingerprint == first
    (folder / "sweep.toml").write_text("# a remark\n" + (folder / "sweep.toml").read_text())
    assert read(folder).fingerprint == first
    write_jsonl(folder / "other.jsonl", pairs(41)[30:])
    assert read(folder).fingerprint != first
    write_jsonl(folder / "other.jsonl", pairs(40)[30:])
    assert read(folder, "r = [1, 2]", "r = [1, 3]").fingerprint != first


def test_a_sweep_whose_base_lies_beside_it_may_be_moved(folder, tmp_path_factory):
    moved, found = tmp_path_factory.mktemp("moved"), []
    shutil.copytree(folder, moved, dirs_exist_ok=True)
    for place, name in ((folder, "own"), (moved, "own"), (moved, "other")):
        (place / name).mkdir()
        (place / "sweep.toml").write_text(SWEEP.format(base=name))
        found.append(SweepFile.read(place / "sweep.toml").fingerprint)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("[grid]", "grid = [", ("sweep.toml",)),
        ("[grid]", "[gird]", ("gird", "grid")),
        ("[grid]", 'meant_to_change = ["public"]\n[grid]', ("meant_to_change", "suite")),
        ('eval = "eval.jsonl"', "", ("eval",)),
        ("r = [1, 2]", "rank = [1, 2]", ("rank",)),
        ("r = [1, 2]", "r = []", ("r",)),
        ("r = [1, 2]", "r = [1, 1]", ("r",)),
        ("r = [1, 2]", 'r = 1\ndata = ["some"]', ("some", "few")),
        ("choose_rows = 6", "choose_rows = 0", ("choose_rows", 0)),
        ("choose_rows = 6", "out = 'x'", ("out",)),
        ('eval = "eval.jsonl"', "eval = 3", ("eval", 3)),
        ('eval = "eval.jsonl"', 'eval = "eval.jsonl"\nsuite = ["a"]', ("suite", "a")),
        ("[data.few]", '[data."../few"]', ("data", "../few")),
        ("[data.few]", '[data.""]', ("data",)),
        ("r = [1, 2]", "r = [1, -2]", ("sweep.toml", "r", -2)),
        ("r = [1, 2]", 'r = "two"', ("r", "two")),
        ("r = [1, 2]", "r = {a = 1}", ("r", "a")),
        ("lr = 0.02", "lr = nan", ("lr", "nan")),
        ("lr = 0.02", "lr = 2020-01-01", ("lr", 2020)),
        ("steps = 4", "steps = 0", ("steps", 0)),
        ("steps = 4", "steps = 4\nvera = 'no'", ("vera", "no")),
        ("steps = 4", "steps = 4\nfreeze_a = 1", ("freeze_a", 1)),
        ("steps = 4", "steps = 4\ntokens = ['abc']", ("tokens", "abc")),
        ("steps = 4", "steps = 4\ntables = 'lm_head'", ("tables", "lm_head")),
        ("steps = 4", "steps = 4\nmax_length = 2.5", ("max_length", 2.5)),
        ("steps = 4", "steps = 4\nbase_dtype = 'q9'", ("q9", "nf4")),
        ("steps = 4", "steps = 4\nsuite = 'x'", ("suite",)),
        ('"train.jsonl" = 10', '"train.jsonl" = 10\nreplay = 0.2', ("sweep.toml", 0.2)),
        ('"train.jsonl" = 10', '"train.jsonl" = "ten"', ("train.jsonl", "ten")),
        ("r = [1, 2]", "replay = [0.1, 0.2]", ("replay",)),
        ('"train.jsonl" = 10', "replay = 0.1", ("data.few", "replay")),
        ('"train.jsonl" = 10', '"train.jsonl" = 10\nreplay = 1.0', ("replay", 1.0)),
        ("seed = [0, 1]", "seed = " + str(list(range(3000))), ("24,000", "10,000")),
        ("steps = 4", "steps = 4\n[halving]\nsteps = [2, 4]\nkeep = 0.5", ("steps", "halving")),
        ("steps = 4", "[halving]\nsteps = [4, 2]\nkeep = 0.5", ("steps", [4, 2])),
        ("steps = 4", "[halving]\nsteps = [2, 4]\nkeep = 1.5", ("keep", 1.5)),
        ("steps = 4", "[halving]\nstep = [2, 4]", ("halving", "steps", "keep")),
        (
            '[["q_proj", "v_proj"], "all-linear"]',
            '["q_proj", "v_proj"]',
            ("target_modules", "q_proj"),
        ),
        (
            '[["q_proj", "v_proj"], "all-linear"]',
            '[["q_proj", "v_proj"], ["all-linear"]]',
            ("target_modules", "all-linear"),
        ),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(folder, old, new, named):
    with refusal(ValueError, *named):
        read(folder, old, new)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("report_rows = 4", "report_rows = 40", (46, 12)),
        ('"train.jsonl" = 10', '"train.jsonl" = 31', (31, 30)),
    ],
)
def test_more_rows_than_there_are_are_refused(folder, old, new, named):
    with refusal(ValueError, *named):
        read(folder, old, new).write_data(folder / "data")
    assert not (folder / "data").exists()


def test_paths_count_from_the_file_wherever_a_run_is(folder, base, monkeypatch):
    (folder / "own base").symlink_to(base)
    (folder / "sweep.toml").write_text(SWEEP.format(base="own base"))
    monkeypatch.chdir(folder)
    sweep = SweepFile.read(Path("sweep.toml"))
    assert Path(sweep.base) == folder / "own base" and sweep.eval == folder / "eval.jsonl"
    assert all(part.path.is_absolute() for mix in sweep.mixes.values() for part in mix.parts)
    text = SWEEP.format(base="ward-base")
    (folder / "sweep.toml").write_text(text)
    assert SweepFile.read(Path("sweep.toml")).base == "ward-base"


def test_a_base_that_is_no_text_is_refused(folder, base):
    with refusal(ValueError, "sweep.toml", "base", 7):
        read(folder, f'base = "{base}"', "base = 7")


def test_an_adapter_that_the_base_has_no_room_for_is_refused(folder, base):
    model, _ = load_pretrained(base)
    read(folder).check(model)
    with refusal(ValueError, "sweep.toml", 1000):
        read(folder, "r = [1, 2]", "r = [1, 1000]").check(model)
    with refusal(ValueError, "sweep.toml", "up"):
        read(folder, '["q_proj", "v_proj"]', '["up"]').check(model)


@pytest.mark.parametrize(("rows", "wanted"), [(12, [0, 2, 4, 6, 8, 10]), (7, [0, 1, 2, 3, 4, 5])])
def test_the_rows_of_a_suite_lie_all_over_it(folder, rows, wanted):
    asked = pairs(12)[:rows]
    write_jsonl(folder / "suite.jsonl", asked)
    more = 'eval = "eval.jsonl"\nsuite = "suite.jsonl"\nsuite_rows = 6'
    path = read(folder, 'eval = "eval.jsonl"', more).write_data(folder / "data")["suite"]
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [asked.index(row) for row in found] == wanted


def test_a_suite_reaches_its_end_and_an_empty_one_is_refused(folder):
    write_jsonl(folder / "suite.jsonl", pairs(11))
    more = 'eval = "eval.jsonl"\nsuite = "suite.jsonl"\nsuite_rows = 6'
    sweep = read(folder, 'eval = "eval.jsonl"', more)
    rows = sweep.write_data(folder / "data")["suite"].read_text().splitlines()
    assert [pairs(11).index(json.loads(row)) for row in rows] == [0, 1, 3, 5, 7, 9]
    (folder / "suite.jsonl").write_text("")
    with refusal(ValueError, "suite.jsonl"):
        sweep.write_data(folder / "data")


def test_the_wards_sweep_can_be_read():
    sweep = SweepFile.read(ROOT / "data" / "sweep" / "ward.toml")
    assert sweep.runs == 72
    assert set(map(str, sweep.grid["target_modules"])) == {"['q_proj', 'v_proj']", "all-linear"}

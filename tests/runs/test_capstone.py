"""A capstone: its rows, its steps, killed and continued, its card, and what it says is missing."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from minilora import processes
from minilora.evaluation.merging import logits
from minilora.hub.bases import open_base
from minilora.lora import Adapter, base_fingerprint
from minilora.nn import bytes_by_format
from minilora.runs.capstone import CapstonePlan, missing, run_capstone
from minilora.runs.capstone import drive as driving
from minilora.runs.capstone import plan as planning
from minilora.runs.capstone import reload as reloading
from minilora.runs.capstone import rows as r
from minilora.runs.capstone import steps as stepping
from minilora.runs.capstone.card import verdict
from minilora.runs.capstone.missing import State
from minilora.runs.capstone.steps import STEPS
from minilora.text import answers as answering
from tests import tiny
from tests.cli.conftest import adapter, make_base, pairs, write_jsonl
from tests.says import names, refusal

__all__ = ["adapter"]
ALL = tuple(step.name for step in STEPS)


@pytest.fixture(autouse=True)
def without_peft(monkeypatch):
    """As where PEFT is not installed: tests/interop loads the folder in it."""
    monkeypatch.setattr(reloading, "PACKAGES", ("nosuchpackage",))


@pytest.fixture
def plan(base, tmp_path):
    """Four steps on 120 rows; `dataclasses.replace` makes others of it."""
    data = write_jsonl(tmp_path / "my.jsonl", pairs(120))
    suite = write_jsonl(tmp_path / "old.jsonl", pairs(8, start=500))
    return CapstonePlan(
        data=data, out=tmp_path / "out", base=str(base), suite=suite, steps=4, batch_size=4,
        lr=0.02, r=2, shots=1, workers=1,
    )  # fmt: skip


def checked(path, eval_data=None, limit=64):
    return r.check_rows(path, eval_data, tiny.tokenizer(), limit, 0)


def kinds(found):
    return {one.kind: one for one in found.findings}


# -- rows ------------------------------------------------------------------------------------------


def test_rows_without_a_fault_are_divided(tmp_path):
    found = checked(write_jsonl(tmp_path / "my.jsonl", pairs(120)), limit=128)
    assert not found.findings
    assert (len(found.train), len(found.held_out)) == (80, 40)
    assert not {row.key for row in found.train} & {row.key for row in found.held_out}
    again = checked(tmp_path / "my.jsonl", limit=128)
    assert [row.key for row in again.held_out] == [row.key for row in found.held_out]


def test_too_few_rows(tmp_path):
    found = kinds(checked(write_jsonl(tmp_path / "my.jsonl", pairs(60)), limit=128))
    assert found["too few rows"].stops and names(found["too few rows"].text, 60, 100)
    assert "too few rows" not in kinds(
        checked(write_jsonl(tmp_path / "my.jsonl", pairs(100)), limit=128)
    )


def test_few_rows_held_out(tmp_path):
    data = write_jsonl(tmp_path / "my.jsonl", pairs(120))
    held = write_jsonl(tmp_path / "eval.jsonl", pairs(10, start=200))
    assert kinds(checked(data, held, 128))["too few rows"].stops


def test_contradictory_rows_are_named(tmp_path):
    rows = pairs(120)
    rows[7] = {"prompt": f"  {rows[3]['prompt'].upper()} ", "completion": "Nobody knows."}
    found = kinds(checked(write_jsonl(tmp_path / "my.jsonl", rows), limit=128))
    assert found["contradiction"].stops and found["contradiction"].count == 1
    assert names(found["contradiction"].text, "my.jsonl:4", "my.jsonl:8")


def test_a_row_that_is_there_twice_is_left_out(tmp_path):
    rows = [*pairs(120), pairs(120)[5]]
    found = checked(write_jsonl(tmp_path / "my.jsonl", rows), limit=128)
    one = kinds(found)["duplicate"]
    assert not one.stops and names(one.text, "my.jsonl:6", "my.jsonl:121")
    assert len(found.train) + len(found.held_out) == 120


def test_a_leak_is_named(tmp_path):
    data = write_jsonl(tmp_path / "my.jsonl", pairs(100))
    held = write_jsonl(tmp_path / "eval.jsonl", [*pairs(40, start=200), pairs(100)[9]])
    found = kinds(checked(data, held, 128))
    assert found["leak"].stops and found["leak"].count == 1
    assert names(found["leak"].text, "my.jsonl:10", "eval.jsonl:41")


def test_a_patient_on_both_sides_is_a_leak_and_never_of_our_making(tmp_path):
    rows = [{**row, "patient": f"p{i // 4}"} for i, row in enumerate(pairs(120))]
    found = checked(write_jsonl(tmp_path / "my.jsonl", rows), limit=128)
    sides = [{row.case.patient for row in side} for side in (found.train, found.held_out)]
    assert all(sides) and not sides[0] & sides[1]
    other = [{**row, "patient": f"p{i}"} for i, row in enumerate(pairs(40, start=300), 25)]
    held = write_jsonl(tmp_path / "eval.jsonl", other)
    leak = kinds(checked(tmp_path / "my.jsonl", held, 128))["leak"]
    assert leak.stops and leak.count == 5  # p25 to p29


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"prompt": "Dose?", "completion": "  "}, "completion"),
        ({"prompt": "Dose?", "completion": None}, "completion"),
        ({"prompt": "Dose?"}, "completion"),
        ({"text": "Only a text."}, "text"),
        ("{not json", "JSON"),
    ],
)
def test_rows_that_cant_be_used(tmp_path, bad, told):
    found = checked(write_jsonl(tmp_path / "my.jsonl", [*pairs(119), bad]), limit=128)
    one = kinds(found)["can't be used"]
    assert not one.stops and one.count == 1 and names(one.text, "my.jsonl:120", told)
    assert len(found.train) + len(found.held_out) == 119
    many = checked(write_jsonl(tmp_path / "my.jsonl", [*pairs(119), *[bad] * 20]), limit=128)
    assert kinds(many)["can't be used"].stops


def test_rows_that_are_too_long_are_left_out(tmp_path):
    long = {"prompt": "Dose of heparin? " * 30, "completion": "5 mg."}
    found = checked(write_jsonl(tmp_path / "my.jsonl", [*pairs(119), long]), limit=64)
    assert kinds(found)["too long"].count == 1 and max(found.lengths) <= 64


def test_prompts_that_are_nearly_the_same_are_noted(tmp_path):
    words = " ".join(f"word{i}" for i in range(30))
    rows = [{"prompt": f"{words} {i}?", "completion": "5 mg."} for i in range(120)]
    one = kinds(checked(write_jsonl(tmp_path / "my.jsonl", rows), limit=999))["nearly the same"]
    assert not one.stops and one.count == 40


# -- the whole -------------------------------------------------------------------------------------


def test_from_rows_to_a_card(plan):
    done = run_capstone(plan)
    assert done.ran == ALL
    records = done.records
    shares = records["scores"]["shares"]
    assert list(shares) == ["base", "prompt", "adapter"]
    for share in shares.values():
        low, high = share["interval"]
        assert share["of"] == 40 and low <= share["exact"] <= high and high - low > 0.05
    assert records["adapter"]["fingerprint"] == Adapter.read(plan.out / "adapter").fingerprint
    assert records["gate"]["suites"] == ["old"]
    assert {m["name"] for m in records["gate"]["metrics"]} == {"task: exact", "old: exact"}
    assert records["reload"]["by"] == "minilora" and records["reload"]["difference"] == 0
    page, text = ((plan.out / name).read_text() for name in ("card.html", "card.md"))
    merged = json.loads((plan.out / "model" / "minilora_merge.json").read_text())
    for told in (page, text):
        assert names(told, merged["merged_fingerprint"], "nosuchpackage", "0 of 40")
    assert "![" in text and "data:image/png;base64," in page and "<script" not in page
    parts = missing(plan)
    assert not [part for part in parts if part.state is State.MISSING]
    assert {part.name for part in parts} == {*ALL, "card"}


def test_all_its_answers_are_dealt_to_as_many_processes(plan, monkeypatch):
    dealt = []

    def here(function, jobs, workers, done):
        dealt.append(workers)
        return [function(job) for job in jobs]

    monkeypatch.setattr(answering, "side_by_side", here)
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)  # what it would be by itself
    records = run_capstone(replace(plan, workers=3)).records
    tried, arms = len(records["prompt"]["tried"]), len(records["prompt"]["outputs"])
    # Then the adapter on the held-out rows, the base on the suite, and the merged model on both.
    assert dealt == [3] * (tried + arms + 1 + 1 + 2)


def test_what_is_done_is_not_done_again(plan, monkeypatch):
    first = run_capstone(plan)
    for step in STEPS:
        assert getattr(stepping, step.do.__name__) is step.do
    monkeypatch.setattr(stepping, "run", lambda *_: pytest.fail("trained again"))
    assert run_capstone(replace(plan, title="Another title", workers=2)).ran == ()
    assert (plan.out / "card.md").read_text().startswith("# Another title\n")
    shutil.rmtree(plan.out / "model")
    states = {part.name: part.state for part in missing(plan)}
    assert states["scores"] is not State.MISSING
    assert {states[name] for name in ("merged", "gate", "reload", "card")} == {State.MISSING}
    again = run_capstone(plan)
    assert again.ran == ("merged", "gate", "reload")
    assert again.records["merged"] == first.records["merged"]


def test_a_changed_adapter_is_made_again_with_all_that_follows(plan):
    first = run_capstone(plan)
    file = plan.out / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    again = run_capstone(plan)
    assert again.ran == ALL[ALL.index("adapter") :]
    seconds = {"adapter": {"seconds": 0}}
    drop = lambda done: {k: {**v, **seconds.get(k, {})} for k, v in done.records.items()}  # noqa: E731
    assert drop(again) == drop(first)


@pytest.mark.parametrize("stopped", ["prompt", "gate"])
def test_stopped_between_steps_it_goes_on(plan, monkeypatch, stopped):
    def stop(*_):
        raise KeyboardInterrupt

    cut = tuple(replace(s, do=stop) if s.name == stopped else s for s in STEPS)
    monkeypatch.setattr(driving, "STEPS", cut)
    with pytest.raises(KeyboardInterrupt):
        run_capstone(plan)
    monkeypatch.setattr(driving, "STEPS", STEPS)
    states = {part.name: part.state for part in missing(plan)}
    assert states[stopped] is states["card"] is State.MISSING
    assert states[ALL[ALL.index(stopped) - 1]] is not State.MISSING
    assert run_capstone(plan).ran == ALL[ALL.index(stopped) :]


@pytest.mark.processes
def test_killed_while_it_trains_it_goes_on_to_the_same_adapter(plan):
    plan = replace(plan, steps=400)
    process = multiprocessing.get_context("fork").Process(target=run_capstone, args=(plan,))
    process.start()
    wanted = plan.out / "adapter.run" / "checkpoints"
    until = time.monotonic() + 120
    while not (wanted.is_dir() and any(p.name.startswith("step-") for p in wanted.iterdir())):
        assert time.monotonic() < until and process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (plan.out / "adapter").exists()
    done = run_capstone(plan)
    assert done.ran == ALL[ALL.index("adapter") :]
    whole = run_capstone(replace(plan, out=plan.out.with_name("whole")))
    keys = ("fingerprint", "loss", "trained")
    one, other = (d.records["adapter"] for d in (done, whole))
    assert [one[key] for key in keys] == [other[key] for key in keys]
    assert (
        one["fingerprint"]
        != run_capstone(replace(plan, out=plan.out.with_name("other"), seed=1)).records["adapter"][
            "fingerprint"
        ]
    )


@pytest.mark.parametrize("reads", ["another", "plain"])
def test_a_folder_that_is_read_otherwise_is_refused(adapter, base, monkeypatch, reads):
    assert reloading.reload_adapter(adapter, str(base))["by"] == "minilora"
    ours = reloading.read_here

    def other(folder, name, dtype, ids):
        if reads == "another":
            return ours(folder, name, dtype, ids) + 1
        return logits(open_base(name)[0], ids)

    monkeypatch.setattr(reloading, "read_here", other)
    with refusal(ValueError, str(adapter)):
        reloading.reload_adapter(adapter, str(base))


@pytest.mark.parametrize("dtype", ["float16", "q4"])
def test_a_base_in_fewer_bits_is_the_base_of_every_step(plan, tmp_path, monkeypatch, dtype):
    """Opened otherwise in a step, the adapter would be refused there, or the figures be others."""
    wide = make_base(tmp_path / "wide", 0, width=32)
    plan, opened = replace(plan, base=str(wide), base_dtype=dtype), []
    real = planning.open_base

    def open_as(*words):
        opened.append(words)
        return real(*words)

    monkeypatch.setattr(planning, "open_base", open_as)
    done = run_capstone(plan)
    assert set(opened) == {(str(wide), dtype, "cpu")} and len(opened) >= 5
    records = done.records
    model, _ = open_base(str(wide), dtype)
    assert records["rows"]["base_fingerprint"] == base_fingerprint(model)
    assert base_fingerprint(model) != base_fingerprint(open_base(str(wide))[0])
    assert Adapter.read(plan.out / "adapter").provenance["base_dtype"] == dtype
    assert records["merged"]["from_adapted"] < records["merged"]["from_base"]
    assert records["gate"]["merged_otherwise"] == 0
    assert set(bytes_by_format(open_base(str(plan.out / "model"))[0])) == {"float32"}
    monkeypatch.setattr(reloading, "PACKAGES", ())  # as if PEFT could be asked
    told = reloading.reload_adapter(plan.out / "adapter", str(wide), dtype)
    assert told["by"] == records["reload"]["by"] == "minilora" and names(told["why"], dtype)
    for name in ("card.md", "card.html"):
        assert names((plan.out / name).read_text(), dtype)
    assert run_capstone(plan).ran == ()
    states = {part.name: part.state for part in missing(plan)}
    assert State.MISSING not in states.values()


def test_one_of_a_version_without_a_setting_goes_on(plan):
    run_capstone(plan)
    told = json.loads((plan.out / "capstone.json").read_text())
    del told["settings"]["base_dtype"], told["settings"]["device"]
    (plan.out / "capstone.json").write_text(json.dumps(told))
    assert run_capstone(plan).ran == ()
    del told["settings"]["seed"]
    (plan.out / "capstone.json").write_text(json.dumps(told))
    with refusal(ValueError, "seed", 0, 3):
        run_capstone(replace(plan, seed=3))


# -- refusals --------------------------------------------------------------------------------------


def test_rows_that_stop_a_capstone_leave_nothing(plan):
    write_jsonl(plan.data, [*pairs(119), {**pairs(1)[0], "completion": "Another."}])
    with refusal(ValueError, "contradiction", "my.jsonl:1", "my.jsonl:120", "--check"):
        run_capstone(plan)
    assert not plan.out.exists()
    states = {part.name: part for part in missing(plan)}
    assert states["data"].state is State.MISSING and names(states["data"].text, "my.jsonl:120")
    assert states["rows"].state is State.MISSING


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lr": 0.5}, ("lr", 0.02, 0.5)),
        ({"seed": 3}, ("seed", 0, 3)),
        ({"suite": None}, ("suite",)),
        ({"base_dtype": "float16"}, ("base_dtype", "float32", "float16")),
        ({"device": "gpu"}, ("device", "cpu", "gpu")),
    ],
)
def test_other_settings_are_refused(plan, monkeypatch, change, told):
    monkeypatch.setattr(driving, "STEPS", STEPS[:1])
    monkeypatch.setattr(driving, "write_card", lambda *_: Path("card.md"))
    run_capstone(plan)
    before = (plan.out / "capstone.json").read_bytes()
    for call in (run_capstone, missing):
        with refusal(ValueError, *told):
            call(replace(plan, **change))
    assert (plan.out / "capstone.json").read_bytes() == before
    write_jsonl(plan.data, pairs(121))
    with refusal(ValueError, "data"):
        run_capstone(plan)


def test_a_folder_of_something_else_is_refused(plan):
    plan.out.mkdir()
    (plan.out / "letter.txt").write_text("mine")
    with refusal(ValueError, "letter.txt"):
        run_capstone(plan)
    assert [path.name for path in plan.out.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shots": 0}, ("shots", 0)),
        ({"instruction": " "}, ("instruction",)),
        ({"r": 0}, ("r", 0)),
        ({"replay": 0.2}, ("replay",)),
        ({"base_dtype": "int4"}, ("'int4'", "q4")),
        ({"device": "cuda"}, ("'cuda'", "gpu")),
        ({"suite": Path("rows/task.jsonl")}, (Path("rows/task.jsonl"), "'task'")),
    ],
)
def test_plans_that_make_no_sense(plan, change, told):
    with refusal(ValueError, *told):
        replace(plan, **change)


@pytest.mark.parametrize(
    ("metric", "cured"),
    [("old: exact", True), ("old: exact, public", True), ("task: exact", False)],
)
def test_what_was_lost_of_the_base_has_a_cure(plan, metric, cured):
    run_capstone(plan)
    told = json.loads((plan.out / "capstone.json").read_text())
    failed = {"name": metric, "gating": True, "verdict": "fail"}
    told["steps"]["gate"] |= {"verdict": "fail", "metrics": [failed]}
    (plan.out / "capstone.json").write_text(json.dumps(told))
    gate = next(part for part in missing(plan) if part.name == "gate")
    assert gate.state is State.WEAK and names(gate.text, metric)
    assert ("--replay-data" in gate.text) is ("--replay 0.3" in gate.text) is cured


def test_without_a_suite_the_gate_is_what_is_missing(plan):
    plan = replace(plan, suite=None)
    done = run_capstone(plan)
    gates = [part for part in missing(plan) if part.name == "gate"]
    lacking = [part for part in gates if part.state is State.MISSING]
    assert len(lacking) == 1 and names(lacking[0].text, "--suite")
    assert "Nothing was asked" in (plan.out / "card.md").read_text()
    assert "on the task alone" in verdict(done.records)

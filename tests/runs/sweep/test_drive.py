"""The driver: real runs, the table, halving, and a sweep that is killed and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from minilora.lora import Adapter
from minilora.runs.sweep import SweepFile, drive, sweep
from minilora.runs.sweep.pools import Outcome
from tests.cli.conftest import pairs, write_jsonl
from tests.says import refusal

SWEEP = """
base = "{base}"
eval = "eval.jsonl"
suite = "suite.jsonl"
choose_rows = 4
report_rows = 4
suite_rows = 3
[grid]
r = [1, 2]
lr = 0.02
batch_size = 4
seed = [0, 1]
{more}
[data.all]
"train.jsonl" = true
"""


def write(base, folder, more="steps = 3"):
    write_jsonl(folder / "train.jsonl", pairs(20))
    write_jsonl(folder / "eval.jsonl", pairs(30)[20:])
    write_jsonl(folder / "suite.jsonl", pairs(36)[30:])
    (folder / "sweep.toml").write_text(SWEEP.format(base=base, more=more))
    return SweepFile.read(folder / "sweep.toml")


@pytest.mark.processes
def test_a_sweep_runs_all_and_then_nothing_again(base, tmp_path):
    file, out = write(base, tmp_path), tmp_path / "out"
    first = sweep(file, out, jobs=2)
    assert (first.ran, first.kept, first.failures) == (4, 0, {})
    assert [c.settings["r"] for c in sorted(first.found, key=lambda c: c.trained)] == [1, 2]
    for candidate in first.found:
        assert len(candidate.choose) == 2 and candidate.rows == 4 and len(candidate.suite) == 2
    adapters = [Adapter.read(path) for path in (out / "runs").iterdir() if path.suffix != ".run"]
    assert sorted(a.config.r for a in adapters) == [1, 1, 2, 2]
    table = json.loads((out / "table.json").read_text())
    assert table["found"] == [c.to_dict() for c in first.found]
    assert set(table["base"]) == {"all"} and 0 <= table["base"]["all"] <= 1
    again = sweep(file, out)
    assert (again.ran, again.kept, again.found) == (0, 4, first.found)


def test_groups_of_the_suite_are_told_and_what_may_change_decides_no_run(
    base, tmp_path, monkeypatch
):
    monkeypatch.setattr(drive, "on_this_machine", scored({}))
    write(base, tmp_path)
    rows = [{**row, "task": f"{'ab'[i % 2]}/x"} for i, row in enumerate(pairs(36)[30:])]
    write_jsonl(tmp_path / "suite.jsonl", rows)
    path = tmp_path / "sweep.toml"
    swept = sweep(SweepFile.read(path), tmp_path / "out")
    assert set(swept.base) == {"all", "a"}  # every second row is asked
    assert all(set(candidate.groups) == {"a"} for candidate in swept.found)
    path.write_text('meant_to_change = ["a"]\n' + path.read_text())
    again = sweep(SweepFile.read(path), tmp_path / "out")
    assert (again.ran, again.kept) == (0, 4)
    path.write_text(path.read_text().replace('["a"]', '["c"]'))
    with refusal(ValueError, "meant_to_change", "c", "a"):
        sweep(SweepFile.read(path), tmp_path / "out")


def test_a_folder_of_another_sweep_is_refused(base, tmp_path, monkeypatch):
    monkeypatch.setattr(drive, "on_this_machine", scored({}))
    sweep(write(base, tmp_path), tmp_path / "out")
    before = (tmp_path / "out" / "ledger.jsonl").read_bytes()
    with refusal(ValueError, "ledger.jsonl"):
        sweep(write(base, tmp_path, "steps = 5"), tmp_path / "out")
    assert (tmp_path / "out" / "ledger.jsonl").read_bytes() == before


def scored(scores, fail=(), kept=3):
    """A pool whose runs get the score of their rank, but for the ranks that fail.

    kept: questions of the suite, all answered; 0 for a sweep without one.
    """

    def pool(points, jobs=0):
        for point in points:
            r = point.settings["r"]
            if r in fail:
                yield Outcome(point, None, "ValueError: no")
                continue
            right = [i < scores.get(r, 2) for i in range(4)]
            parts = {"choose": right, "report": right}
            if kept:
                parts["suite"] = [True] * kept
            yield Outcome(point, {"right": parts, "trained": r, "seconds": 1.0, "loss": 0.0})

    return pool


def test_halving_drops_the_worse_before_they_cost_much(base, tmp_path, monkeypatch):
    monkeypatch.setattr(drive, "on_this_machine", scored({1: 1, 2: 4, 3: 2, 4: 3}))
    more = "[halving]\nsteps = [2, 4, 8]\nkeep = 0.5"
    file = write(base, tmp_path, more)
    (tmp_path / "sweep.toml").write_text(file.path.read_text().replace("[1, 2]", "[1, 2, 3, 4]"))
    swept = sweep(SweepFile.read(file.path), tmp_path / "out")
    assert swept.ran == 8 + 4 + 2
    assert [c.settings for c in swept.found] == [
        {"data": "all", "r": 2, "lr": 0.02, "batch_size": 4, "steps": 8}
    ]
    assert [(c.settings["r"], c.settings["steps"]) for c in swept.dropped] == [
        (3, 2), (1, 2), (4, 4),
    ]  # fmt: skip


def test_failures_of_every_rung_are_told(base, tmp_path, monkeypatch):
    more = "[halving]\nsteps = [2, 4]\nkeep = 0.5"
    file = write(base, tmp_path, more)
    monkeypatch.setattr(drive, "on_this_machine", scored({}, fail={1}))
    swept = sweep(file, tmp_path / "out")
    assert len(swept.failures) == 2 and [c.settings["r"] for c in swept.found] == [2]
    monkeypatch.setattr(drive, "on_this_machine", scored({}, fail={1, 2}))
    swept = sweep(file, tmp_path / "other")
    assert len(swept.failures) == 4 and not swept.found


def test_what_was_done_before_is_of_this_code_alone(base, tmp_path, monkeypatch):
    file, out = write(base, tmp_path), tmp_path / "out"
    monkeypatch.setattr(drive, "on_this_machine", scored({}))
    sweep(file, out)
    monkeypatch.setattr("minilora.runs.sweep.file.code_fingerprint", lambda rooms: "sha256:other")
    swept = sweep(file, out)
    assert (swept.ran, swept.kept) == (4, 0)


@pytest.mark.parametrize(
    ("how", "named"),
    [({"jobs": -1}, ("jobs", -1)), ({"jobs": 2, "scheduler": "tcp://127.0.0.1:9"}, ("jobs", 2)),
     ({"jobs": 2, "device": "gpu"}, ("jobs", 2)), ({"device": "tpu"}, ("tpu",))],
)  # fmt: skip
def test_where_it_can_t_run_is_refused_before_there_is_a_folder(base, tmp_path, how, named):
    with refusal(ValueError, *named):
        sweep(write(base, tmp_path), tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dask", [True, False])
def test_a_scheduler_that_can_t_be_reached_leaves_no_folder(base, tmp_path, dask, monkeypatch):
    if dask:
        pytest.importorskip("distributed")
        monkeypatch.setattr("minilora.runs.sweep.pools.CONNECT_SECONDS", 1)
    else:
        monkeypatch.setitem(sys.modules, "distributed", None)  # as if it were not installed
    with refusal(ValueError, *(["127.0.0.1:9"] if dask else ["--scheduler", "cluster"])):
        sweep(write(base, tmp_path), tmp_path / "out", scheduler="tcp://127.0.0.1:9")
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_not_there_leaves_no_folder(base, tmp_path):
    file = replace(write(base, tmp_path), base="nowhere")
    with refusal(ValueError, "nowhere", "sweep.toml"):
        sweep(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_asked_for_twice_is_run_once(base, tmp_path, monkeypatch):
    handed = []

    def pool(points, jobs=0):
        handed.extend(points)
        return scored({})(points)

    monkeypatch.setattr(drive, "on_this_machine", pool)
    file = write(base, tmp_path)
    text = file.path.read_text() + '[data.same]\n"train.jsonl" = true\n'
    file.path.write_text(text)  # another name for the same rows
    swept = sweep(SweepFile.read(file.path), tmp_path / "out")
    assert len(handed) == swept.ran == 4 and swept.kept == 0
    assert sorted(c.settings["data"] for c in swept.found) == ["all", "all", "same", "same"]


def test_failed_runs_alone_are_run_again(base, tmp_path, monkeypatch):
    file, out = write(base, tmp_path), tmp_path / "out"
    monkeypatch.setattr(drive, "on_this_machine", scored({}, fail={2}))
    swept = sweep(file, out)
    assert len(swept.failures) == 2 and [c.settings["r"] for c in swept.found] == [1]
    monkeypatch.setattr(drive, "on_this_machine", scored({}))
    swept = sweep(file, out)
    assert (swept.ran, swept.kept, swept.failures, len(swept.found)) == (2, 2, {}, 2)


@pytest.mark.slow
@pytest.mark.processes
def test_a_sweep_that_is_killed_goes_on_without_doing_anything_twice(base, tmp_path):
    file, out = write(base, tmp_path, "steps = 40"), tmp_path / "out"
    command = [sys.executable, "-m", "minilora", "sweep", str(file.path), "--out", str(out)]
    command += ["--jobs", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet)

    def done():
        path = out / "ledger.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        return [line["id"] for line in whole if line.get("state") == "done"]

    until = time.monotonic() + 120
    while not done() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = done()
    assert 1 <= len(before) < 4
    subprocess.run(command, check=True, timeout=120, **quiet)
    after = done()
    assert sorted(after) == sorted(set(after)) and len(after) == 4
    assert set(before) < set(after)

"""Pools: the processes of this machine and those of a Dask cluster, some of which die."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from minilora.runs.sweep import Point, pools
from minilora.runs.sweep.pools import (
    guarded,
    on_a_cluster,
    on_cards,
    on_this_machine,
    visible_cards,
)
from tests.runs.sweep import work
from tests.says import names, refusal

pytestmark = pytest.mark.processes


@pytest.fixture
def points(tmp_path):
    return [Point(f"run{r}", {"r": r}, "all", {}, tmp_path / f"run{r}") for r in range(6)]


def ranks(outcomes):
    assert all(o.error == "" for o in outcomes)
    return sorted(o.result["r"] for o in outcomes)


def test_every_run_has_its_outcome(points):
    outcomes = list(on_this_machine(points, 2, work.quick))
    assert ranks(outcomes) == list(range(6))
    assert os.getpid() not in {o.result["pid"] for o in outcomes}


def test_a_process_that_dies_costs_no_run(points):
    assert ranks(list(on_this_machine(points, 2, work.dies_once))) == list(range(6))


def test_where_every_process_dies_the_runs_fail(points):
    outcomes = list(on_this_machine(points[:2], 2, work.dies))
    assert len(outcomes) == 2
    assert all(o.result is None and "died" in o.error for o in outcomes)


def test_a_run_that_fails_says_why(points):
    files = dict.fromkeys(("train", "choose", "report"), Path("missing.jsonl"))
    (outcome,) = on_this_machine([replace(points[1], files=files)], 1, guarded)
    assert outcome.result is None and names(outcome.error, "missing.jsonl")


def test_an_error_of_any_kind_is_that_runs_own(points, monkeypatch):
    monkeypatch.setattr("minilora.runs.sweep.pools.run_point", work.fails)
    outcome = guarded(points[3])
    assert outcome.point == points[3] and outcome.result is None
    assert names(outcome.error, "RuntimeError", 3)


POOLS = {
    "cores": "on_this_machine(points, 2, work.waits)",
    "cards": "on_cards(points, ['0', '1'], work.waits)",
}
HANDS_OUT = """
import sys
from pathlib import Path
from minilora.runs.sweep import Point
from minilora.runs.sweep.pools import on_cards, on_this_machine
from tests.runs.sweep import work
if __name__ == "__main__":
    out = Path(sys.argv[1])
    points = [Point(f"run{{r}}", {{"r": r}}, "all", {{}}, out / f"run{{r}}") for r in range(6)]
    list({pool})
"""


def beginning(folder, count):
    """The processes that said in a file that they began a run, once there are so many."""
    until = time.monotonic() + 60
    while len(begun := list(folder.glob("run*.*"))) < count:
        assert time.monotonic() < until
        time.sleep(0.02)
    return [int(path.suffix[1:]) for path in begun]


def ended(pid):
    """Whether a process is over, or waits for nothing but to be counted as dead."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("pool", POOLS)
def test_processes_end_with_the_one_that_hands_out_the_runs(tmp_path, pool, signal_):
    script = tmp_path / "hands_out.py"
    script.write_text(HANDS_OUT.format(pool=POOLS[pool]))
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        workers = beginning(tmp_path, 2)
        if signal_ == signal.SIGINT:  # as Ctrl-C, to all of a terminal's processes
            for worker in workers:  # to them before the one that can end them
                os.kill(worker, signal_)
            time.sleep(0.3)
            os.killpg(parent.pid, signal_)
        else:
            os.kill(parent.pid, signal_)
        parent.wait(30)
        until = time.monotonic() + 30
        while not all(map(ended, workers)) and time.monotonic() < until:
            time.sleep(0.05)
        assert all(map(ended, workers))
        assert len(list(tmp_path.glob("run*.*"))) == 2  # no further run was begun
    finally:
        with contextlib.suppress(OSError):
            os.killpg(parent.pid, signal.SIGKILL)


def test_two_sweeps_of_one_file_are_apart_on_a_cluster(points, tmp_path):
    distributed = pytest.importorskip("distributed")
    others = [replace(p, out=tmp_path / "other" / p.id) for p in points[:2]]
    (tmp_path / "other").mkdir()
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        found = []
        thread = threading.Thread(
            target=lambda: found.extend(on_a_cluster(others, address, work.slow))
        )
        thread.start()
        own = list(on_a_cluster(points[:2], address, work.slow))
        thread.join()
    assert {o.point.out for o in own} == {p.out for p in points[:2]}
    assert {o.point.out for o in found} == {p.out for p in others}


def test_a_scheduler_that_ends_fails_the_runs_and_stops_nothing_else(points):
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    )
    outcomes = on_a_cluster(points, cluster.scheduler_address, work.slow)
    first = next(outcomes)
    cluster.close()
    rest = list(outcomes)
    assert first.error == "" and len(rest) == 5
    assert any(o.result is None and names(o.error, "scheduler") for o in rest)


def test_a_cluster_survives_the_death_of_a_worker(points, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:

        def kill_one():
            while not (begun := list(tmp_path.glob("run*.*"))):
                time.sleep(0.02)
            os.kill(int(begun[0].suffix[1:]), signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        outcomes = list(on_a_cluster(points, cluster.scheduler_address, work.slow))
        killer.join()
    assert ranks(outcomes) == list(range(6))
    begun = [path.stem for path in tmp_path.glob("run*.*")]
    assert len(begun) > 6  # what the dead worker had begun was begun again


def test_a_scheduler_that_is_not_there_is_refused(points, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("minilora.runs.sweep.pools.CONNECT_SECONDS", 1)
    with refusal(ValueError, "127.0.0.1:9"):
        list(on_a_cluster(points, "tcp://127.0.0.1:9", partial(work.quick)))


def test_each_card_has_one_process_that_sees_no_other(points):
    found = list(on_cards(points, ["4", "GPU-7"], work.on_a_card))
    assert ranks(found) == list(range(6))
    pairs = {(o.result["card"], o.result["pid"]) for o in found}
    assert {card for card, _ in pairs} == {"4", "GPU-7"} and len(pairs) == 2
    assert os.environ.get("CUDA_VISIBLE_DEVICES") not in ("4", "GPU-7")


def test_a_card_whose_process_dies_is_used_again(points):
    assert ranks(list(on_cards(points, ["0", "1"], work.dies_once))) == list(range(6))
    found = list(on_cards(points[:2], ["0"], work.dies))
    assert all(o.result is None and o.error for o in found) and len(found) == 2


def test_the_cards_that_are_seen(monkeypatch, points):
    monkeypatch.setattr(pools, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_cards() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert visible_cards() == ["3", "5"]
    monkeypatch.setattr(pools, "device_count", lambda: 0)
    with refusal(ValueError, "--device", "gpu"):
        list(on_cards(points))

"""Turns: which count, what their ratios are, and what happens when a side goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minilora.bench import race as r
from minilora.bench import workloads as w
from tests.says import refusal

LORA = w.JOBS["lora-qv"]


def result(tiny, *rounds):
    """Rounds of (ours, theirs), each a wall time or (wall time, foreign load)."""
    made = r.Result(tiny, LORA, about={"minilora@1": {}, "torch@1": {}, "torch@2": {}})
    for walls in rounds:
        turns = [t if isinstance(t, tuple) else (t, 0.0) for t in walls]
        names = ["minilora@1", "torch@1", "torch@2"]
        made.rounds.append(
            {n: r.Turn(wall, wall / 2, f) for n, (wall, f) in zip(names, turns, strict=False)}
        )
    return made


def test_a_ratio_is_the_median_of_ratios_within_rounds(tiny):
    made = result(tiny, (1.0, 3.0), (2.0, 2.0), (1.0, 2.0), (4.0, 2.0), (1.0, 9.0))
    ratio = made.ratio("torch@1", "minilora@1")
    assert ratio == {"median": 2.0, "low": 1.0, "high": 3.0, "pairs": 5, "dropped": 0}


def test_spoilt_pairs_are_dropped_and_counted_but_not_for_cpu_time(tiny):
    made = result(tiny, (1.0, 3.0), ((1.0, 0.2), 50.0), (1.0, (70.0, 0.13)), (1.0, (5.0, 0.12)))
    ratio = made.ratio("torch@1", "minilora@1")
    assert (ratio["median"], ratio["pairs"], ratio["dropped"]) == (4.0, 2, 2)
    assert made.ratio("torch@1", "minilora@1", "cpu")["pairs"] == 4
    assert made.clean_rounds() == 2
    assert made.seconds("torch@1") == 5.0  # of 3, 50 and 5: its own turns that are clean


def test_no_clean_pair_is_no_ratio(tiny):
    ratio = result(tiny, ((1.0, 0.5), 2.0)).ratio("torch@1", "minilora@1")
    assert ratio == {"median": None, "low": None, "high": None, "pairs": 0, "dropped": 1}


def test_best_is_the_faster_setting(tiny):
    made = result(tiny, (1.0, 3.0, 2.0), (1.0, 3.0, 4.0), (1.0, 3.0, 2.5))
    assert made.best("torch") == "torch@2"
    assert made.best("textbook") is None


@pytest.mark.parametrize("key", ["loss", "loss_after"])
def test_sides_that_compute_another_loss_are_refused(tiny, key):
    made = result(tiny)
    made.about = {name: {"loss": 3.0, "loss_after": 2.9} for name in ("minilora@1", "torch@1")}
    made.about["matmul@1"] = {"loss": 0.0, "loss_after": 0.0}
    made.check_losses()
    made.about["torch@1"][key] *= 1.001
    with refusal(ValueError, key, "torch@1"):
        made.check_losses()


@pytest.mark.processes
def test_a_side_that_dies_is_told_with_its_last_words(tiny):
    side = r.Side("matmul", 1, {"workload": tiny.to_dict(), "job": "no such job", "folder": ""})
    with refusal(ChildProcessError, "matmul@1", 1, "KeyError"):
        side.start(0.01)
    side.close()


@pytest.mark.parametrize("count", [{"pairs": 0}, {"pairs": 1, "starts": 0}])
def test_no_pairs_or_no_start_are_refused(tiny, count):
    with refusal(ValueError, 1):
        r.race(tiny, LORA, [("minilora", 1)], **count)


def test_workloads_survive_json(tiny):
    for workload in (*w.WORKLOADS.values(), tiny):
        assert w.Workload.from_dict(workload.to_dict()) == workload


@pytest.mark.processes
def test_the_full_step_beside_a_lora_step_has_another_loss(tiny):
    sides = [("minilora", 1), ("full", 1), ("blas", 2)]
    made = r.race(tiny, LORA, sides, pairs=1, starts=1, seconds=0.01)
    lora, full, threads = (made.about[name] for name in ("minilora@1", "full@1", "blas@2"))
    assert lora["loss"] != full["loss"] and lora["loss"] == threads["loss"]
    assert lora["loss_after"] == pytest.approx(threads["loss_after"], rel=1e-6)
    assert made.best("minilora") == "minilora@1"


def test_the_ward_base_is_a_workload():
    path = Path(__file__).resolve().parents[2] / "data" / "ward-base" / "config.json"
    shipped, measured = json.loads(path.read_text()), w.WORKLOADS["W"].config.to_dict()
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                 "num_attention_heads", "num_key_value_heads", "head_dim"):  # fmt: skip
        assert measured[name] == shipped[name], name


RUNNER = """
import json, subprocess, sys, time
side = subprocess.Popen(
    [sys.executable, "-m", "minilora.bench.sides", sys.argv[1]],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
)
side.stdout.readline()
side.stdin.write(json.dumps({"steps": 10**12}) + "\\n")
side.stdin.flush()
print(side.pid, flush=True)
time.sleep(600)
"""


def running(pid):
    """Whether a process is there and has not ended, by Linux's word."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
def test_a_side_ends_with_its_runner_in_the_middle_of_a_turn(tiny):
    spec = {"kind": "matmul", "threads": 1, "workload": tiny.to_dict(), "job": "lora-qv"}
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, json.dumps({**spec, "folder": ""})],
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(runner.stdout.readline())
    assert running(pid)
    runner.kill()
    runner.communicate()
    for _ in range(200):
        if not running(pid):
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the side went on without its runner")

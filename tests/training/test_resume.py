"""A run that is killed at any moment and resumed equals one that never stopped, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minilora import storage
from minilora.training import checkpoint
from minilora.training.checkpoint import checkpoints
from minilora.training.history import History

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills and forks processes"),
]

VARIANTS = ["full", "lora with dropout, two workers"]
PROGRAM = "tests.training.tinyrun"


@pytest.fixture(scope="module")
def unbroken(tiny, tmp_path_factory):
    """Folder of an uninterrupted run of each variant."""
    folder = tmp_path_factory.mktemp("unbroken")
    for variant in VARIANTS:
        tiny.run(folder / variant, variant)
    return folder


def lives(folder):
    """The history without what a clock says."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


def assert_same_run(folder, other, steps):
    assert [r["step"] for r in lives(folder)] == list(range(1, steps + 1))
    assert lives(folder) == lives(other)
    with np.load(folder / "final.npz") as a, np.load(other / "final.npz") as b:
        assert a.keys() == b.keys() and len(a) > 20
        for name in a:
            assert a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes(), name


def start(out, variant, mode, pause):
    root = Path(checkpoint.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", PROGRAM, str(out), variant, mode, str(pause)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(condition, process=None, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_killed_program_resumes_to_the_same_bits(tiny, unbroken, tmp_path, variant):
    """SIGKILL once soon and once later, then run to the end in a third process."""
    out = tmp_path / "run"
    for after, mode in ((3, "new"), (14, "resume")):
        process = start(out, variant, mode, pause=0.02)
        wait_for(lambda n=after: lines_in(out / "history.jsonl") >= n, process)
        process.kill()
        process.communicate(timeout=30)  # its output ends when its workers have left, too
        assert process.returncode == -signal.SIGKILL
    assert not (out / "final.npz").exists()
    assert checkpoints(out / "checkpoints")  # the third process has something to resume from
    last = start(out, variant, "resume", pause=0.0)
    last.communicate(timeout=60)
    assert last.returncode == 0
    assert_same_run(out, unbroken / variant, tiny.STEPS)


# -- kills at the worst moments ----------------------------------------------------------------


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def half_a_line(monkeypatch):
    """While the 13th line of the history is being written."""
    add = History.add

    def cut(self, record):
        if record["step"] == 13:
            with self.path.open("a") as file:
                file.write(json.dumps(record)[:37])
            die()
        add(self, record)

    monkeypatch.setattr(History, "add", cut)


def before_the_third_checkpoint_takes_its_name(monkeypatch):
    calls, place = [], storage._put_in_place

    def placed(*args):
        calls.append(args)
        if len(calls) == 3:
            die()
        place(*args)

    monkeypatch.setattr(storage, "_put_in_place", placed)


def half_way_through_the_first_checkpoint(monkeypatch):
    monkeypatch.setattr(Path, "write_text", lambda path, *_: path.name == "state.json" and die())


def while_the_oldest_checkpoint_is_deleted(monkeypatch):
    rmtree = shutil.rmtree

    def half(path, ignore_errors=False):
        if ignore_errors:  # the clearing up of atomic_folder
            return rmtree(path, ignore_errors)
        (path / "trainable.safetensors").unlink()
        die()

    monkeypatch.setattr(shutil, "rmtree", half)


def between_history_and_checkpoint(monkeypatch):
    def save(*args, step, **kwargs):
        if step == 15:
            die()
        return checkpoint.save_checkpoint(*args, step=step, **kwargs)

    monkeypatch.setattr("minilora.training.saved_run.save_checkpoint", save)


def inside_an_update(monkeypatch):
    """Half of the parameters are new and half are old."""
    update, calls = checkpoint.Optimizer.step, []

    def half(self, lr):
        calls.append(lr)
        if len(calls) == 12:
            self.parameters = dict(list(self.parameters.items())[:3])
            update(self, lr)
            die()
        update(self, lr)

    monkeypatch.setattr(checkpoint.Optimizer, "step", half)


MOMENTS = [  # where it dies, the step of the newest checkpoint then, and the variant
    (half_a_line, 10, VARIANTS[0]),
    (half_a_line, 10, VARIANTS[1]),
    (before_the_third_checkpoint_takes_its_name, 10, VARIANTS[1]),
    (half_way_through_the_first_checkpoint, None, VARIANTS[0]),
    (while_the_oldest_checkpoint_is_deleted, 15, VARIANTS[1]),
    (between_history_and_checkpoint, 10, VARIANTS[0]),
    (inside_an_update, 10, VARIANTS[1]),
]


@pytest.mark.parametrize(
    ("moment", "newest", "variant"), MOMENTS, ids=[f"{m.__name__}, {v}" for m, _, v in MOMENTS]
)
def test_a_kill_at_the_worst_moment_loses_nothing(
    tiny, unbroken, tmp_path, monkeypatch, moment, newest, variant
):
    out, context = tmp_path / "run", multiprocessing.get_context("fork")
    with monkeypatch.context() as patch:
        moment(patch)
        process = context.Process(target=tiny.run, args=(out, variant))
        process.start()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    saved = checkpoints(out / "checkpoints")
    assert [p.name for p in saved[-1:]] == ([f"step-{newest:06d}"] if newest else [])
    resumed = context.Process(target=tiny.run, args=(out, variant, True))
    resumed.start()
    resumed.join(60)
    assert resumed.exitcode == 0
    assert_same_run(out, unbroken / variant, tiny.STEPS)
    assert len(checkpoints(out / "checkpoints")) == 2

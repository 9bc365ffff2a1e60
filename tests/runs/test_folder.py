"""RunFolder: one writer at a time, what a kill leaves, and a symbolic link as the place."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from minilora.cli.app import main
from minilora.lora import Adapter
from minilora.runs import RunFolder, RunHeldError, TourPlan, run
from minilora.runs.folder import HOLDER, LOCK
from minilora.runs.merge import merge_adapter
from minilora.training import History
from tests.says import error_line, refusal

posix = pytest.mark.skipif(os.name == "nt", reason="signals and links of POSIX")


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_that_is_held_is_refused_at_once_and_says_by_whom(plan):
    folder = plan.folder
    with folder.held():
        assert entries(folder.path) == [HOLDER, LOCK]
        began = time.monotonic()
        for second in (plan, replace(plan, resume=True), replace(plan, seed=3)):
            with refusal(RunHeldError, folder.path, os.getpid()):
                run(second)
        assert time.monotonic() - began < 20  # refused, and not waited for
        assert entries(folder.path) == [HOLDER, LOCK]
    assert not folder.path.exists()
    run(plan)


def test_the_command_says_it_in_one_line(plan, base, data, capsys):
    argv = ["adapt", "--data", str(data), "--base", str(base), "--out", str(plan.out)]
    with plan.folder.held():
        assert main(argv) == 1
        assert str(os.getpid()) in error_line(capsys)
        assert main([*argv, "--resume"]) == 1
        assert str(os.getpid()) in error_line(capsys)


@pytest.mark.parametrize("command", ["tour", "pretrain"])
def test_every_run_holds_its_folder(command, tmp_path, capsys):
    out = tmp_path / "out"
    with RunFolder(out).held():
        assert main([command, "--out", str(out), "--steps", "1", "--workers", "1"]) == 1
        assert str(os.getpid()) in error_line(capsys)
    assert entries(tmp_path) == []


def test_two_places_do_not_wait_for_each_other(plan):
    with RunFolder(plan.out.with_name("other")).held():
        run(plan)


def hold(path, ready):
    with RunFolder(path).held():
        ready.set()
        time.sleep(60)


@posix
@pytest.mark.processes
def test_a_killed_process_holds_nothing(plan):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(plan.out, ready))
    process.start()
    assert ready.wait(60)
    with refusal(RunHeldError, process.pid), plan.folder.held():
        pass
    process.kill()
    process.join()
    assert entries(plan.folder.path) == [HOLDER, LOCK]  # files, and no lock
    run(plan)
    assert entries(plan.folder.path) == ["history.jsonl", "run.json"]


@posix
@pytest.mark.processes
def test_a_killed_run_with_workers_holds_nothing_and_is_resumed(plan, base, data):
    """Its workers inherit the lock, and end with it."""
    flags = ["--steps", "100000", "--batch-size", "4", "--lr", "0.001", "--r", "2"]
    where = ["--data", str(data), "--base", str(base), "--out", str(plan.out), "--workers", "2"]
    code = "import sys; from minilora.cli.app import main; sys.exit(main())"
    argv = [sys.executable, "-c", code, "adapt", *where, *flags]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        history, until = plan.folder.path / "history.jsonl", time.monotonic() + 60
        while not history.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        with refusal(RunHeldError, process.pid):
            run(plan)
        process.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while time.monotonic() < until:  # the workers see that their parent is gone
        try:
            with plan.folder.held():
                break
        except RunHeldError:
            time.sleep(0.05)
    run(plan)
    assert Adapter.read(plan.out).provenance["training"]["steps"] == 4


@posix
def test_a_disk_without_locks_is_warned_of_and_written(plan, monkeypatch):
    def unlockable(self, blocking=True):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("filelock.FileLock.acquire", unlockable)
    with pytest.warns(UserWarning, match="knows no locks"), plan.folder.held():
        assert HOLDER in entries(plan.folder.path)
    assert not plan.folder.path.exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_is_told_with_the_file(plan):
    history = History(path=plan.out.with_name("history.jsonl"))
    history.path.symlink_to("/dev/full")
    with refusal(OSError, history.path, os.strerror(errno.ENOSPC)):
        history.add({"step": 1})


# -- a symbolic link as the place ------------------------------------------------------------------


@posix
def test_a_link_to_a_folder_stays_and_its_target_is_written(plan, tmp_path):
    target = tmp_path / "disk" / "mine"
    target.mkdir(parents=True)
    plan.out.symlink_to(target, target_is_directory=True)
    result = run(plan)
    assert plan.out.is_symlink() and plan.out.resolve() == target
    assert Adapter.read(target) == Adapter.read(plan.out)
    assert result.folder == tmp_path / "disk" / "mine.run"
    assert entries(tmp_path / "disk") == ["mine", "mine.run"]
    run(replace(plan, seed=1))  # and again, over an adapter
    assert plan.out.is_symlink() and entries(tmp_path / "disk") == ["mine", "mine.run"]
    with RunFolder(target).held(), refusal(RunHeldError, result.folder):
        run(plan)


@posix
def test_a_link_to_nothing_makes_what_it_points_to(plan, tmp_path):
    plan.out.symlink_to(tmp_path / "disk" / "mine")
    run(plan)
    assert plan.out.is_symlink() and Adapter.read(tmp_path / "disk" / "mine")


@posix
def test_a_link_to_itself_is_one_clear_error(plan):
    plan.out.symlink_to(plan.out)
    with pytest.raises(OSError) as caught:
        run(plan)
    assert str(plan.out) in str(caught.value)
    assert plan.out.is_symlink()


@posix
def test_merge_follows_a_link_too(plan, tmp_path):
    run(plan)
    merged = tmp_path / "merged"
    merged.symlink_to(tmp_path / "disk" / "model")
    merge_adapter(plan.out, merged)
    assert merged.is_symlink() and "config.json" in entries(tmp_path / "disk" / "model")


@posix
def test_a_link_to_something_else_is_refused(plan, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "thesis.docx").write_text("mine")
    plan.out.symlink_to(tmp_path / "disk")
    with refusal(ValueError, plan.out, "thesis.docx"):
        run(plan)
    with refusal(ValueError, plan.out, "thesis.docx"):
        run(TourPlan(out=plan.out))
    assert entries(tmp_path / "disk") == ["thesis.docx"]


# -- what is in it ---------------------------------------------------------------------------------


def test_a_run_from_before_run_json_is_continued_and_not_begun_anew(tmp_path):
    folder = RunFolder(tmp_path / "base")
    (folder.checkpoints / "step-000010").mkdir(parents=True)
    (folder.path / "history.jsonl").write_text("")
    assert folder.read() == {"settings": None, "state": "running"} and folder.is_running()
    folder.check(resume=True)
    folder.check_settings({"seed": 3})
    with refusal(ValueError, "step-000010", "--resume"):
        folder.check(resume=False)


def test_settings_are_told_apart_by_their_values(tmp_path):
    folder = RunFolder(tmp_path / "out")
    settings = {"lr": 0.1, "target_modules": ("q_proj",), "eval": None}
    folder.begin(settings)
    folder.check_settings(settings)
    with refusal(ValueError, "lr", 0.1, 0.2):
        folder.check_settings({**settings, "lr": 0.2})
    assert json.loads((folder.path / "run.json").read_text())["settings"]["lr"] == 0.1

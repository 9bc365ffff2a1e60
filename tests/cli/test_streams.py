"""Consoles with a code page of their own, and a system without fork and SIGALRM, simulated."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from minilora.cli.streams import take_any_text
from minilora.course.source import ROOT
from tests.says import names

ELSEWHERE = """
import multiprocessing, os, signal
for place, names in ((os, ("fork", "forkpty")), (signal, ("SIGALRM", "setitimer", "alarm"))):
    for name in names:
        if hasattr(place, name):
            delattr(place, name)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
"""
"""What a sitecustomize does to be another system."""


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


def written(kind, encoding):
    raw = io.BytesIO()
    stream = kind(raw, encoding=encoding)
    take_any_text(stream)
    stream.write("ΔW ○ é")
    stream.flush()
    return raw.getvalue()


def test_a_terminal_shows_what_it_can():
    assert written(Terminal, "cp1252").decode("cp1252") == "?W ? é"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_file_gets_every_character(encoding):
    assert written(io.TextIOWrapper, encoding).decode("utf-8") == "ΔW ○ é"


def test_streams_that_are_none_of_pythons_are_left_alone():
    take_any_text(None, io.StringIO())


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Runs a command line on that other system, in a folder of its own."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "sitecustomize.py").write_text(ELSEWHERE)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))),
        "PYTHONIOENCODING": "cp1252",
    }

    def run(*argv):
        return subprocess.run(
            [sys.executable, "-m", "minilora", *argv], cwd=folder, env=environment,
            capture_output=True, encoding="utf-8", timeout=300,
        )  # fmt: skip

    return run


@pytest.mark.processes
@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["--help"], "Course"),
        (["spectrum", str(ROOT / "data/specialists/vascular")], "‖ΔW‖"),
        (["progress"], "○"),
        (["bench", "--from", str(ROOT / "data/bench/lora.json")], "≥"),
    ],
)
def test_commands_show_all_they_have_to_say(elsewhere, argv, shown):
    done = elsewhere(*argv)
    assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
    assert shown in done.stdout


@pytest.mark.processes
def test_training_goes_on_in_one_process(elsewhere, tmp_path):
    rows = (ROOT / "data/ward/cardiology.train.jsonl").read_text("utf-8").splitlines()[:24]
    data = tmp_path / "few.jsonl"
    data.write_text("\n".join(rows) + "\n", "utf-8")
    short = ["--data", str(data), "--steps", "2", "--eval-rows", "2", "--no-gate"]
    done = elsewhere("adapt", *short, "--out", str(tmp_path / "one"))
    assert done.returncode == 0, done.stderr
    two = elsewhere("adapt", *short, "--out", str(tmp_path / "two"), "--workers", "2")
    assert two.returncode == 1
    assert names(two.stderr, 2, 1, "fork")

"""learn, check and progress on a learner's folder, JupyterLab played by a stand-in."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from minilora.cli import learn as learn_file
from minilora.cli.app import main
from minilora.course import notebook
from minilora.course.exercises import find_exercise
from minilora.course.progress import FOLDER_VARIABLE, MANIFEST, read_progress, update
from minilora.course.source import find_chapters
from tests.says import error_line, names

CHAPTERS = find_chapters()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "_hints", {})
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "mine"))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path / "mine"


@pytest.fixture
def lab(monkeypatch):
    """The commands that would have been run."""
    calls = []
    monkeypatch.setattr(learn_file, "has_jupyterlab", lambda: True)

    def call(command, cwd, env):
        calls.append((command, cwd, env))
        return 0

    monkeypatch.setattr(learn_file.subprocess, "call", call)
    return calls


def answer(folder, id, source):
    """Write a learner's answer into the stub's cell."""
    entry = find_exercise(id)
    path = next(folder.glob(f"{entry.chapter:02d}_*.ipynb"))
    book = json.loads(path.read_text(encoding="utf-8"))
    (cell,) = [c for c in book["cells"] if c["metadata"].get("exercise") == id]
    assert cell["source"] == entry.stub
    cell["source"] = source
    path.write_text(json.dumps(book), encoding="utf-8")


def test_learn_opens_the_chapter_in_a_copy(folder, lab, capsys):
    assert main(["learn", "1"]) == 0
    ((command, cwd, env),) = lab
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--LabApp.default_url=/lab/tree/01_gradients.ipynb" in command
    assert f"--ServerApp.root_dir={folder}" in command
    assert cwd == folder and env[FOLDER_VARIABLE] == str(folder)
    assert env["OPENBLAS_NUM_THREADS"] == "1"
    assert len(list(folder.glob("*.ipynb"))) == len(CHAPTERS)
    assert names(capsys.readouterr().out, "01_gradients.ipynb")


def test_learn_goes_on_where_something_is_left(folder, lab):
    main(["learn"])
    for id in CHAPTERS[0].exercises:
        update(folder, id, passed=True)
    main(["learn"])
    opened = [command[4].rpartition("/")[2] for command, _, _ in lab]
    assert opened == ["00_adjustment.ipynb", "01_gradients.ipynb"]


def test_learn_without_opening(folder, lab):
    assert main(["learn", "--no-open"]) == 0
    assert lab == [] and folder.is_dir()


def test_learn_without_jupyterlab(folder, monkeypatch, capsys):
    monkeypatch.setattr(learn_file, "has_jupyterlab", lambda: False)
    assert main(["learn"]) == 1
    assert "notebooks" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize("argv", [["learn", "99"], ["check", "99"], ["check", "0.99"]])
def test_an_unknown_chapter_or_exercise(folder, lab, capsys, argv):
    assert main(argv) == 1
    assert names(error_line(capsys), argv[1])
    assert not folder.exists()


@pytest.mark.parametrize("argv", [["check"], ["check", "0.3", "--hint"]])
def test_check_before_learn(folder, capsys, argv):
    assert main(argv) == 1
    assert names(error_line(capsys), "minilora learn")


def test_check_reads_the_learners_cells(folder, capsys):
    main(["learn", "--no-open"])
    entry = find_exercise("0.3")
    assert main(["check"]) == 0  # nothing is wrong, and nothing is written
    assert main(["check", "0.3"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("○ 0.3 ")
    answer(folder, "0.3", entry.wrong[0].source)
    answer(folder, "1.1", find_exercise("1.1").solution)
    assert main(["check", "0.3"]) == main(["check"]) == main(["check", "0"]) == 1
    assert entry.wrong[0].says in capsys.readouterr().out
    assert main(["check", "1.1"]) == main(["check", "1"]) == 0
    assert "✓ 1.1 linear_vjps" in capsys.readouterr().out
    found = read_progress(folder)
    assert found["1.1"].passed and not found["0.3"].passed


def test_check_for_a_program(folder, capsys):
    main(["learn", "--no-open"])
    entry = find_exercise("0.3")
    answer(folder, "0.3", entry.solution.replace("    return", "    print('loud')\n    return", 1))
    answer(folder, "0.4", find_exercise("0.4").wrong[0].source)
    answer(folder, "0.5", "def flatten(*_):\n    raise KeyError('oops')")
    capsys.readouterr()
    assert main(["check", "0", "--json"]) == 1
    streams = capsys.readouterr()
    summary = json.loads(streams.out)
    assert "loud" in streams.err
    results = {result["id"]: result for result in summary["results"]}
    assert list(results) == list(CHAPTERS[0].exercises)
    status = [results[id]["status"] for id in ("0.1", "0.3", "0.4", "0.5")]
    assert status == ["unwritten", "passed", "failed", "failed"]
    assert (summary["passed"], summary["exercises"]) == (1, len(results))
    assert results["0.3"]["chapter"] == 0 and results["0.3"]["title"] == entry.title
    assert results["0.3"]["seconds"] > 0 and results["0.1"]["diagnosis"]
    assert "KeyError" in results["0.5"]["diagnosis"]
    assert main(["check", "0.3", "--json"]) == 0
    assert main(["check", "0.1", "--json"]) == 1  # one that is asked for by name has to pass
    assert main(["check", "0.3", "--json", "--hint"]) == 1


def test_what_was_carried_over_is_told(folder, capsys):
    main(["learn", "--no-open"])
    answer(folder, "0.3", find_exercise("0.3").solution)
    path = folder / "00_adjustment.ipynb"
    (folder / MANIFEST).unlink()
    book = json.loads(path.read_text(encoding="utf-8"))
    book["cells"].pop()  # an older version of the chapter had a cell less
    path.write_text(json.dumps(book), encoding="utf-8")
    capsys.readouterr()
    main(["learn", "--no-open"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "beside" in line]
    assert "00_adjustment.v2.ipynb" in line and "0.3" in line


def test_hints_and_solution(folder, capsys):
    main(["learn", "--no-open"])
    entry = find_exercise("0.3")
    capsys.readouterr()
    for hint in entry.hints:
        assert main(["check", "0.3", "--hint"]) == 0
        said = capsys.readouterr().out
        assert hint in said
        assert sum(other in said for other in entry.hints) == 1
    assert main(["check", "0.3", "--solution"]) == 0
    assert capsys.readouterr().out.strip() == entry.solution
    assert read_progress(folder)["0.3"].hints == 3 and read_progress(folder)["0.3"].solution


@pytest.mark.parametrize("argv", [["check", "--hint"], ["check", "0", "--solution"]])
def test_help_is_for_one_exercise(folder, capsys, argv):
    assert main(argv) == 1
    assert names(error_line(capsys), argv[-1])


@pytest.mark.parametrize("what", ["one", "1.x", "0.1.2", "-"])
def test_what_is_no_exercise(folder, capsys, what):
    assert main(["check", what]) != 0


def test_progress(folder, capsys):
    total = sum(len(chapter.exercises) for chapter in CHAPTERS)
    assert main(["progress"]) == 0
    assert names(capsys.readouterr().out, f"0 of {total}")
    folder.mkdir()
    update(folder, "0.1", passed=True, tries=4, hints=2)
    assert main(["progress"]) == 0
    said = capsys.readouterr().out
    assert names(said, f"1 of {total}")
    (line,) = [line for line in said.splitlines() if "How thin" in line]
    assert "✓" in line and names(line, 4, "2 of 3")
    assert said.splitlines()[-1].split()[1] == "0.2"  # what comes next


def answered(address):
    """What a server answers, as JSON; JupyterLab prints its address just before it listens."""
    for patience in range(100):
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            if patience == 99:
                raise
            time.sleep(0.1)


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="JupyterLab and its kernels end as a group")
def test_the_address_that_jupyterlab_prints_is_the_chapters(folder):
    pytest.importorskip("jupyterlab")
    script = "from minilora.cli.app import main; main(['learn', '1'])"
    environment = {**os.environ, "BROWSER": "true", "JUPYTER_NO_CONFIG": "1"}  # opens nothing
    lab = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        env=environment, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        address = next(
            match[0]
            for line in lab.stderr
            if (match := re.search(r"http://127\.0\.0\.1:\S+", line))
        )
        url = urllib.parse.urlsplit(address)
        assert url.path == "/lab/tree/01_gradients.ipynb" and "token=" in url.query
        notebook = f"http://{url.netloc}/api/contents/01_gradients.ipynb?{url.query}"
        assert answered(notebook)["type"] == "notebook"
    finally:
        os.killpg(lab.pid, signal.SIGKILL)
        lab.wait()
        lab.stderr.close()

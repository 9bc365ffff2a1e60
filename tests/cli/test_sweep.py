"""`minilora sweep`: the table, the plot, the gate and the exit code."""

from __future__ import annotations

import pytest
from matplotlib.image import imread

from minilora.cli.app import main
from minilora.runs.sweep import drive
from tests.runs.sweep.test_drive import scored, write
from tests.says import names


@pytest.fixture
def told(base, tmp_path, monkeypatch):
    """Runs the command on a tiny sweep, whose runs are not really run."""
    monkeypatch.setattr(drive, "on_this_machine", scored({1: 3, 2: 4}))
    file = write(base, tmp_path)
    return lambda *more: main(["sweep", str(file.path), "--out", str(tmp_path / "out"), *more])


def test_the_table_names_the_cheapest(told, tmp_path, capsys):
    assert told() == 0
    out = capsys.readouterr().out
    assert names(out, "r 1", "r 2", "75.0%", "100.0%")
    assert imread(tmp_path / "out" / "sweep.png")[..., :3].std() > 0.01


def test_a_failed_run_is_an_exit_code_and_a_line(told, monkeypatch, capsys):
    monkeypatch.setattr(drive, "on_this_machine", scored({}, fail={1}))
    assert told() == 1
    assert names(capsys.readouterr().err, 2, "ValueError")


def test_ctrl_c_says_where_to_go_on(told, tmp_path, monkeypatch, capsys):
    def stopped(points, jobs=0):
        yield next(scored({})(points))
        raise KeyboardInterrupt

    monkeypatch.setattr(drive, "on_this_machine", stopped)
    assert told() == 130
    assert names(capsys.readouterr().err, str(tmp_path / "out"))
    monkeypatch.setattr(drive, "on_this_machine", scored({}))
    assert told() == 0 and names(capsys.readouterr().out, "3 runs run", "1 done before")


def test_a_gate_without_a_suite_is_refused(base, tmp_path, capsys):
    path = write(base, tmp_path).path
    path.write_text(path.read_text().replace('suite = "suite.jsonl"\n', ""))
    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), "--gate"]) == 1
    assert names(capsys.readouterr().err, "--gate", "suite")
    assert not (tmp_path / "out").exists()


def test_a_sweep_without_a_suite_has_a_plot_too(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(drive, "on_this_machine", scored({1: 3, 2: 4}, kept=0))
    path = write(base, tmp_path).path
    path.write_text(path.read_text().replace('suite = "suite.jsonl"\n', ""))
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 0
    assert imread(tmp_path / "out" / "sweep.png")[..., :3].std() > 0.01
    assert "cmap" not in "".join(capsys.readouterr())  # what matplotlib would warn of

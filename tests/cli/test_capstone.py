"""`minilora capstone`: its table and card, `--check`'s exit code, and refusals in one line."""

from __future__ import annotations

import pytest

from minilora.cli.app import main
from minilora.runs.capstone import reload
from tests.cli.conftest import pairs, write_jsonl
from tests.says import error_line, names


@pytest.fixture
def told(base, tmp_path, monkeypatch):
    monkeypatch.setattr(reload, "PACKAGES", ("nosuchpackage",))
    data = write_jsonl(tmp_path / "my.jsonl", pairs(120))
    suite = write_jsonl(tmp_path / "old.jsonl", pairs(8, start=500))
    flags = ("--steps", "2", "--batch-size", "2", "--r", "2", "--workers", "1", "--shots", "1")
    where = ("--data", str(data), "--base", str(base), "--out", str(tmp_path / "out"))
    return lambda *more: main(["capstone", *where, "--suite", str(suite), *flags, *more])


def test_the_command_ends_with_a_card(told, tmp_path, capsys):
    assert told("--check") == 1
    assert names(capsys.readouterr().out, "missing", "rows", "card")
    assert not (tmp_path / "out").exists()
    assert told("--title", "Doses") == 0
    assert names(capsys.readouterr().out, "0 of 40", "card.md", "7 of 7")
    assert (tmp_path / "out" / "card.md").read_text().startswith("# Doses\n")
    assert told("--check") == 0
    assert told() == 0
    assert names(capsys.readouterr().out, "done before")


def test_rows_that_stop_it_are_one_line(told, tmp_path, capsys):
    write_jsonl(tmp_path / "my.jsonl", pairs(50))
    assert told() == 1
    assert names(error_line(capsys), "my.jsonl", 50, 100)
    assert told("--check") == 1
    assert names(capsys.readouterr().out, "too few rows", 50)

"""`minilora verify`: its exit codes, and what it shows."""

from __future__ import annotations

import shutil

import pytest

from minilora.cli.app import main
from minilora.training import made_by as making
from tests.says import error_line, names


@pytest.fixture
def flags(base, adapter, tmp_path):
    """A copy of the adapter, which a test may spoil."""
    folder = tmp_path / "mine"
    shutil.copytree(adapter, folder)
    shutil.copy(adapter.parent / "my.jsonl", tmp_path / "my.jsonl")
    return [str(folder), "--data", str(tmp_path / "my.jsonl"), "--base", str(base)]


def test_an_adapter_is_verified(flags, capsys):
    assert main(["verify", *flags]) == 0
    assert "mine: verified" in capsys.readouterr().out


def test_another_kernel_is_shown(flags, capsys, monkeypatch):
    monkeypatch.setattr(making, "blas_kernel", lambda: {"blas": "b", "kernel": "Other"})
    assert main(["verify", *flags]) == 0
    assert "Other" in capsys.readouterr().out


def test_other_data_are_refuted(flags, capsys):
    with open(flags[2], "a") as file:
        file.write("\n")
    assert main(["verify", *flags]) == 1
    assert names(" ".join(capsys.readouterr().out.split()), flags[2], "REFUTED")


def test_what_can_not_be_done_is_told_in_a_line(flags, capsys):
    assert main(["verify", *flags, "--segments", "2"]) == 1
    assert names(error_line(capsys), "--segments", 2)

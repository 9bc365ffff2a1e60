"""The worked capstone: its rows are what its program writes, and its commands lead to a card."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shlex

import pytest

from minilora.cli.app import main
from minilora.course.source import ROOT
from minilora.hub.bases import WARD, open_base
from minilora.lora import base_fingerprint
from minilora.runs.capstone.rows import check_rows, write_rows
from tests.says import names

WORKED = ROOT / "notebooks" / "worked"
COMMANDS = [
    shlex.split(line)
    for line in re.findall(r"^minilora (capstone .+)$", (WORKED / "README.md").read_text(), re.M)
]


def test_the_rows_are_what_the_program_writes(tmp_path):
    spec = importlib.util.spec_from_file_location("bookings", WORKED / "bookings.py")
    bookings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bookings)
    bookings.main(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_bytes() == (WORKED / "bookings.csv").read_bytes()


def test_the_course_lists_it():
    assert "worked/README.md" in (ROOT / "notebooks" / "README.md").read_text()


def test_the_card_beside_it_is_of_these_rows():
    """Its hashes are those of both sides of the rows as they are divided now."""
    model, tokenizer = open_base(WARD)
    limit = model.config.max_position_embeddings
    checked = check_rows(WORKED / "bookings.csv", None, tokenizer, limit, 0)
    card, page = ((WORKED / name).read_text() for name in ("card.md", "card.html"))
    for rows in (checked.train, checked.held_out):
        digest = hashlib.sha256(write_rows(rows)).hexdigest()
        assert digest in card and digest in page
    assert base_fingerprint(model) in card


def test_the_check_finds_rows_without_a_fault(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    check, _ = (at(command, tmp_path) for command in COMMANDS)
    assert "--check" in check and main(check) == 1
    out = capsys.readouterr().out
    assert not any(fault in out for fault in ("contradiction", "leak", "too few", "can't be used"))
    assert not any(tmp_path.iterdir())


@pytest.mark.chapters
@pytest.mark.processes
def test_its_commands_lead_to_a_card(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    check, whole = (at(command, tmp_path) for command in COMMANDS)
    assert main(whole) == 0
    assert names(capsys.readouterr().out, "7 of 7", "card.md")
    records = json.loads((tmp_path / "my-capstone" / "capstone.json").read_text())["steps"]
    before, after = records["adapter"]["loss"]
    assert after < before
    assert records["gate"]["suites"] == ["regression"]
    assert main(check) == 0
    assert (tmp_path / "my-capstone" / "card.html").stat().st_size > 20_000


def at(command, folder):
    """The command with its --out in `folder`."""
    return [str(folder / word) if word == "my-capstone" else word for word in command]

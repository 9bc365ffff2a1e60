"""`minilora ward`: the files, and the table of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from minilora.cli.app import main
from minilora.storage import sha256_file
from minilora.ward import write as ward_write

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "ward"


@pytest.fixture(autouse=True)
def small(request, monkeypatch):
    if "shipped" not in request.node.name:
        for name in ("TRAIN_COUNT", "EVAL_COUNT", "REGRESSION_COUNT_PER_GROUP", "SAMPLE_COUNT"):
            monkeypatch.setattr(ward_write, name, 20)


def test_the_table_has_every_file(tmp_path, capsys):
    out = tmp_path / "data" / "ward"
    assert main(["ward", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    files = list(out.iterdir())
    assert len(files) == 7
    for path in files:
        row = next(line for line in said.splitlines() if line.split()[:1] == [path.name])
        assert row.split()[1] == str(len(path.read_bytes().splitlines()))
        assert sha256_file(path)[:16] in row


def test_a_file_in_the_way_is_one_line(tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    assert main(["ward", "--out", str(tmp_path / "taken")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "taken" in message and message.count("\n") == 1
    assert (tmp_path / "taken").read_text() == "mine"


def test_the_shipped_files_are_what_the_command_writes(tmp_path):
    assert main(["ward", "--out", str(tmp_path / "ward")]) == 0
    written = {path.name: path.read_bytes() for path in (tmp_path / "ward").iterdir()}
    assert {path.name: path.read_bytes() for path in SHIPPED.iterdir()} == written
    assert max(map(len, written.values())) < 2_500_000

"""`minilora ward`: the files, and the table of them."""

from __future__ import annotations

import pytest

from minilora.cli.app import main
from minilora.storage import sha256_file
from minilora.ward import HOUSE_FORMATS
from minilora.ward import write as ward_write
from tests.says import error_line, names


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name in ("TRAIN_COUNT", "EVAL_COUNT", "REGRESSION_COUNT_PER_GROUP", "SAMPLE_COUNT"):
        monkeypatch.setattr(ward_write, name, 20)


def test_the_table_has_every_file(tmp_path, capsys):
    out = tmp_path / "data" / "ward"
    assert main(["ward", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    files = list(out.iterdir())
    assert len(files) == 2 * len(HOUSE_FORMATS) + 3
    for path in files:
        row = next(line for line in said.splitlines() if line.split()[:1] == [path.name])
        assert row.split()[1] == str(len(path.read_bytes().splitlines()))
        assert sha256_file(path)[:16] in row


def test_a_file_in_the_way_is_one_line(tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    assert main(["ward", "--out", str(tmp_path / "taken")]) == 1
    assert names(error_line(capsys), tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_the_files_are_those_of_the_ward(tmp_path):
    assert main(["ward", "--out", str(tmp_path / "ward")]) == 0
    written = {path.name: path.read_bytes() for path in (tmp_path / "ward").iterdir()}
    assert written == ward_write.ward_files()

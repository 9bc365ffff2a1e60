"""Where a plot or a JSON file is to go is looked at before anything is read or done."""

from __future__ import annotations

import pytest

from minilora.cli.app import main
from tests.says import error_line, names

COMMANDS = {
    "spectrum": ["spectrum", "a", "--plot"],
    "spectrum, numbers": ["spectrum", "a", "--json"],
    "bill": ["bill", "--base", "a", "--plot"],
    "variants": ["variants", "--out", "a", "--plot"],
    "sweep": ["sweep", "a.toml", "--out", "a", "--plot"],
    "bench": ["bench", "--json"],
    "verify": ["verify", "a", "--data", "b", "--json"],
    "why": ["why", "--adapter", "a", "--data", "b", "--prompt", "c", "--json"],
    "gate": ["gate", "--adapter", "a", "--suite", "b", "--json"],
    "diff": ["diff", "a", "b", "--json"],
    "compose": ["compose", "a=b", "--out", "c", "--json"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("place", ["a folder", "missing/file"])
def test_a_file_that_has_no_place_is_refused_at_once(command, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a folder").mkdir()
    assert main([*command, place]) in (1, 3)  # 3 where 1 is a verdict
    assert names(error_line(capsys), command[-1], place)
    assert [path.name for path in tmp_path.iterdir()] == ["a folder"]

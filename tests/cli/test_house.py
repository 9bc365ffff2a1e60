"""`minilora house`: the table of rooms, the picture, and the exit code."""

from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib.image import imread

from minilora.cli import house as command
from minilora.cli.app import main
from minilora.rooms import Import


def cells(text: str) -> dict[str, list[str]]:
    """The table's rows: first cell -> the others."""
    rows = [line.strip().split(maxsplit=3) for line in text.splitlines() if len(line.split()) > 2]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture
def show(monkeypatch):
    """Makes the command show a house of the test's own."""
    return lambda other: monkeypatch.setattr(command, "read_house", lambda: other)


def test_each_room_is_a_row_with_what_it_imports(house, capsys):
    assert main(["house"]) == 0
    rows = cells(capsys.readouterr().out)
    for room, targets in house.arrows().items():
        files, lines, imports = rows[room]
        assert int(files) == len(house.files(room))
        assert int(lines.replace(",", "")) == sum(house.lines[f] for f in house.files(room))
        assert imports == (", ".join(targets) or "-")


def test_the_files_of_a_room(house, show, capsys):
    show(house)
    assert main(["house", "--files", "nn"]) == 0
    rows = cells(capsys.readouterr().out)
    assert {file for file in rows if file.endswith(".py")} == set(house.files("nn"))
    assert main(["house", "--files", "cellar"]) == 1
    assert "'cellar'" in capsys.readouterr().err


def test_the_picture(house, show, tmp_path):
    show(house)
    assert main(["house", "--plot", str(tmp_path / "house.png")]) == 0
    pixels = imread(tmp_path / "house.png")
    assert pixels.shape[0] > 500 and pixels[..., :3].std() > 0.01


@pytest.mark.parametrize(
    "imports",
    [
        [Import("storage.py", 3, "minilora.ward.notes", "ward/notes.py")],
        [
            Import("ward/a.py", 1, "minilora.ward.b", "ward/b.py"),
            Import("ward/b.py", 1, "minilora.ward.a", "ward/a.py"),
        ],
    ],
    ids=["an arrow upward", "a circle"],
)
def test_a_broken_order_exits_1_and_is_named(house, show, tmp_path, capsys, imports):
    lines = {**house.lines, "ward/a.py": 1, "ward/b.py": 1}
    bad = replace(house, lines=lines, imports=(*house.imports, *imports))
    show(bad)
    assert main(["house", "--plot", str(tmp_path / "house.png")]) == 1
    out = capsys.readouterr().out
    assert all(one.file in out for one in imports)
    assert (tmp_path / "house.png").is_file()


def test_a_stranger_exits_1(house, show, capsys):
    bad = replace(house, lines={**house.lines, "cellar/wine.py": 1})
    show(bad)
    assert main(["house"]) == 1
    assert "cellar/wine.py" in capsys.readouterr().out

"""minilora/README.md: an evening's reading is one, and the rest of the house is all there."""

from __future__ import annotations

import ast
import re

import pytest

from minilora.rooms import PACKAGE, ROOMS, room_of

PAGE = (PACKAGE / "README.md").read_text("utf-8")
LINES = 1500
"""What a programmer who knows NumPy reads in an evening."""


def rows(heading: str, page: str = PAGE) -> list[tuple[str, str]]:
    """(first cell, second cell) of the table under a heading, without the table's own heading."""
    _, _, section = page.partition(f"## {heading}\n")
    lines = section.partition("\n## ")[0].splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    return [(first, second) for first, second in cells[2:]]


def stops(page: str = PAGE) -> list[tuple[str, list[str]]]:
    """(file, the names in it that are read; none for the whole file) of each stop."""
    found = [re.findall(r"`([^`]+)`", first) for first, _ in rows("An evening's reading", page)]
    return [(file, names) for file, *names in found]


def span(file: str, name: str) -> set[int]:
    """The line numbers of a function or class of the file, decorators and all."""
    node: ast.AST = ast.parse((PACKAGE / file).read_text("utf-8"))
    for part in name.split("."):
        named = [n for n in ast.iter_child_nodes(node) if getattr(n, "name", "") == part]
        assert named, f"{file} has no {name}"
        node = named[0]
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return set(range(first, node.end_lineno + 1))


def lines_read(path: list[tuple[str, list[str]]]) -> int:
    read = set()
    for file, names in path:
        count = len((PACKAGE / file).read_text("utf-8").splitlines())
        lines = set().union(*(span(file, n) for n in names)) if names else set(range(count))
        read |= {(file, line) for line in lines}
    return len(read)


def test_the_marked_path_is_an_evening():
    assert len(stops()) >= 8
    assert 600 <= lines_read(stops()) <= LINES


def test_each_stop_has_one_sentence():
    for first, sentence in rows("An evening's reading"):
        assert sentence.endswith("."), first
        assert len(re.findall(r"[.?!](?= |$)", sentence)) == 1, first


def test_every_room_is_in_the_table(house):
    named = [
        room_of(re.match(r"`([^`]+)`", first)[1]) for first, _ in rows("The rest of the house")
    ]
    there = {room_of(file) for file in house.lines}
    assert named == [room for room in ROOMS if room in named]
    assert there & set(ROOMS) <= set(named)


def test_a_page_is_counted_as_it_says():
    whole = "## An evening's reading\n\n| read | look for |\n|---|---|\n| `limits.py` | a. |\n"
    part = whole.replace("`limits.py`", "`limits.py`: `require_count`")
    count = len((PACKAGE / "limits.py").read_text("utf-8").splitlines())
    assert lines_read(stops(whole)) == count
    assert 0 < lines_read(stops(part)) < count
    assert lines_read([*stops(part), *stops(part), *stops(whole)]) == count
    with pytest.raises(AssertionError):
        lines_read([("limits.py", ["no_such_function"])])

"""Tables in a terminal that is too narrow for them."""

from __future__ import annotations

import io
import shlex

import pytest
from rich.console import Console

from minilora.cli import show


@pytest.mark.parametrize("columns", [3, 13])
def test_no_number_of_a_wide_table_is_lost(columns):
    console = Console(file=io.StringIO(), width=40)
    row = [f"cell{i:02d}x" for i in range(columns)]
    show.grid(console, "a table", [f"c{i}" for i in range(columns)], [row])
    assert "".join(console.file.getvalue().split()).count("x") == columns


def test_a_table_that_fits_is_as_wide_as_it_needs():
    console = Console(file=io.StringIO(), width=200)
    show.grid(console, "a table", ["a"] * 8, [["1"] * 8])
    assert max(map(len, console.file.getvalue().splitlines())) < 60


def test_a_path_with_a_space_is_typed_in_quotes():
    assert show.typed("a/b") == "a/b"
    assert shlex.split(f"x {show.typed('a b/c')}") == ["x", "a b/c"]

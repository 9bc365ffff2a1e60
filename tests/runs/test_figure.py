"""Figures become files whole, or not at all."""

from __future__ import annotations

import pytest
from matplotlib.image import imread

from minilora.runs.figure import figure_in


def test_a_figure_of_these_inches(tmp_path):
    with figure_in(tmp_path / "a.png", 3, 2, dpi=50) as figure:
        figure.add_subplot().plot([1, 2], [3, 4])
    pixels = imread(tmp_path / "a.png")
    assert pixels.shape[:2] == (100, 150) and pixels[..., :3].std() > 0.01


def test_where_drawing_fails_the_file_stays_as_it_was(tmp_path):
    (tmp_path / "a.png").write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), figure_in(tmp_path / "a.png", 3, 2):
        _ = 1 / 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"before"

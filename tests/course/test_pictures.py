"""The picture on the front page is the course's own, as it is drawn now."""

from __future__ import annotations

import pytest

from minilora.course import pictures
from minilora.course.source import ROOT


def test_the_front_pages_layer_is_the_courses(tmp_path):
    assert pictures.main(["lora_layer", str(tmp_path / "layer.svg")]) == 0
    made = (tmp_path / "layer.svg").read_bytes()
    assert made == (ROOT / "data/pictures/layer.svg").read_bytes()
    assert pictures.main(["adjustment", str(tmp_path / "other.svg")]) == 0
    assert made != (tmp_path / "other.svg").read_bytes()


def test_an_unknown_picture_is_refused(tmp_path):
    with pytest.raises(SystemExit):
        pictures.main(["nothing", str(tmp_path / "x.svg")])
    assert list(tmp_path.iterdir()) == []

"""What sliders show, drawn ahead: every place once, from the code that is committed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from minilora.course import notebook, slider
from minilora.course.book import make_pages, page_faults
from minilora.course.build import committed_faults, keep_frames
from minilora.course.frames import (
    FRAMES_VARIABLE,
    SUFFIX,
    code_digests,
    draw_frames,
    frames_path,
    places,
    read_frames,
    write_frames,
)
from minilora.course.source import Chapter, ChapterError, find_chapter, find_chapters
from tests.says import refusal

CHAPTERS = [c for c in find_chapters() if code_digests(c)]


def draw(shade=1, side="left"):
    """A picture that says where the sliders stand: black or white, more of it the further."""
    _, axis = plt.subplots(figsize=(2, 1))
    axis.set_position([0, 0, 1, 1])
    wide = np.zeros((1, 4))
    wide[0, : shade + 1] = 1
    axis.imshow(wide if side == "left" else 1 - wide, cmap="gray", aspect="auto", vmin=0, vmax=1)
    plt.show()


def brightness(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L")).mean() / 255


@pytest.mark.parametrize(
    ("choice", "values"),
    [
        ((1, 4), [1, 2, 3, 4]),
        ((0.0, 1.0, 0.25), [0.0, 0.25, 0.5, 0.75, 1.0]),
        ((0.0, 0.3), [0.0, 0.1, 0.2, 0.3]),
        (["q", "v"], ["q", "v"]),
    ],
)
def test_a_slider_goes_through_its_places(choice, values):
    assert places(choice) == (values if isinstance(choice, list) else pytest.approx(values))


def test_there_is_a_picture_for_each_combination_in_order():
    before = plt.get_fignums()
    frames = draw_frames(draw, {"shade": (0, 2), "side": ["left", "right"]})
    assert frames.names == ("shade", "side")
    assert frames.labels == (("0", "1", "2"), ("left", "right"))
    assert frames.start == (1, 0)
    shown = [brightness(picture) for picture in frames.pictures]
    wanted = [share for k in (1, 2, 3) for share in (k / 4, 1 - k / 4)]
    assert shown == pytest.approx(wanted, abs=0.02)
    assert plt.get_fignums() == before


def test_frames_are_read_as_they_were_written(tmp_path):
    frames = draw_frames(draw, {"side": ["left", "right"]})
    write_frames(tmp_path / "frames.json", frames, "code")
    assert read_frames(tmp_path / "frames.json") == (frames, "code")


def test_too_many_places_and_other_than_one_figure_are_refused():
    with refusal(ValueError, 101, 100, "shade"):
        draw_frames(draw, {"shade": (0, 100)})
    with refusal(ValueError, 0, "nothing"):
        draw_frames(nothing, {"r": [1]})


def nothing(r):
    """Shows no figure."""


def test_slider_draws_into_the_folder_that_it_is_given(monkeypatch, tmp_path):
    monkeypatch.setenv(notebook.PLAIN_VARIABLE, "1")
    monkeypatch.setenv(FRAMES_VARIABLE, str(tmp_path))
    slider(draw, shade=(0, 1))
    slider(draw, side=["left", "right"])
    assert [read_frames(tmp_path / f"{n}.json")[0].names for n in (1, 2)] == [("shade",), ("side",)]


@pytest.fixture
def chapter(tmp_path):
    """A copy of chapter 0's source in a folder of its own."""
    (tmp_path / "src").mkdir()
    path = tmp_path / "src" / find_chapter(0).path.name
    path.write_text(find_chapter(0).path.read_text("utf-8"), "utf-8")
    return Chapter(path)


def test_frames_of_a_run_are_kept_one_file_a_slider_and_old_ones_go(chapter, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(ChapterError):
        keep_frames(chapter, run)
    write_frames(run / "1.json", draw_frames(draw, {"shade": (0, 1)}), "")
    old = frames_path(chapter, 2)
    write_frames(old, draw_frames(draw, {"shade": (0, 1)}), "of a cell that left")
    keep_frames(chapter, run)
    assert read_frames(frames_path(chapter, 1))[1] == code_digests(chapter)[0]
    assert not old.exists()


def test_frames_of_other_code_are_a_fault(chapter):
    committed = find_chapter(0)
    chapter.notebook.write_bytes(committed.notebook.read_bytes())
    assert len(list(committed_faults(chapter))) == 1  # there are none
    frames, code = read_frames(frames_path(committed, 1))
    write_frames(frames_path(chapter, 1), frames, code)
    assert list(committed_faults(chapter)) == []
    write_frames(frames_path(chapter, 1), frames, "other")
    assert len(list(committed_faults(chapter))) == 1


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_committed_frames_fit_their_sliders(chapter):
    for number in range(1, len(code_digests(chapter)) + 1):
        frames, _ = read_frames(frames_path(chapter, number))
        assert len(frames.pictures) == np.prod([len(labels) for labels in frames.labels])
        sizes = {Image.open(io.BytesIO(picture)).size for picture in frames.pictures}
        assert len(sizes) == 1
        assert len(set(frames.pictures)) > 1
        assert all(
            start < len(some) for start, some in zip(frames.start, frames.labels, strict=True)
        )


def test_a_page_has_its_sliders_hidden_until_a_script_runs_and_all_their_pictures():
    pytest.importorskip("latex2mathml")
    pytest.importorskip("markdown_it")
    pages = make_pages([find_chapter(0)])
    frames, _ = read_frames(frames_path(find_chapter(0), 1))
    page = pages["00_adjustment.html"].decode()
    assert page.count("<figure class='slider' hidden") == 1
    assert page.count("type='range'") == len(frames.names)
    names = [f"figures/00-slider-1-{i}.{SUFFIX[frames.kind]}" for i in range(len(frames.pictures))]
    assert [pages[name] for name in names] == list(frames.pictures)
    assert page_faults(pages) == []
    del pages[names[3]]
    assert len(page_faults(pages)) == 1


def test_the_digest_sees_what_is_computed_and_no_exercise(chapter):
    before = code_digests(chapter)
    text = chapter.path.read_text("utf-8")
    for part, changes in (("# %% [markdown]\n", False), ("# %%\n", True)):
        other = Chapter(chapter.path.with_name("ch00_other.py"))
        other.path.write_text(text.replace(part, f"{part}# more\n", 1), "utf-8")
        assert (code_digests(other) != before) == changes

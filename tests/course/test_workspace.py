"""The learner's copy: chapters land, nothing of the learner's is ever overwritten."""

from __future__ import annotations

import json

import pytest

from minilora.course.progress import (
    FOLDER_VARIABLE,
    MANIFEST,
    PROGRESS,
    Record,
    current_folder,
    default_folder,
    note_try,
    read_progress,
    update,
)
from minilora.course.source import Chapter, ChapterError, find_chapter
from minilora.course.workspace import learner_copy, learner_files, prepare


@pytest.fixture
def chapter(tmp_path):
    """A chapter whose committed notebook the test may renew."""
    original = find_chapter(0)
    path = tmp_path / "notebooks" / "src" / original.path.name
    path.parent.mkdir(parents=True)
    path.write_bytes(original.path.read_bytes())
    made = Chapter(path)
    made.notebook.write_bytes(original.notebook.read_bytes())
    return made


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "mine"


def renew(chapter, text):
    """A new version of the chapter."""
    notebook = json.loads(chapter.notebook.read_text(encoding="utf-8"))
    notebook["cells"][0]["source"] += text
    chapter.notebook.write_text(json.dumps(notebook), encoding="utf-8")


def work(path):
    """The learner writes something; returns the bytes that must survive."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["cells"][1]["source"] = "mine = 1"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path.read_bytes()


def land(folder, chapter):
    (landing,) = prepare(folder, [chapter])
    return landing.what, landing.path.name


def test_a_copy_has_no_outputs(chapter):
    cells = json.loads(learner_copy(chapter))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(c["outputs"] == [] and c["execution_count"] is None for c in code)
    assert [c["source"] for c in cells] == [
        c["source"] for c in json.loads(chapter.notebook.read_text())["cells"]
    ]


def test_a_chapter_lands_once(folder, chapter):
    assert land(folder, chapter) == ("new", "00_adjustment.ipynb")
    assert land(folder, chapter) == ("kept", "00_adjustment.ipynb")


def test_an_untouched_copy_is_renewed(folder, chapter):
    land(folder, chapter)
    renew(chapter, "more")
    assert land(folder, chapter) == ("renewed", "00_adjustment.ipynb")
    assert (folder / "00_adjustment.ipynb").read_bytes() == learner_copy(chapter)


@pytest.mark.parametrize("forget", [False, True], ids=["", "manifest lost"])
def test_work_is_never_overwritten(folder, chapter, forget):
    land(folder, chapter)
    first = work(folder / "00_adjustment.ipynb")
    if not forget:
        assert land(folder, chapter)[0] == "kept"
    for number in (2, 3):
        renew(chapter, f"version {number}")
        if forget:
            (folder / MANIFEST).write_text("{broken")
        name = f"00_adjustment.v{number}.ipynb"
        assert land(folder, chapter) == ("beside", name)
        assert land(folder, chapter) == ("kept", name)
        second = work(folder / name)
    assert (folder / "00_adjustment.ipynb").read_bytes() == first
    assert (folder / "00_adjustment.v3.ipynb").read_bytes() == second
    names = [path.name for path in learner_files(folder, 0)]
    assert names == [
        "00_adjustment.v3.ipynb", "00_adjustment.v2.ipynb", "00_adjustment.ipynb"
    ]  # fmt: skip


def test_a_deleted_copy_lands_again(folder, chapter):
    land(folder, chapter)
    (folder / "00_adjustment.ipynb").unlink()
    assert land(folder, chapter) == ("new", "00_adjustment.ipynb")


def test_other_files_are_left_alone(folder, chapter):
    folder.mkdir()
    for name in ("notes.txt", "00_adjustment-mine.ipynb", "01_gradients.ipynb"):
        (folder / name).write_text("mine")
    land(folder, chapter)
    assert len(learner_files(folder, 0)) == 1
    assert (folder / "00_adjustment-mine.ipynb").read_text() == "mine"


def test_the_courses_own_folder_is_refused(chapter):
    before = chapter.notebook.read_bytes()
    with pytest.raises(ValueError, match="folder of yours"):
        prepare(chapter.notebook.parent, [chapter])
    assert chapter.notebook.read_bytes() == before


def test_a_file_is_no_folder(folder, chapter):
    folder.write_text("a file")
    with pytest.raises(ValueError, match="expected a folder"):
        prepare(folder, [chapter])


def test_an_unbuilt_chapter_is_named(folder, chapter):
    chapter.notebook.unlink()
    with pytest.raises(ChapterError, match=r"minilora\.course\.build"):
        prepare(folder, [chapter])


def test_progress_is_kept(tmp_path):
    assert read_progress(tmp_path) == {}
    note_try(tmp_path, "10.1", False)
    note_try(tmp_path, "2.1", True)
    note_try(tmp_path, "2.1", False)  # solved once is solved
    update(tmp_path, "2.1", hints=2, solution=True)
    assert read_progress(tmp_path) == {
        "2.1": Record(True, 2, 2, True),
        "10.1": Record(False, 1, 0, False),
    }
    assert list(json.loads((tmp_path / PROGRESS).read_text())["exercises"]) == ["2.1", "10.1"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"exercises": 3}', '{"exercises": {"1.1": {"odd": 1}}}']
)
def test_a_broken_progress_file_is_named_and_left(tmp_path, text):
    (tmp_path / PROGRESS).write_text(text)
    with pytest.raises(ValueError, match=r"progress\.json"):
        note_try(tmp_path, "1.1", True)
    assert (tmp_path / PROGRESS).read_text() == text


def test_where_progress_goes(tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert current_folder() is None
    assert default_folder().name == "my-course"
    (tmp_path / MANIFEST).write_text("{}")
    assert current_folder() == tmp_path
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "none"))
    assert current_folder() is None
    (tmp_path / "none").mkdir()
    assert current_folder() == default_folder() == tmp_path / "none"

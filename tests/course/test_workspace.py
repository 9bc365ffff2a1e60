"""The learner's copy: chapters land, nothing of the learner's is ever overwritten."""

from __future__ import annotations

import hashlib
import json

import pytest

from minilora.course.carry_over import is_written
from minilora.course.exercises import find_exercise
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
from minilora.course.workspace import learner_copy, learner_files, notebook_bytes, prepare
from tests.says import refusal


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


def change(path, function):
    """Change a notebook's cells by a function of the list; returns the bytes of the file."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    function(notebook["cells"])
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path.read_bytes()


def renew(chapter, text):
    """A new version of the chapter."""
    change(chapter.notebook, lambda cells: cells[0].update(source=cells[0]["source"] + text))


def work(path):
    """The learner writes something; returns the bytes that must survive."""
    return change(path, lambda cells: cells[1].update(source="mine = 1"))


def solve(id, source=None):
    """A change that writes our solution of an exercise, or `source`, into its stub."""
    entry = find_exercise(id)

    def write(cells):
        (cell,) = [c for c in cells if c["metadata"].get("exercise") == id]
        cell["source"] = source or entry.solution

    return write


def saved_by_jupyter(cells):
    """What JupyterLab leaves of a chapter that was run and saved, and not edited."""
    for cell in cells:
        cell["metadata"]["editable"] = True
        cell["source"] = cell["source"].splitlines(True)
        if cell["cell_type"] == "code":
            cell["execution_count"] = 3
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "ran"}]
    new = {"cell_type": "code", "id": "6f1c", "metadata": {}, "source": "", "outputs": []}
    cells.append({**new, "execution_count": None})  # from running the last cell


def texts(path):
    """The cells' texts by id."""
    return {
        cell["id"]: "".join(cell["source"])
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    }


def land(folder, chapter):
    (landing,) = prepare(folder, [chapter])
    return landing.what, landing.path.name


def test_a_copy_has_no_outputs(chapter):
    cells = learner_copy(chapter)["cells"]
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
    assert (folder / "00_adjustment.ipynb").read_bytes() == notebook_bytes(learner_copy(chapter))


def test_a_chapter_that_was_only_run_and_saved_is_renewed(folder, chapter):
    land(folder, chapter)
    change(folder / "00_adjustment.ipynb", saved_by_jupyter)
    renew(chapter, "more")
    assert land(folder, chapter) == ("renewed", "00_adjustment.ipynb")


def test_a_manifest_of_earlier_versions_is_read(folder, chapter):
    land(folder, chapter)
    path = folder / "00_adjustment.ipynb"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = json.dumps({"landed": {"00_adjustment": {path.name: digest}}})
    (folder / MANIFEST).write_text(manifest)
    assert land(folder, chapter)[0] == "kept"
    (folder / MANIFEST).write_text(manifest)
    renew(chapter, "more")
    assert land(folder, chapter) == ("renewed", path.name)


def test_answers_guesses_and_own_cells_are_carried_over(folder, chapter):
    land(folder, chapter)
    first = folder / "00_adjustment.ipynb"
    code = next(id for id, text in texts(first).items() if text.startswith("import "))
    own = {"cell_type": "markdown", "metadata": {}, "source": "my note"}

    def edit(cells):
        solve("0.3")(cells)
        place = next(i for i, cell in enumerate(cells) if cell["id"] == code)
        cells[place]["source"] = "import numpy as np\nguess = 40"
        cells.insert(place + 1, {**own, "id": "mine-1"})
        cells.insert(0, {**own, "id": "mine-0"})

    before = change(first, edit)
    renew(chapter, "more")
    (landing,) = prepare(folder, [chapter])
    assert (landing.what, landing.path.name) == ("beside", "00_adjustment.v2.ipynb")
    assert (landing.before, landing.answers, landing.left) == (first, ("0.3",), 0)
    assert first.read_bytes() == before
    carried = texts(landing.path)
    assert carried["exercise-0-3-exercise"] == find_exercise("0.3").solution
    assert carried["exercise-0-4-exercise"] == find_exercise("0.4").stub
    assert carried[code] == "import numpy as np\nguess = 40"
    order = list(carried)
    assert order[0] == "mine-0" and order[order.index(code) + 1] == "mine-1"
    assert land(folder, chapter) == ("kept", landing.path.name)


def test_carried_answers_survive_when_the_new_version_is_renewed(folder, chapter):
    land(folder, chapter)
    change(folder / "00_adjustment.ipynb", solve("0.3"))
    for number in (2, 3):
        renew(chapter, f"version {number}")
        (landing,) = prepare(folder, [chapter])
        assert landing.path.name == "00_adjustment.v2.ipynb"
        assert texts(landing.path)["exercise-0-3-exercise"] == find_exercise("0.3").solution
    assert landing.what == "renewed"


def test_an_answer_behind_a_blank_version_is_found(folder, chapter):
    land(folder, chapter)
    change(folder / "00_adjustment.ipynb", solve("0.3"))
    blank = folder / "00_adjustment.v2.ipynb"
    blank.write_bytes(notebook_bytes(learner_copy(chapter)))
    change(blank, solve("0.4"))
    renew(chapter, "more")
    (landing,) = prepare(folder, [chapter])
    assert landing.path.name == "00_adjustment.v3.ipynb" and landing.answers == ("0.3", "0.4")


def test_what_has_no_place_any_more_is_counted_and_stays(folder, chapter):
    land(folder, chapter)
    first = folder / "00_adjustment.ipynb"
    code = next(id for id, text in texts(first).items() if text.startswith("import "))

    def edit(cells):
        solve("0.3", "def of_another_name(a):\n    return a")(cells)
        next(cell for cell in cells if cell["id"] == code)["source"] = "import os"

    before = change(first, edit)
    change(chapter.notebook, lambda cells: cells.pop([c["id"] for c in cells].index(code)))
    (landing,) = prepare(folder, [chapter])
    assert (landing.what, landing.answers, landing.left) == ("beside", (), 2)
    assert texts(landing.path)["exercise-0-3-exercise"] == find_exercise("0.3").stub
    assert first.read_bytes() == before


def test_a_broken_notebook_is_left_and_a_new_one_lands(folder, chapter):
    land(folder, chapter)
    path = folder / "00_adjustment.ipynb"
    path.write_text("{broken")
    assert land(folder, chapter)[0] == "kept"
    renew(chapter, "more")
    assert land(folder, chapter) == ("beside", "00_adjustment.v2.ipynb")
    assert path.read_text() == "{broken"


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("", False),
        (find_exercise("0.3").stub, False),
        ("def f(x):\n    raise NotImplementedError", False),
        (find_exercise("0.3").solution, True),
        ("def f(x):\n    return (", True),
        ("def f(x):\n    'Doc.'\n    raise ValueError", True),
        (find_exercise("0.3").stub + "\nhelper = 3", True),
    ],
)
def test_a_stub_is_no_answer(source, written):
    assert is_written(source) is written


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
    with refusal(ValueError, chapter.notebook.parent):
        prepare(chapter.notebook.parent, [chapter])
    assert chapter.notebook.read_bytes() == before


def test_a_file_is_no_folder(folder, chapter):
    folder.write_text("a file")
    with refusal(ValueError, folder):
        prepare(folder, [chapter])


def test_an_unbuilt_chapter_is_named(folder, chapter):
    chapter.notebook.unlink()
    with refusal(ChapterError, "minilora.course.build"):
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

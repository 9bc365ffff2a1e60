"""Chapters' sources: markers, claims, and what a notebook must not hold."""

from __future__ import annotations

import json
import shutil

import pytest

from minilora.course.build import (
    committed_faults,
    main,
    notebook_bytes,
    renew_texts,
    source_faults,
)
from minilora.course.execute import clean, figures, make_notebook, output_faults
from minilora.course.source import (
    Chapter,
    ChapterError,
    find_chapter,
    find_chapters,
    measured_claims,
    parse,
    written_claims,
)
from tests.says import names, refusal

TEXT = """# for readers of the file

# %% [markdown]
# # 0. Title
#
# > **Claim.** A is 3 % of
# > B.
#
# After it.

# %%
x = 1


y = 2

# %% exercise 0.1

# %% slider
draw()

# %% claims
claim("A is 3 % of "
      "B.", 0.03, below=0.04)
refuted("B is 2.", 3, above=2.5, because="of that")
"""


def test_parse():
    cells = parse(TEXT)
    assert [(c.kind, c.role) for c in cells] == [
        ("markdown", ""), ("code", ""), ("code", "exercise"), ("code", "slider"),
        ("code", "claims"),
    ]  # fmt: skip
    assert cells[0].source.splitlines()[0] == "# 0. Title"
    assert cells[1].source == "x = 1\n\n\ny = 2"
    assert cells[2].exercise == "0.1"
    assert written_claims(cells) == ["A is 3 % of B."]
    assert measured_claims(cells) == ["A is 3 % of B.", "B is 2."]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("# %% exercize 1.2\n", "'# %% exercize 1.2'"),
        ("# %% exercise one\n", "'# %% exercise one'"),
        ("# %% [raw]\n", "'# %% [raw]'"),
        ("# %%\n\n# %%\nx = 1\n", "code"),
        ("# %% exercise 1.2\nx = 1\n", "'# %% exercise 1.2'"),
        ("# %% [markdown]\n# text\nx = 1\n", "'x = 1'"),
        ("# %% [markdown]\n#text\n", "'#text'"),
    ],
)
def test_a_wrong_marker_is_named(text, named):
    with refusal(ChapterError, "name.py", named):
        parse(text, "name.py")


def chapter_zero(tmp_path, change=("", "")):
    """A copy of chapter 0 with a change in its source, and its committed notebook."""
    original = find_chapter(0)
    folder = tmp_path / "src"
    folder.mkdir()
    path = folder / original.path.name
    text = original.path.read_text(encoding="utf-8")
    assert change[0] in text
    path.write_text(text.replace(*change, 1), encoding="utf-8")
    (tmp_path / original.notebook.name).write_bytes(original.notebook.read_bytes())
    shutil.copytree(original.notebook.parent / "sliders", tmp_path / "sliders")
    return Chapter(path)


def test_a_copy_has_no_faults(tmp_path):
    chapter = chapter_zero(tmp_path)
    assert list(source_faults(chapter)) == list(committed_faults(chapter)) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("# # 0. The", "# # 1. The"), "'0. '"),
        (("> **Claim.** Without", "> **Claim.** With"), "With the dark"),
        (('    "Without the dark', '    "With the dark'), "With the dark"),
        (("# %% claims\n", "# %%\n"), "'# %% claims'"),
    ],
)
def test_source_faults(tmp_path, change, named):
    assert any(names(fault, named) for fault in source_faults(chapter_zero(tmp_path, change)))


@pytest.mark.parametrize("change", [('print(f"grid', 'print(f"the grid'), ("# A real", "# A")])
def test_a_changed_source_asks_for_a_build(tmp_path, change):
    faults = list(committed_faults(chapter_zero(tmp_path, change)))
    assert len(faults) == 1 and names(faults[0], find_chapter(0).notebook.name)


def test_a_changed_text_is_renewed_without_a_run(tmp_path):
    chapter = chapter_zero(tmp_path, ("# A real", "# A"))
    before = json.loads(chapter.notebook.read_text(encoding="utf-8"))
    renew_texts(chapter)
    assert list(committed_faults(chapter)) == []
    after = json.loads(chapter.notebook.read_text(encoding="utf-8"))
    changed = [a for a, b in zip(after["cells"], before["cells"], strict=True) if a != b]
    assert [cell["cell_type"] for cell in changed] == ["markdown"]


def test_changed_code_is_not_renewed_without_a_run(tmp_path):
    chapter = chapter_zero(tmp_path, ('print(f"grid', 'print(f"the grid'))
    before = chapter.notebook.read_bytes()
    with refusal(ChapterError, chapter.path.name):
        renew_texts(chapter)
    assert chapter.notebook.read_bytes() == before


def code(cells):
    """The first code cell."""
    return next(cell for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize(
    "edit",
    [
        lambda cells: code(cells)["outputs"].append(stream("9", "stderr")),
        lambda cells: cells.pop(),
        lambda cells: code(cells).update(execution_count=7),
        lambda cells: [c.update(outputs=[]) for c in cells if "outputs" in c],
        lambda cells: code(cells)["outputs"].append(stream("9" * 10**6)),
    ],
    ids=["stderr", "a cell less", "count", "no figure", "too long"],
)
def test_an_edited_notebook_is_found(tmp_path, edit):
    chapter = chapter_zero(tmp_path)
    assert list(committed_faults(chapter)) == []
    notebook = json.loads(chapter.notebook.read_text(encoding="utf-8"))
    edit(notebook["cells"])
    chapter.notebook.write_bytes(notebook_bytes(notebook))
    assert list(committed_faults(chapter)) != []


def test_a_missing_notebook_is_found(tmp_path):
    chapter = chapter_zero(tmp_path)
    chapter.notebook.unlink()
    assert names(next(committed_faults(chapter)), chapter.notebook.name)


def test_exercises_of_source_and_registry_are_the_same(tmp_path):
    chapter = chapter_zero(tmp_path, ("# %% exercise 0.3\n", ""))
    with pytest.raises(ChapterError, match=r"0\.3"):
        make_notebook(chapter)


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def notebook_of(*outputs):
    return {"cells": [{"cell_type": "code", "source": "print(x)", "outputs": list(outputs)}]}


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (stream("Warning: old", "stderr"), "complains"),
        ({"output_type": "error", "evalue": "no", "traceback": []}, "complains"),
        (stream("3.14159"), "3 significant"),
        (stream("loss 12.34"), "3 significant"),
        (stream("1.2345e-07"), "3 significant"),
        (stream("took 12 s"), "a time"),
        (stream("3.2 ms a step"), "a time"),
        (stream("/home/me/data"), "a path"),
        (stream("<object at 0x7f3a5c2b>"), "an address"),
        ({"output_type": "execute_result", "data": {"text/plain": "0.98765"}}, "3 significant"),
        ({"output_type": "display_data", "data": {"text/html": "<b>0.98765</b>"}}, "3 significant"),
    ],
)
def test_what_must_not_be_committed(output, words):
    faults = list(output_faults(notebook_of(output)))
    assert len(faults) == 1 and words in faults[0]


@pytest.mark.parametrize(
    "text",
    ["16,777,216", "0.00123", "1.23e-07", "98.3 %", "(512, 600)", "v1.2.3", "12 sheets", "3e-05",
     "[0.5 0.25 3.]", "Exercise 1.2", "-0.0120", "65536", "float32"],
)  # fmt: skip
def test_what_may_be_committed(text):
    assert list(output_faults(notebook_of(stream(text)))) == []


def test_ids_stay_when_a_cell_is_added(tmp_path):
    before = [c["id"] for c in make_notebook(find_chapter(0))["cells"]]
    chapter = chapter_zero(tmp_path, ("# %% exercise 0.1\n", "# %%\nz = 3\n\n# %% exercise 0.1\n"))
    after = [c["id"] for c in make_notebook(chapter)["cells"]]
    assert len(set(before)) == len(before) and len(after) == len(before) + 1
    assert [id for id in after if id in before] == before


def test_cleaning_drops_what_depends_on_the_machine():
    image = {"output_type": "display_data", "data": {"image/png": "x"}, "metadata": {"n": 1}}
    slider = {"output_type": "display_data", "data": {"text/plain": "IntSlider()"}, "metadata": {}}
    cell = {"cell_type": "code", "id": "a", "source": "", "execution_count": 1, "outputs": [image]}
    cells = [
        {**cell, "metadata": {"execution": {"iopub.status.busy": "2026"}, "tags": []}},
        {**cell, "metadata": {"tags": ["slider"]}, "outputs": [slider]},
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cleaned = clean(
        {
            "cells": cells, "nbformat": 4, "nbformat_minor": 5,
            "metadata": {"kernelspec": kernel, "language_info": {"name": "python", "version": "3"},
                         "widgets": {"state": {}}},
        }
    )  # fmt: skip
    assert cleaned["cells"][0]["metadata"] == {"tags": []}
    assert cleaned["cells"][0]["outputs"][0]["metadata"] == {}
    assert cleaned["cells"][1]["outputs"] == []
    assert cleaned["metadata"] == {
        "kernelspec": kernel,
        "language_info": {"name": "python"},
        "minilora": {"verdicts": []},
    }
    assert figures(cleaned) == 1


def test_chapters_come_in_order_and_each_once():
    numbers = [chapter.number for chapter in find_chapters()]
    assert numbers == sorted(set(numbers)) and numbers[0] == 0


def test_builder_names_an_unknown_chapter(capsys):
    assert main(["99"]) == 1
    assert names(capsys.readouterr().err, 99)


def test_a_folder_without_chapters(tmp_path):
    with refusal(ChapterError, tmp_path):
        find_chapters(tmp_path)

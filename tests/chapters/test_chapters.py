"""Every chapter: its notebook is made from its source, and it runs from top to bottom.

As shipped, with the exercises unwritten; and with --all also solved, and answered wrongly. Without
--all and without a chapter's mark, only the chapter that conftest.py names runs.
"""

from __future__ import annotations

import pytest

from minilora.course.build import committed_faults, notebook_faults, source_faults
from minilora.course.execute import execute, figures, make_notebook, output_texts
from minilora.course.source import find_chapters

pytest.importorskip("nbclient", reason="chapters run in a Jupyter kernel: the test extra has one")

CHAPTERS = [
    pytest.param(chapter, id=chapter.name, marks=getattr(pytest.mark, f"ch{chapter.number:02d}"))
    for chapter in find_chapters()
]


def run(chapter, answers=None):
    """The chapter's cells after a run, and what each check printed, by exercise."""
    notebook = execute(make_notebook(chapter, answers), chapter.path.name)
    assert list(notebook_faults(chapter, notebook)) == []
    checks = [c for c in notebook["cells"] if c["metadata"].get("tags") == ["check"]]
    assert len(checks) == len(chapter.exercises)
    said = {id: "".join(output_texts(c)) for id, c in zip(chapter.exercises, checks, strict=True)}
    return notebook, said


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_notebook_is_made_from_the_source(chapter):
    assert list(source_faults(chapter)) == []
    assert list(committed_faults(chapter)) == []


@pytest.mark.chapters
@pytest.mark.processes
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_runs_as_shipped(chapter):
    notebook, said = run(chapter)
    assert all(text.startswith("○") for text in said.values()), said
    assert figures(notebook) >= 1


@pytest.mark.solved
@pytest.mark.chapters
@pytest.mark.processes
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_runs_solved(chapter):
    solutions = {id: entry.solution for id, entry in chapter.exercises.items()}
    _, said = run(chapter, solutions)
    assert all(text.startswith("✓") for text in said.values()), said


@pytest.mark.solved
@pytest.mark.chapters
@pytest.mark.processes
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_runs_with_wrong_answers(chapter):
    planted = {id: entry.wrong[0] for id, entry in chapter.exercises.items()}
    _, said = run(chapter, {id: answer.source for id, answer in planted.items()})
    for id, answer in planted.items():
        assert said[id].startswith("✗") and answer.says in said[id]

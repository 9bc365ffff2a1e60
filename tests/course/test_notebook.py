"""What a chapter calls: check, hint, solution, answer, slider."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from minilora.course import answer, check, data_folder, hint, notebook, slider, solution
from minilora.course.exercises import find_exercise
from minilora.course.progress import FOLDER_VARIABLE, PROGRESS, Record, read_progress
from tests.says import refusal

ENTRY = find_exercise("0.3")


@pytest.fixture(autouse=True)
def fresh_session(monkeypatch, tmp_path):
    monkeypatch.setattr(notebook, "_solved", {})
    monkeypatch.setattr(notebook, "_hints", {})
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))


def test_answer_is_ours_until_yours_passes(capsys):
    stub, yours = ENTRY.build(ENTRY.stub), ENTRY.build(ENTRY.solution)
    check("0.3", stub)
    assert answer("0.3") is ENTRY.reference
    check("0.3", yours)
    assert answer("0.3") is yours
    check("0.3", ENTRY.build(ENTRY.wrong[0].source))  # broken again
    assert answer("0.3") is ENTRY.reference
    said = capsys.readouterr().out.splitlines()
    assert [line[0] for line in said] == ["○", "✓", "✗"]
    assert ENTRY.wrong[0].says in said[2]


def test_check_notes_tries_but_no_stub(tmp_path):
    check("0.3", ENTRY.build(ENTRY.stub))
    assert read_progress(tmp_path) == {}
    check("0.3", ENTRY.build(ENTRY.wrong[0].source))
    check("0.3", ENTRY.build(ENTRY.solution))
    assert read_progress(tmp_path) == {"0.3": Record(passed=True, tries=2)}


def test_check_finds_the_function_of_the_notebook(tmp_path, capsys):
    notebook = {"check": check}
    exec(f"{ENTRY.solution}\ncheck('0.3')", notebook)
    assert capsys.readouterr().out.startswith("✓") and answer("0.3") is notebook["count_sheet"]
    assert read_progress(tmp_path) == {"0.3": Record(passed=True, tries=1)}


def test_a_deleted_stub_is_one_line_that_says_what_to_write(tmp_path, capsys):
    exec("check('0.3')", {"check": check})
    said = capsys.readouterr().out
    assert said.startswith("○ 0.3 count_sheet: ") and said.count("\n") == 1
    assert ENTRY.stub.splitlines()[0] in said
    assert answer("0.3") is ENTRY.reference and read_progress(tmp_path) == {}


def test_our_version_is_not_taken_for_yours(tmp_path, capsys):
    check("0.3", answer("0.3"))
    assert capsys.readouterr().out.startswith("○ 0.3 ")
    assert read_progress(tmp_path) == {}


def test_nothing_is_noted_outside_a_learners_folder(tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.chdir(tmp_path)
    check("0.3", ENTRY.build(ENTRY.solution))
    hint("0.3")
    solution("0.3")
    assert list(tmp_path.iterdir()) == []


def test_hints_come_one_at_a_time(capsys, tmp_path):
    for _ in range(4):
        hint("0.3")
    said = capsys.readouterr().out
    first, second, third = (said.index(text) for text in ENTRY.hints)
    assert first < second < third and said.count("Hint 3 of 3") == 2
    assert read_progress(tmp_path)["0.3"].hints == 3


def test_solution_is_shown_and_noted(capsys, tmp_path):
    solution("0.3")
    assert capsys.readouterr().out.strip() == ENTRY.solution
    assert read_progress(tmp_path)["0.3"].solution


def test_a_broken_progress_file_stops_no_check(capsys, tmp_path):
    (tmp_path / PROGRESS).write_text("{")
    check("0.3", ENTRY.build(ENTRY.solution))
    said = capsys.readouterr().out
    first, second = said.splitlines()
    assert first.startswith("✓ 0.3 ") and PROGRESS in second


def test_a_slider_draws_once_unseen_where_nobody_moves_it(monkeypatch):
    from matplotlib import pyplot as plt

    drawn = []
    monkeypatch.setenv(notebook.PLAIN_VARIABLE, "1")

    def draw(**values):
        drawn.append(values)
        plt.figure()

    before = plt.get_fignums()
    slider(draw, r=(1, 16), alpha=(0.5, 4.0, 0.5), kind=["q", "v"])
    assert drawn == [{"r": 1, "alpha": 0.5, "kind": "q"}]
    assert plt.get_fignums() == before


def test_no_slider_without_a_kernel(monkeypatch):
    monkeypatch.delenv(notebook.PLAIN_VARIABLE, raising=False)
    slider(lambda r: pytest.fail("drawn"), r=(1, 4))


def live_kernel(monkeypatch):
    monkeypatch.delenv(notebook.PLAIN_VARIABLE, raising=False)
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


def test_no_slider_without_ipywidgets(monkeypatch):
    live_kernel(monkeypatch)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    slider(lambda r: pytest.fail("drawn"), r=(1, 4))


def test_a_slider_with_a_kernel_and_ipywidgets(monkeypatch):
    live_kernel(monkeypatch)
    asked = []
    widgets = SimpleNamespace(interact=lambda draw, **ranges: asked.append((draw, ranges)))
    monkeypatch.setitem(sys.modules, "ipywidgets", widgets)
    slider(len, r=(1, 4))
    assert asked == [(len, {"r": (1, 4)})]


def test_a_list_of_values_is_a_slider_and_no_menu(monkeypatch):
    widgets = pytest.importorskip("ipywidgets")
    live_kernel(monkeypatch)
    asked = {}
    monkeypatch.setattr(widgets, "interact", lambda draw, **ranges: asked.update(ranges))
    slider(lambda r=4, alpha=3.0: None, r=[1, 4, 16], alpha=[0.25, 1024.0])
    assert {type(one) for one in asked.values()} == {widgets.SelectionSlider}
    assert (asked["r"].value, asked["alpha"].value) == (4, 0.25)  # 3.0 is none of the values
    assert asked["alpha"].options == (("0.25", 0.25), ("1024", 1024.0))


def test_data_folder():
    assert (data_folder("ward-base") / "config.json").is_file()
    with refusal(ValueError, "nothing"):
        data_folder("nothing")

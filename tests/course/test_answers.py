"""Answers read from notebooks: definitions run, everything else does not."""

from __future__ import annotations

import json

import pytest

from minilora.course.answers import Answers, check_answers, code_cells
from minilora.course.exercises import find_exercise
from minilora.course.progress import read_progress
from minilora.course.source import ChapterError
from tests.says import names

ENTRY = find_exercise("0.3")
STUB = ENTRY.stub
RIGHT = ENTRY.solution
WRONG = ENTRY.wrong[0].source


def write(folder, name, *sources):
    cells = [{"cell_type": "code", "source": text.splitlines(True)} for text in sources]
    path = folder / name
    path.write_text(json.dumps({"cells": [*cells, {"cell_type": "markdown", "source": "x"}]}))
    return path


def status(tmp_path, *sources):
    write(tmp_path, "00_adjustment.ipynb", *sources)
    (outcome,) = check_answers(tmp_path, [ENTRY])
    return outcome.status, outcome.message


@pytest.mark.parametrize(
    ("sources", "wanted", "named"),
    [
        ([STUB], "unwritten", ()),
        ([], "unwritten", ()),
        ([RIGHT], "passed", ()),
        ([STUB, RIGHT], "passed", ()),  # a second cell, the last one counts
        ([RIGHT, WRONG], "wrong", (ENTRY.wrong[0].says,)),
        (["%matplotlib inline\nimport numpy as np\n" + RIGHT], "passed", ()),
        (["1 / 0\nraise SystemExit", RIGHT], "passed", ()),
        (["RIGHT?\n!ls\nfiles = !ls\n%time 1\n" + RIGHT], "passed", ()),
        (["%%time\n" + RIGHT], "passed", ()),
        ([RIGHT, "%%bash\nfor x in y; do echo; done"], "passed", ()),
        (["text = (7\n  % 2)\n" + RIGHT], "passed", ()),
        *(
            ([helper, RIGHT.replace("return r", "return int(side(1.0)) * r")], "passed", ())
            for helper in (
                "side = lambda v: '1'.isdecimal() and v",
                "one = float(1)\nside = lambda v: v * one",
                "import numpy as np\none = np.array([1.0])[0]\ndef side(v):\n    return v * one",
                "if True:\n    def side(v):\n        return v",
                "try:\n    import no_such_module as xp\n"
                "except ImportError:\n    side = lambda v: v",
            )
        ),
        (["two = 2", RIGHT.replace("return r", "return two * r // two")], "passed", ()),
        (
            ["def side(a):\n    return a", RIGHT.replace("return r", "return side(r)")],
            "passed",
            (),
        ),
        ([RIGHT.replace("return r", "return nowhere + r")], "failed", ("NameError",)),
        ([RIGHT.replace("return r", "return r r")], "failed", ("SyntaxError",)),
        (["count_sheet = 3"], "wrong", ("int",)),
    ],
)
def test_outcomes(tmp_path, sources, wanted, named):
    found, message = status(tmp_path, *sources)
    assert found == wanted
    assert names(message, *named)


def test_the_line_of_the_cell_is_quoted(tmp_path):
    _, message = status(tmp_path, RIGHT.replace("return r", "return nowhere + r"))
    assert names(message, "line 3", "`return nowhere + r")


def test_the_newest_notebook_with_an_answer_counts(tmp_path):
    write(tmp_path, "00_adjustment.ipynb", RIGHT)
    write(tmp_path, "00_adjustment.v2.ipynb", STUB)
    assert next(check_answers(tmp_path, [ENTRY])).passed
    write(tmp_path, "00_adjustment.v2.ipynb", WRONG)
    assert next(check_answers(tmp_path, [ENTRY])).status == "wrong"


def test_tries_are_noted(tmp_path):
    status(tmp_path, STUB)
    assert read_progress(tmp_path) == {}
    status(tmp_path, WRONG)
    status(tmp_path, RIGHT)
    assert (read_progress(tmp_path)["0.3"].tries, read_progress(tmp_path)["0.3"].passed) == (
        2,
        True,
    )


def test_nothing_but_definitions_is_run(capsys):
    names = Answers(
        ["import math\nn = 3\nm = print('run')\nprint('run')\nclass A: pass"], "mine"
    ).names
    assert capsys.readouterr().out == ""
    assert names["n"] == 3 and "m" not in names and {"math", "A"} <= names.keys()


@pytest.mark.parametrize("text", ["", "{}", '{"cells": 3}', '{"cells": [{}]}'])
def test_what_is_no_notebook_is_named(tmp_path, text):
    path = tmp_path / "00_adjustment.ipynb"
    path.write_text(text)
    with pytest.raises(ChapterError, match="00_adjustment"):
        code_cells(path)


def test_a_cell_that_is_no_python_is_kept_apart():
    answers = Answers(["def f(:", "x = 1"], "mine")
    assert answers.names["x"] == 1 and len(answers.unread) == 1


def test_an_answer_that_never_ends_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("minilora.course.checking.TIME_LIMIT", 0.2)
    write(
        tmp_path, "00_adjustment.ipynb", RIGHT.replace("return r", "while True: pass\n    return r")
    )
    (outcome,) = check_answers(tmp_path, [ENTRY])
    assert outcome.status == "failed"


def test_outcomes_come_one_by_one(tmp_path):
    write(tmp_path, "00_adjustment.ipynb", RIGHT)
    outcomes = check_answers(tmp_path, [ENTRY, None])  # the second would stop it
    assert next(outcomes).passed

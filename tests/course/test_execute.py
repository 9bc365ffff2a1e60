"""Running a notebook: in a fresh kernel of this Python, with one BLAS thread, and no traces."""

from __future__ import annotations

import sys

import pytest

from minilora.course.build import notebook_bytes
from minilora.course.execute import execute, output_texts
from minilora.course.source import ChapterError
from tests.says import refusal

pytest.importorskip("nbclient", reason="chapters run in a Jupyter kernel: the test extra has one")
pytestmark = pytest.mark.processes

LOOK = """
import os, sys
from threadpoolctl import threadpool_info
import numpy
print(sys.executable, os.listdir("."), os.environ.get("MINILORA_COURSE"))
print([pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"])
"""


def notebook_of(*sources):
    cell = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    cells = [{**cell, "id": f"cell-{i}", "source": text} for i, text in enumerate(sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    meta = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": meta, "nbformat": 4, "nbformat_minor": 5}


def test_the_kernel_is_ours(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILORA_COURSE", str(tmp_path))
    (text,) = output_texts(execute(notebook_of(LOOK), "look")["cells"][0])
    where, threads = text.splitlines()
    assert where == f"{sys.executable} [] None"
    assert set(threads.strip("[]").split(", ")) == {"1"}


def test_a_run_leaves_no_traces_of_when_and_where():
    source = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nprint(3)"
    first, second = (notebook_bytes(execute(notebook_of(source), "two")) for _ in range(2))
    assert first == second and b"image/png" in first


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("x = 1\nraise ValueError('a reason')", ("ValueError", "a reason", "x = 1")),
        ("import os; os._exit(1)", ("Kernel",)),
    ],
)
def test_what_stops_a_chapter_is_named(source, named):
    with refusal(ChapterError, "ch99.py", *named):
        execute(notebook_of("y = 0", source), "ch99.py")


def test_an_endless_loop_is_stopped(monkeypatch):
    monkeypatch.setattr("minilora.course.execute.CELL_SECONDS", 1)
    with refusal(ChapterError, "ch99.py", "while True: pass"):
        execute(notebook_of("while True: pass"), "ch99.py")

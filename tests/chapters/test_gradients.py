"""Functions that chapters define with a vjp of their own, against finite differences.

`gradients/chNN.py` has CASES: the name of a function of the chapter -> a function of the chapter's
names and a generator, giving a function of Tensors and its float64 inputs. A function that calls
`Tensor.from_op` must have a case; one that is wrong on purpose is named wrong_… and must fail.
"""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import numpy as np
import pytest

from minilora.course.answers import Answers
from minilora.course.source import find_chapters
from minilora.gradients.gradcheck import check_gradients

FOLDER = Path(__file__).parent / "gradients"
CHAPTERS = find_chapters()


def own_ops(chapter) -> set[str]:
    """Functions of the chapter's text, at top level, that call Tensor.from_op."""
    trees = [ast.parse(c.source) for c in chapter.cells if c.kind == "code" and not c.exercise]
    return {
        node.name
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(getattr(part, "attr", "") == "from_op" for part in ast.walk(node))
    }


def cases(chapter) -> dict:
    path = FOLDER / f"ch{chapter.number:02d}.py"
    return runpy.run_path(str(path))["CASES"] if path.is_file() else {}


def marked(chapter, *values, id):
    return pytest.param(*values, id=id, marks=getattr(pytest.mark, f"ch{chapter.number:02d}"))


@pytest.mark.parametrize("chapter", [marked(c, c, id=c.name) for c in CHAPTERS])
def test_every_function_with_a_vjp_has_a_case(chapter):
    assert own_ops(chapter) <= cases(chapter).keys()


@pytest.mark.parametrize(
    ("chapter", "name"), [marked(c, c, name, id=name) for c in CHAPTERS for name in cases(c)]
)
def test_gradients_against_finite_differences(chapter, name):
    texts = [c.source for c in chapter.cells if c.kind == "code" and not c.exercise]
    fn, inputs = cases(chapter)[name](Answers(texts, chapter.name).names, np.random.default_rng(0))
    report = check_gradients(fn, inputs, rng=np.random.default_rng(1), name=name)
    assert report.ok is not name.startswith("wrong_"), str(report)

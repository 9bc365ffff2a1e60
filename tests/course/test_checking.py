"""Checks of exercises: outcomes, and the registry's rules for entries."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from minilora.course.checking import run_check
from minilora.course.exercises import _registry as registry
from minilora.course.exercises import exercise, find_exercise, mistake
from minilora.course.judge import Judge
from tests.says import names


def check_double(fn, judge: Judge):
    x = judge.normal(3)
    judge.close("twice x", judge.call(fn, x=x), 2 * x, factors={"squared": 4.0})


FIELDS = dict(
    statement="Write `double(x)`.", hints=("a", "b", "c"), check=check_double, minutes=3,
    difficulty=1,
    wrong=(
        mistake("sign", "sign", change=("2 * x", "-2 * x")),
        mistake("again", "squared", body="return 4 * x"),
    ),
)  # fmt: skip


@pytest.fixture
def enter(monkeypatch):
    monkeypatch.setattr("minilora.course.exercises._registry", {})

    def enter(id="99.1", **changes):
        @exercise(id, "Double", **{**FIELDS, **changes})
        def double(x):
            """Twice x."""
            return 2 * x

        from minilora.course import exercises

        return exercises._registry[id]

    return enter


def test_an_entry_makes_stub_and_wrong_answers(enter):
    entry = enter()
    assert entry.stub.splitlines()[-1] == '    raise NotImplementedError("not written yet")'
    assert entry.stub.splitlines()[:2] == ["def double(x):", '    """Twice x."""']
    assert entry.solution.endswith("return 2 * x")
    assert [answer.source.splitlines()[-1].strip() for answer in entry.wrong] == [
        "return -2 * x", "return 4 * x",
    ]  # fmt: skip


def explode(x):
    return {}["missing"]


@pytest.mark.parametrize(
    ("answer", "status", "named"),
    [
        (lambda x: 2 * x, "passed", ()),
        (lambda x: sys.exit(), "failed", ("SystemExit",)),
        (lambda x: 3 * x, "wrong", (1.5,)),
        (explode, "failed", ("KeyError", "'missing'", "line")),
        (lambda: 0, "failed", ("TypeError",)),
        (3, "wrong", ("int",)),
    ],
)
def test_outcomes(enter, answer, status, named):
    outcome = run_check(enter(), answer, seed=0)
    assert outcome.status == status
    assert names(outcome.message, *named)


def test_the_learners_line_is_quoted(enter):
    assert '`return {}["missing"]`' in run_check(enter(), explode, 0).message


def test_a_stub_is_not_written_yet(enter):
    entry = enter()
    assert run_check(entry, entry.build(entry.stub)).status == "unwritten"


def test_a_check_that_compares_nothing_fails(enter):
    outcome = run_check(enter(check=lambda fn, judge: None), lambda x: x)
    assert outcome.status == "failed"


@pytest.mark.parametrize(
    "changes",
    [
        {"hints": ("a", "b")},
        {"wrong": FIELDS["wrong"][:1]},
        {"difficulty": 4},
        {"wrong": (mistake("none", "x", change=("3 * x", "x")), FIELDS["wrong"][0])},
        {"wrong": (mistake("doc", "x", change=("Twice", "x")), FIELDS["wrong"][0])},
    ],
)
def test_an_incomplete_entry_is_refused(enter, changes):
    with pytest.raises(ValueError, match="expected"):
        enter(**changes)


@pytest.mark.parametrize("both", [{}, {"change": ("a", "b"), "body": "pass"}])
def test_a_mistake_is_a_change_or_a_body(both):
    with pytest.raises(ValueError, match="either"):
        mistake("name", "says", **both)


@pytest.mark.parametrize("id", ["0.99", "99.1", "1", "one.two", "", "0.1.2"])
def test_an_unknown_exercise(id):
    with pytest.raises(ValueError, match="expected"):
        find_exercise(id)


def test_the_real_registry_is_left_alone():
    find_exercise("0.1")
    assert "99.1" not in registry


def test_a_seed_gives_the_same_numbers_and_another_seed_others():
    """For grades that can be repeated: what an answer is called with depends on the seed alone."""
    exercise, seen = find_exercise("0.4"), []

    def noting(photo, B, A, alpha):
        seen.append(photo.copy())
        return exercise.reference(photo, B, A, alpha)

    assert all(run_check(exercise, noting, seed).passed for seed in (7, 7, 8))
    each = len(seen) // 3
    first, again, other = seen[:each], seen[each : 2 * each], seen[2 * each :]
    assert each > 0
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))

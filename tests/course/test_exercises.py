"""Every exercise: the solution passes, the stub fails politely, wrong answers get their words."""

from __future__ import annotations

import pytest

from minilora.course.checking import PASSED, UNWRITTEN, WRONG, run_check
from minilora.course.comparing import as_array
from minilora.course.judge import Judge
from minilora.course.source import find_chapters

CHAPTERS = find_chapters()
ENTRIES = [
    pytest.param(entry, id=entry.id, marks=getattr(pytest.mark, f"ch{chapter.number:02d}"))
    for chapter in CHAPTERS
    for entry in chapter.exercises.values()
]
WRONG_ANSWERS = [
    pytest.param(
        entry, answer, id=f"{entry.id} {answer.name}", marks=getattr(pytest.mark, f"ch{n:02d}")
    )
    for n, exercises in ((chapter.number, chapter.exercises) for chapter in CHAPTERS)
    for entry in exercises.values()
    for answer in entry.wrong
]
SEEDS = range(5)
MANY = range(20)
"""Each seed draws other sizes, so the solution is tried with more of them."""


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_solution_passes(entry):
    for seed in MANY:
        outcome = run_check(entry, entry.build(entry.solution), seed)
        assert outcome.status == PASSED, f"seed {seed}: {outcome}"


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_stub_fails_politely(entry):
    outcome = run_check(entry, entry.build(entry.stub), 0)
    assert outcome.status == UNWRITTEN
    assert str(outcome).startswith(f"○ {entry.id} ")


@pytest.mark.parametrize(("entry", "answer"), WRONG_ANSWERS)
def test_a_wrong_answer_gets_its_own_message(entry, answer):
    others = {other.says for other in entry.wrong} - {answer.says}
    for seed in SEEDS:
        outcome = run_check(entry, entry.build(answer.source), seed)
        assert outcome.status == WRONG, f"seed {seed}: {outcome}"
        assert answer.says in outcome.message, f"seed {seed}: {outcome}"
        assert not any(words in outcome.message for words in others), f"seed {seed}: {outcome}"


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_is_complete(entry):
    assert len(set(entry.hints)) == 3 and all(entry.hints)
    assert len(entry.wrong) >= 2
    assert len({answer.says for answer in entry.wrong}) == len(entry.wrong)
    assert len({answer.name for answer in entry.wrong}) == len(entry.wrong)
    assert 1 <= entry.minutes <= 60
    assert entry.name in entry.statement  # says what to write
    assert entry.stub.count("raise NotImplementedError") == 1


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("value", [None, 0.0, "text", ()], ids=repr)
def test_a_constant_is_no_answer(entry, value):
    outcome = run_check(entry, lambda *args: value, 0)
    assert not outcome.passed
    assert outcome.message


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_check_compares_something(entry):
    judge = Judge(3)
    entry.check(entry.reference, judge)
    assert judge.compared > 0


def sizes_of(value):
    """What is left of an argument without its numbers: shapes, lengths and whole numbers."""
    array = as_array(value)
    if array is not None:
        return array.shape
    if isinstance(value, (list, tuple)):
        return [sizes_of(part) for part in value]
    if isinstance(value, dict):
        return {key: sizes_of(part) for key, part in value.items()}
    return value if isinstance(value, (int, str)) else type(value)


@pytest.mark.parametrize("entry", ENTRIES)
def test_another_seed_draws_other_sizes(entry):
    """An answer that was written for one set of shapes fails with another seed."""
    seen = set()
    for seed in range(6):
        called = []

        def noting(*arguments, called=called):
            called.append(repr(sizes_of(arguments)))
            return entry.reference(*arguments)

        assert run_check(entry, noting, seed).passed
        seen.add(tuple(called))
    assert len(seen) > 1


def test_every_exercise_is_found_by_its_chapter():
    numbers = [entry.values[0].id for entry in ENTRIES]
    assert len(numbers) == len(set(numbers)) >= 3 * len(CHAPTERS)

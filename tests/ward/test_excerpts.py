"""Excerpts show what their question needs, and are shorter than the note."""

import numpy as np
import pytest

from minilora.ward import general_documents, sample_case, write_note
from minilora.ward.excerpts import evidence, excerpt, lines_of
from minilora.ward.tasks import QUESTIONS

TASKS = [*(question.task for question in QUESTIONS), "public/medication list"]


@pytest.mark.parametrize("task", TASKS)
def test_excerpt_shows_everything_that_is_needed(task):
    rng = np.random.default_rng(3)
    lengths = []
    for _ in range(150):
        case = sample_case(rng)
        note = write_note(case, rng)
        needed = evidence(case, task)
        text = excerpt(note, needed, rng)
        assert needed
        assert all(any(way in text for way in ways) for ways in needed)
        lengths.append(len(text) / len(note))
    assert np.mean(lengths) < 0.6


def test_lines_put_together_are_the_note():
    rng = np.random.default_rng(4)
    for _ in range(100):
        note = write_note(sample_case(rng), rng)
        lines = lines_of(note)
        assert "".join(text + gap for text, gap in lines) == note
        assert len(lines) > 2


def test_no_excerpt_where_the_note_does_not_show_it():
    rng = np.random.default_rng(5)
    note = write_note(sample_case(rng), rng)
    assert excerpt(note, [("in no note at all",)], rng) is None


def test_excerpt_without_needs_is_not_empty():
    rng = np.random.default_rng(6)
    for _ in range(200):
        assert excerpt("One line.\nTwo lines.", [], rng) in (
            "One line.",
            "Two lines.",
            "One line.\nTwo lines.",
        )


def test_corpus_has_excerpts_that_hold_the_answer():
    looked_up = 0
    for document in general_documents(8, 600):
        turn = document.turns[0]
        text, _, question = turn.prompt.partition("\n\n")
        if question and len(text) < 120 and turn.task in ("question/name", "question/tests"):
            looked_up += 1
            assert all(part in text for part in turn.completion.split("; "))
    assert looked_up > 5

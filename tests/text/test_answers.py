"""answers: the prompts' order, whatever shares a batch."""

from __future__ import annotations

import os

import numpy as np
import pytest

import minilora.text.answers as module
from minilora.nn import generate
from minilora.text.answers import _batches, answers, stop_ids
from minilora.text.streaming import answer_text
from tests.says import refusal

PROMPTS = ["Pulse?", "No known allergies. Pulse 88, regular", "a", "takes 20 mg", "é", "Pulse?"]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
def test_answers_come_in_the_prompts_order_and_as_one_by_one(make_model, tokenizer, batch_size):
    model = make_model()
    alone = [answers(model, tokenizer, [p], max_new_tokens=9)[0] for p in PROMPTS]
    assert len(set(alone)) == len(set(PROMPTS)) and all(alone)
    together = answers(model, tokenizer, PROMPTS, max_new_tokens=9, batch_size=batch_size)
    assert together == alone
    ids = generate(model, [tokenizer.encode_prompt(PROMPTS[0])], 9, stop_ids=(tokenizer.eos_id,))
    assert alone[0] == answer_text(tokenizer, ids[0], 9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system can't fork")
@pytest.mark.parametrize("workers", [2, 3, 9])
@pytest.mark.parametrize("batch_size", [1, 64])
def test_answers_of_several_processes_are_those_of_one(make_model, tokenizer, batch_size, workers):
    model = make_model()
    alone = answers(model, tokenizer, PROMPTS, 9, batch_size)
    assert answers(model, tokenizer, PROMPTS, 9, batch_size, workers=workers) == alone


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(make_model, tokenizer, workers):
    with refusal(ValueError, "workers", workers):
        answers(make_model(), tokenizer, PROMPTS, 9, workers=workers)


def test_one_prompt_is_answered_here_with_as_many_blas_threads_as_are_best(
    make_model, tokenizer, monkeypatch
):
    told = []

    def side_by_side(function, jobs, workers, done):
        told.append((workers, len(jobs)))
        return list(map(function, jobs))

    monkeypatch.setattr(module, "side_by_side", side_by_side)
    monkeypatch.setattr(module, "recommended_blas_threads", lambda width: told.append(width) or 1)
    model = make_model()
    answers(model, tokenizer, PROMPTS[:1], 9, workers=4)
    assert told == [model.config.hidden_size, (1, 1)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system can't fork")
def test_several_processes_have_one_blas_thread_each(make_model, tokenizer, monkeypatch):
    told, real = [], module.blas_threads
    monkeypatch.setattr(module, "blas_threads", lambda count: told.append(count) or real(count))
    monkeypatch.setattr(module, "recommended_blas_threads", lambda width: 3)
    for workers in (1, 2):
        answers(make_model(), tokenizer, PROMPTS, 9, workers=workers)
    assert told == [3, 1]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_what_all_processes_read_at_a_time_has_one_bound(workers, monkeypatch):
    monkeypatch.setattr(module, "BATCH_TOKENS", 600)
    lengths = np.random.default_rng(0).integers(20, 60, 90)
    batches = _batches(lengths, 64, workers)
    sizes = [len(rows) * max(int(lengths[row]) for row in rows) for rows in batches]
    assert max(sizes) <= 600 // workers and max(sizes) > 450 // workers


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_row_is_in_one_batch_and_workers_get_rows_of_all_lengths(workers):
    lengths = np.random.default_rng(0).permutation(60) + 1
    batches = _batches(lengths, 8, workers)
    assert sorted(row for rows in batches for row in rows) == list(range(60))
    assert all(len(rows) <= 8 for rows in batches)
    dealt = np.array_split(np.array(batches, dtype=object), workers)
    read = [sum(int(lengths[row]) for rows in own for row in rows) for own in dealt]
    assert max(read) - min(read) <= 60


def test_an_answer_ends_at_the_end_token(make_model, tokenizer, monkeypatch):
    model = make_model()
    free = generate(model, [tokenizer.encode_prompt("Pulse?")], 9)[0]
    stop = next(i for i in free[1:] if i != free[0])
    monkeypatch.setattr("minilora.text.answers.stop_ids", lambda *_: {stop})
    ended = answers(model, tokenizer, ["Pulse?"], max_new_tokens=9)[0]
    assert ended == tokenizer.decode(free[: free.index(stop)])


def test_both_end_tokens_count(make_model, tokenizer):
    assert set(stop_ids(make_model(eos_token_id=7), tokenizer)) == {7, tokenizer.eos_id}
    several = make_model(eos_token_id=(7, 9))
    assert set(stop_ids(several, tokenizer)) == {7, 9, tokenizer.eos_id}
    assert set(stop_ids(make_model(eos_token_id=None), tokenizer)) == {tokenizer.eos_id}


def test_no_prompts_have_no_answers(make_model, tokenizer):
    assert answers(make_model(), tokenizer, []) == []


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_generated(
    make_model, tokenizer, monkeypatch
):
    monkeypatch.setattr("minilora.text.answers.generate", lambda *a, **k: pytest.fail("generated"))
    with refusal(ValueError, "max_position_embeddings", 64):
        answers(make_model(), tokenizer, ["a", "b" * 60], max_new_tokens=9, batch_size=1)

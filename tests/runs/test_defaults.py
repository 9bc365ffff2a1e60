"""What a plan leaves open: split, targets, batch, steps, rate, rows to judge and to watch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minilora.hub import load_pretrained
from minilora.runs import AdaptPlan, defaults
from minilora.runs.data import read_file
from minilora.runs.decide import decide
from minilora.text import Example
from minilora.text.packed import PackedExamples


@pytest.mark.parametrize(("count", "steps"), [(300, 51), (9000, 1000)])
def test_default_steps_are_three_passes_within_bounds(base, data, tmp_path, count, steps):
    model, tokenizer = load_pretrained(base)
    file = read_file(data, tokenizer, 64)
    examples = PackedExamples.pack(
        replace(e, source=f"{e.source}.{i}") for i in range(count // 30) for e in file.examples
    )
    plan = AdaptPlan(data=data, out=tmp_path / "out", batch_size=16)
    decided = decide(plan, model, replace(file, examples=examples))
    assert len(decided.held_out) == count // 10
    everyone = [e.source for part in (decided.train, decided.held_out) for e in part]
    assert sorted(everyone) == sorted(e.source for e in examples)
    assert len(decided.train) + len(decided.held_out) == count
    assert decided.training.steps == steps


def examples_of(length, count):
    ids = np.zeros(length, dtype=np.int32)
    return [Example(ids, ids)] * count


@pytest.mark.parametrize(
    ("parameters", "length", "count", "batch", "steps"),
    [
        (1_200_000, 200, 2700, 16, 507),  # ward-base: three passes
        (1_200_000, 200, 27, 16, 50),
        (134_500_000, 220, 3000, 2, 100),  # SmolLM2: what a few minutes allow
        (134_500_000, 220, 60, 2, 90),  # three passes
        (134_500_000, 30, 300, 16, 57),  # short examples: a whole batch
        (1_700_000_000, 220, 3000, 2, 50),  # never fewer
    ],
)
def test_batch_and_steps_follow_what_a_token_costs(parameters, length, count, batch, steps):
    examples = examples_of(length, count)
    assert defaults.default_batch(parameters, examples) == batch
    assert defaults.default_steps(parameters, examples, batch) == steps


@pytest.mark.parametrize(
    ("steps", "batch", "times"), [(100, 2, 3), (50, 1, 3), (150, 2, 5), (507, 16, 10)]
)
def test_a_short_run_is_watched_less_often(steps, batch, times):
    assert defaults.watchings(steps, batch) == times


@pytest.mark.parametrize(
    ("parameters", "asked", "rows"),
    [(1_200_000, None, 200), (134_500_000, None, 24), (134_500_000, 120, 120), (9, 300, 200)],
)
def test_rows_to_judge(parameters, asked, rows):
    assert defaults.judged_rows(parameters, examples_of(220, 200), asked) == rows


def test_many_rows_are_not_all_judged_on_a_small_base_either():
    many = examples_of(150, 14_782)
    assert defaults.judged_rows(1_213_568, many, None) == defaults.JUDGED
    assert defaults.judged_rows(1_213_568, many, len(many)) == len(many)


@pytest.mark.parametrize(
    ("width", "targets", "lr"),
    [(12, ("q_proj", "v_proj"), 0.015), (128, ("q_proj", "v_proj"), 0.015),
     (256, ("q_proj", "v_proj"), 0.0075), (576, "all-linear", 0.002)],
)  # fmt: skip
def test_targets_and_rate_follow_the_width(width, targets, lr):
    assert (defaults.default_targets(width), defaults.default_lr(width)) == (targets, lr)


@pytest.mark.parametrize(
    ("way", "times"),
    [({}, 1), ({"vera": True}, 8), ({"freeze_a": True}, 8), ({"pissa": True}, 0.5)],
)
def test_other_ways_to_train_have_rates_of_their_own(way, times):
    assert defaults.default_lr(128, **way) == 0.015 * times
    assert defaults.default_lr(576, **way) == 0.002 * times


@pytest.mark.parametrize(("parameters", "rows"), [(1_200_000, 50), (134_500_000, 4)])
def test_where_answers_are_scored_a_few_losses_do(parameters, rows):
    assert defaults.loss_rows(parameters, examples_of(220, 50)) == rows

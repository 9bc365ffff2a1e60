"""Batches: a function of (seed, step), every example once an epoch, and padding changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.autograd import IGNORE
from minilora.text import Example
from minilora.training import Batches
from minilora.training.batches import pad_examples
from tests.says import refusal


def test_right_padding_changes_no_result(tiny):
    model = tiny.model().eval()
    examples = sorted(tiny.copy_examples(), key=len)
    short, long = examples[0], examples[-1]
    assert len(short) < len(long)
    batch = pad_examples([short, long], np.arange(2))
    alone = pad_examples([short], np.arange(1))
    a, b = model(batch.ids).data[0, : len(short)], model(alone.ids).data[0]
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert len({row.tobytes() for row in b}) == len(b)


def some_examples(lengths):
    rng = np.random.default_rng(0)
    return [
        Example(rng.integers(1, 9, n, np.int32), rng.integers(1, 9, n, np.int32)) for n in lengths
    ]


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=40)
SIZES = st.integers(1, 7)
BUCKETS = st.integers(1, 3)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, SIZES, BUCKETS, st.integers(0, 2**40), st.integers(0, 3))
def test_every_example_comes_once_an_epoch(lengths, size, bucket, seed, epoch):
    batches = Batches(some_examples(lengths), size, seed, bucket=bucket)
    steps = range(epoch * len(batches), (epoch + 1) * len(batches))
    seen = np.concatenate([batches.batch(step).indices for step in steps])
    assert sorted(seen.tolist()) == list(range(len(lengths)))


@settings(max_examples=60, deadline=None)
@given(LENGTHS, SIZES, st.integers(0, 2**40), st.lists(st.integers(0, 60), max_size=6))
def test_a_batch_depends_on_seed_and_step_alone(lengths, size, seed, detour):
    examples = some_examples(lengths)
    first, second = Batches(examples, size, seed), Batches(examples, size, seed)
    for step in detour:  # whatever was asked before must not matter
        second.batch(step)
    for step in (0, 7, 31):
        a, b = first.batch(step), second.batch(step)
        for x, y in ((a.ids, b.ids), (a.labels, b.labels), (a.indices, b.indices)):
            np.testing.assert_array_equal(x, y)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, SIZES, st.integers(0, 60))
def test_rows_are_the_examples_and_padding_has_no_label(lengths, size, step):
    examples = some_examples(lengths)
    batch = Batches(examples, size, seed=1, pad_id=77).batch(step)
    assert batch.ids.dtype == batch.labels.dtype == np.int32
    assert batch.ids.shape == batch.labels.shape
    assert batch.ids.shape[1] == max(lengths[i] for i in batch.indices)
    for row, i in enumerate(batch.indices):
        n = lengths[i]
        np.testing.assert_array_equal(batch.ids[row, :n], examples[i].ids)
        np.testing.assert_array_equal(batch.labels[row, :n], examples[i].labels)
        assert (batch.ids[row, n:] == 77).all() and (batch.labels[row, n:] == IGNORE).all()
    assert batch.tokens == sum(lengths[i] for i in batch.indices)


def test_epochs_and_seeds_differ():
    examples = some_examples([3] * 40)
    orders = []
    for seed in (0, 1):
        batches = Batches(examples, 4, seed)
        for epoch in (0, 1, 2):
            steps = range(epoch * 10, epoch * 10 + 10)
            orders.append(tuple(int(i) for s in steps for i in batches.batch(s).indices))
    assert len(set(orders)) == len(orders) and tuple(range(40)) not in orders


def test_examples_of_one_length_meet():
    lengths = [1 + i % 8 for i in range(128)]
    padded = [b.ids.size for b in map(Batches(some_examples(lengths), 4, 0).batch, range(32))]
    unsorted = Batches(some_examples(lengths), 4, 0, bucket=1)
    assert sum(padded) < 0.8 * sum(unsorted.batch(s).ids.size for s in range(32))


@pytest.mark.parametrize(("count", "size"), [(0, 4), (3, 0), (3, -1)])
def test_nothing_to_batch_is_refused(count, size):
    with refusal(ValueError, *(("batch_size", size) if count else (0,))):
        Batches(some_examples([2] * count), size, 0)


@pytest.mark.parametrize("seed", [-1, 1.5, None])
def test_a_seed_that_numpy_would_refuse_later_is_refused_at_once(seed):
    with refusal(ValueError, "seed", str(seed)):
        Batches(some_examples([2]), 1, seed)

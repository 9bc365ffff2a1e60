"""Packed examples are the examples, whichever of them are taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.autograd import IGNORE
from minilora.text import Example
from minilora.text.packed import PackedExamples, lengths
from minilora.training import Batches


def example(tokens, learn, source):
    """Labels are the tokens that follow, where they are to be learned."""
    tokens, learn = np.array(tokens, np.int32), np.array(learn[: len(tokens) - 1])
    return Example(tokens[:-1], np.where(learn, tokens[1:], np.int32(IGNORE)), source)


TOKENS = st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=9)
LEARN = st.lists(st.booleans(), min_size=9, max_size=9)
EXAMPLES = st.lists(st.builds(example, TOKENS, LEARN, st.sampled_from("abc")), max_size=20)


def assert_same(packed, examples):
    assert len(packed) == len(examples)
    for got, wanted in zip(packed, examples, strict=True):
        np.testing.assert_array_equal(got.ids, wanted.ids)
        np.testing.assert_array_equal(got.labels, wanted.labels)
        assert got.ids.dtype == got.labels.dtype == np.int32 and got.source == wanted.source
    assert packed.lengths.tolist() == lengths(examples).tolist() == [len(e) for e in examples]
    counts = [int((e.labels != IGNORE).sum()) for e in examples]
    assert packed.label_counts.tolist() == counts


@settings(max_examples=60, deadline=None)
@given(EXAMPLES, st.data())
def test_packed_examples_are_the_examples(examples, data):
    packed = PackedExamples.pack(iter(examples))
    assert_same(packed, examples)
    begin, stop = data.draw(st.integers(-3, 21)), data.draw(st.integers(-3, 21))
    assert_same(packed[begin:stop], examples[begin:stop])
    if examples:
        places = data.draw(st.lists(st.integers(0, len(examples) - 1), max_size=9))
        taken = packed.take(places)
        assert_same(taken, [examples[i] for i in places])
        assert_same(taken[1:].take(range(len(taken[1:]))), [examples[i] for i in places[1:]])
    assert_same(packed.without({"a", "c"}), [e for e in examples if e.source == "b"])
    with pytest.raises(IndexError):
        packed[len(examples)]


@settings(max_examples=30, deadline=None)
@given(EXAMPLES.filter(bool), st.integers(0, 30))
def test_batches_of_packed_examples_are_batches_of_the_examples(examples, step):
    one = Batches(examples, 3, seed=5).batch(step)
    other = Batches(PackedExamples.pack(examples), 3, seed=5).batch(step)
    for name in ("ids", "labels", "indices"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype

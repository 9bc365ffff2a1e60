"""Streams give whole characters, in order, and hold back what the end cuts off."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.text.streaming import TextStream, answer_text


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.text(st.characters(blacklist_categories=("Cs",))))
def test_the_pieces_are_the_text(tokenizer, text):
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer, len(ids) + 1)
    pieces = [*(stream.add(token) for token in ids), stream.end()]
    assert "".join(pieces) == tokenizer.decode(tokenizer.encode(text))


@pytest.mark.parametrize("text", ["naïve", "日本語", "dose 5 µg", "🙂🙂"])
def test_a_character_that_the_end_cuts_is_never_given_out(tokenizer, text):
    ids = tokenizer.encode(text)
    for end in range(len(ids) + 1):
        stream = TextStream(tokenizer, end)
        pieces = [*(stream.add(token) for token in ids[:end]), stream.end()]
        given_out = "".join(pieces)
        assert text.startswith(given_out) and "\ufffd" not in given_out
        assert given_out == answer_text(tokenizer, ids[:end], end)
    assert given_out == text


@pytest.mark.parametrize("text", ["a\ufffd", "€\ufffd b"])
def test_an_answer_that_ends_by_itself_keeps_the_sign_itself(tokenizer, text):
    ids = tokenizer.encode(text)
    assert answer_text(tokenizer, ids, len(ids) + 1) == text

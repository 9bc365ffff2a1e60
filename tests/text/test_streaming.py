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


@pytest.mark.parametrize("text", ["a\ufffd\ufffdb €\ufffd", "\ufffd"])
def test_a_stream_gives_out_the_sign_itself_when_more_text_follows_or_the_answer_ends(
    tokenizer, text
):
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer, len(ids) + 1)
    assert "".join([*(stream.add(token) for token in ids), stream.end()]) == text


def test_bytes_that_are_no_character_are_given_out_as_the_whole_text_has_them(tokenizer):
    """A model may put a part of a character before anything."""
    pieces_of = tokenizer.encode("€日")
    ids = [*pieces_of[:1], *tokenizer.encode("ab"), *pieces_of[1:], *tokenizer.encode(" c")]
    assert "\ufffd" in tokenizer.decode(ids)
    stream = TextStream(tokenizer, len(ids) + 1)
    assert "".join([*(stream.add(token) for token in ids), stream.end()]) == tokenizer.decode(ids)


def test_a_long_answer_is_not_decoded_again_with_every_token(tokenizer):
    lengths = []

    class Counting:
        def decode(self, ids):
            lengths.append(len(ids))
            return tokenizer.decode(ids)

    ids = tokenizer.encode("5 € für die Ärztin 💊, " * 40)
    stream = TextStream(Counting(), len(ids) + 1)
    text = "".join([*(stream.add(token) for token in ids), stream.end()])
    assert text == tokenizer.decode(ids)
    assert max(lengths) < 20 < len(ids)

"""Pieces: the token ids of a long text, encoded piece by piece, equal to those of one call.

A tokenizer looks no further than the word (and the run of blanks) that it stands in, but where that
ends depends on the tokenizer. So a piece is read with some text before it and after it, and is cut
only at the end of a word, where a tokenizer that knows less of the text finds the same tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from minilora.text.tokenizer import Tokenizer

PIECE = 1 << 17
"""Characters that are encoded at a time; a shorter text is encoded in one call."""
CONTEXT = 1 << 10
"""Characters before and after a cut that are read on both sides of it."""
MOST = 1 << 23
"""Characters that are encoded at a time at most, where no place to cut is found."""
TRIES = 4
"""Places that are tried in a piece before a longer one is read."""

END_OF_WORD = re.compile(r"\S(?=\s)")
END_OF_LETTERS = re.compile(r"\w(?=[^\w\s])")
"""For text without blanks between its words."""


@dataclass(frozen=True)
class _Tokens:
    """Tokens of a part of a text: ids, and where each begins and ends in the whole text."""

    ids: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer, text: str, offset: int) -> _Tokens:
        """The tokens of a part that begins at the character `offset` of the text."""
        encoding = tokenizer.encoding(text)
        places = np.array(encoding.offsets, np.int64).reshape(-1, 2) + offset
        return cls(np.array(encoding.ids, np.int32), places[:, 0], places[:, 1])

    def until(self, place: int) -> int:
        """How many tokens end at this place or before it; none of them does at the beginning."""
        return int(np.searchsorted(self.ends, place, side="right")) if place else 0

    def agree(self, other: _Tokens, place: int, reach: int) -> bool:
        """Whether both have the same tokens, and some, on each side of a place."""
        for begin, end in ((place - reach, place), (place, place + reach)):
            mine, theirs = (
                np.stack([t.ids, t.begins, t.ends])[:, t.until(begin) : t.until(end)]
                for t in (self, other)
            )
            if not mine.size or not np.array_equal(mine, theirs):
                return False
        return True


def encode_pieces(
    tokenizer: Tokenizer,
    chunks: Iterable[str],
    piece: int = PIECE,
    context: int = CONTEXT,
    most: int = MOST,
) -> Iterator[np.ndarray]:
    """The ids of a text, int32, in pieces: joined, they are `tokenizer.encode` of the whole text.

    chunks: the text, however it was divided. Raises ValueError where `most` characters have no
    place at which they can be cut.
    """
    incoming = iter(chunks)
    text, offset = "", 0  # What is still in hand, and where it begins in the whole text.
    done, size, is_all = 0, piece, False
    while True:
        parts = [text]
        while not is_all and sum(map(len, parts)) <= size:
            parts.append(next(incoming, ""))
            is_all = not parts[-1]
        text = "".join(parts)
        tokens = _Tokens.of(tokenizer, text[:size], offset)
        if len(text) <= size:
            yield tokens.ids[tokens.until(done) :]
            return
        lowest = max(done - offset, 0) + 2 * context
        cut = _cut(tokenizer, text[:size], offset, tokens, lowest, context)
        if cut is None:
            size *= 2
            if size > most:
                raise ValueError(
                    f"got {size // 2} characters from the text's character {offset} on without the "
                    "end of a word, expected words"
                )
            continue
        yield tokens.ids[tokens.until(done) : tokens.until(cut)]
        text, offset = text[cut - context - offset :], cut - context
        done, size = cut, piece


def _cut(
    tokenizer: Tokenizer, text: str, offset: int, tokens: _Tokens, lowest: int, context: int
) -> int | None:
    """The last place, in the whole text, at which `text` can be cut; None where none is found."""
    if (np.diff(tokens.ends) < 0).any():  # No order, no place between two tokens.
        return None
    for pattern in (END_OF_WORD, END_OF_LETTERS):
        highest = len(text) - context
        for _ in range(TRIES):
            begin = max(lowest, highest - 2 * context)
            matches = list(pattern.finditer(text, begin, max(begin, highest)))
            if matches:
                at = matches[-1].end()
                around = text[at - context : at + context]
                less = _Tokens.of(tokenizer, around, offset + at - context)
                if tokens.agree(less, offset + at, context // 2):
                    return offset + at
            highest = begin
    return None

"""Text from tokens as they come: a character is given out when all of its bytes are there.

A token of a byte-level tokenizer may hold a part of a character. Its text then ends in U+FFFD, the
sign for bytes that are no character, until the next tokens bring the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from minilora.text.tokenizer import Tokenizer

UNFINISHED = "\ufffd"


def answer_text(tokenizer: Tokenizer, ids: Sequence[int], most: int) -> str:
    """The text of an answer of at most `most` tokens.

    An answer that has as many was cut, perhaps within a character: that one is left out.
    """
    text = tokenizer.decode(list(ids))
    return text.rstrip(UNFINISHED) if len(ids) >= most else text


class TextStream:
    """Turns the tokens of one answer, at most `most`, into pieces of text without a gap.

    Each token is decoded with the few before it that its text may depend on, not with the whole
    answer, which would take longer the longer the answer is.
    """

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        self.tokenizer, self.most = tokenizer, most
        self.count = 0
        # The tokens that are decoded again: those of the last piece, then those held back.
        self._ids: list[int] = []
        self._last_piece = 0  # how many of them belong to the last piece
        self._given_out = 0  # how many characters of their text have been given out

    def add(self, token: int) -> str:
        """Take one more token; the text that it completes, "" where it completes none."""
        self.count += 1
        self._ids.append(token)
        text = self.tokenizer.decode(self._ids)
        whole = text.rstrip(UNFINISHED)
        piece = self._rest_of(whole)
        if piece and whole == text:
            self._ids = self._ids[self._last_piece :]
            self._last_piece = len(self._ids)
            self._given_out = len(self.tokenizer.decode(self._ids))
        return piece

    def end(self) -> str:
        """What was held back and belongs to the answer: nothing where it was cut."""
        text = self.tokenizer.decode(self._ids)
        return self._rest_of(text if self.count < self.most else text.rstrip(UNFINISHED))

    def _rest_of(self, text: str) -> str:
        piece, self._given_out = text[self._given_out :], max(self._given_out, len(text))
        return piece

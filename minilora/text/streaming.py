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
    """Turns the tokens of one answer, at most `most`, into pieces of text without a gap."""

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        self.tokenizer, self.most = tokenizer, most
        self.ids: list[int] = []
        self._given = 0

    def add(self, token: int) -> str:
        """Take one more token; the text that it completes, "" where it completes none."""
        self.ids.append(token)
        return self._rest_of(self.tokenizer.decode(self.ids).rstrip(UNFINISHED))

    def end(self) -> str:
        """What was held back and belongs to the answer: nothing where it was cut."""
        return self._rest_of(answer_text(self.tokenizer, self.ids, self.most))

    def _rest_of(self, text: str) -> str:
        piece, self._given = text[self._given :], max(self._given, len(text))
        return piece

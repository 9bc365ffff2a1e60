"""The text of one answer as its tokens come, cut before the first of its stop texts."""

from __future__ import annotations

from collections.abc import Sequence

from minilora.text import Tokenizer
from minilora.text.streaming import TextStream


class AnswerText:
    """Pieces of an answer of at most `most` tokens; what may begin a stop text is held back.

    stopped: whether a stop text has come; nothing comes after it.
    """

    def __init__(self, tokenizer: Tokenizer, most: int, stops: Sequence[str] = ()) -> None:
        self._stream, self._stops = TextStream(tokenizer, most), tuple(stops)
        self._held = ""
        self.stopped = False

    @property
    def count(self) -> int:
        """How many tokens have come."""
        return self._stream.count

    def add(self, token: int) -> str:
        """Take one more token; the text that can be given out, "" for none."""
        return "" if self.stopped else self._given_out(self._stream.add(token))

    def end(self) -> str:
        """What was held back."""
        if self.stopped:
            return ""
        last = self._given_out(self._stream.end())
        last, self._held = last + self._held, ""
        return last

    def _given_out(self, piece: str) -> str:
        text = self._held + piece
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_begun(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of the text could be the beginning of the stop text."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((n for n in lengths if text.endswith(stop[:n])), 0)

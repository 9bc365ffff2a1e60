"""One HTTP request's answers as text, and the JSON that tells them."""

from __future__ import annotations

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minilora.serving.engine import BROKEN, CANCELLED, STOP, Request
from minilora.serving.http.asked import Asked, Refused
from minilora.serving.http.metrics import Metrics
from minilora.serving.http.streams import DONE, event
from minilora.serving.http.texts import AnswerText
from minilora.serving.router import Choice
from minilora.serving.service import Answers, Service, Told
from minilora.text import Tokenizer

LATE = "time"
"""Why an answer ended whose time was over, beside those of the engine."""
STATUS = {LATE: 504, BROKEN: 500}
FAILED = (LATE, BROKEN)


@dataclass(frozen=True)
class Piece:
    """What comes next of one answer: text, its end, or whom the router chose."""

    index: int
    text: str = ""
    ended: str | None = None
    error: str | None = None
    choice: Choice | None = None


@dataclass
class Replies:
    """The answers to one HTTP request, by their place among them.

    names: the model that answers each, as it is told; base: what the base is called there.
    """

    service: Service
    tokenizer: Tokenizer
    metrics: Metrics
    asked: Asked
    requests: Sequence[Request]
    names: list[str]
    base: str
    answers: Answers
    seconds: float
    choices: dict[int, Choice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.texts = [
            AnswerText(self.tokenizer, one.max_new_tokens, self.asked.stops)
            for one in self.requests
        ]

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        """All that comes, until every answer has ended; those that go away give up the rest."""
        left = self.answers.began + self.seconds - time.monotonic()
        timer = asyncio.get_running_loop().call_later(left, self._end_late)
        try:
            async for some in self.answers:
                yield [piece for one in some for piece in self._read(one)]
        finally:
            timer.cancel()
            self.close()

    def close(self) -> None:
        """Give up what has not ended: nobody listens any more."""
        for index in self.answers.open:
            self.metrics.ended.labels(self.names[index], CANCELLED).inc()
        self.answers.cancel()

    def _end_late(self) -> None:
        """Tell those that go on that their time is over."""
        why = f"the answer took more than {self.seconds:g} seconds"
        for index in self.answers.open:
            self.answers.end(index, LATE, why)

    def _read(self, told: Told) -> list[Piece]:
        """The pieces that one more thing makes; none for what comes after a stop text."""
        text, index = self.texts[told.index], told.index
        if text.stopped:
            return []
        if told.choice is not None:
            self.choices[index] = told.choice
            self.names[index] = told.choice.name or self.base
            return [Piece(index, choice=told.choice)]
        piece = ""
        if told.token is not None:
            if text.count == 0:
                self.metrics.first.observe(time.monotonic() - self.answers.began)
            piece = text.add(told.token)
        if text.stopped:
            self.answers.cancel(index)
            return [self._end(Piece(index, piece, STOP))]
        if told.ended:
            last = "" if told.ended in FAILED else text.end()
            return [self._end(Piece(index, piece + last, told.ended, told.error))]
        return [Piece(index, piece)] if piece else []

    def _end(self, piece: Piece) -> Piece:
        """Count an answer that has ended."""
        name, index = self.names[piece.index], piece.index
        self.metrics.ended.labels(name, piece.ended).inc()
        self.metrics.whole.observe(time.monotonic() - self.answers.began)
        self.metrics.prompt_tokens.labels(name).inc(len(self.requests[index].prompt))
        self.metrics.new_tokens.labels(name).inc(self.texts[index].count)
        return piece

    def refusal(self, piece: Piece) -> Refused:
        """What is wrong with an answer that failed, as an error."""
        status = 503 if self.service.closing else STATUS[piece.ended]
        return Refused(piece.error or piece.ended, status, code=piece.ended)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens, each prompt counted once a model."""
        read = sum(len(one.prompt) for one in self.requests[:: self.asked.count])
        new = sum(text.count for text in self.texts)
        return {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}


def error_of(refused: Refused) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(refused.status, kind)
    return {
        "error": {
            "message": str(refused), "type": kind, "param": refused.field, "code": refused.code,
        }
    }  # fmt: skip


def routed(choice: Choice) -> dict[str, Any]:
    """A router's choice for a client: a name, null for none of them, and what each was given."""
    return {"name": choice.name, "distances": dict(choice.losses)}


# --------------------------------------------------------------------------------- OpenAI's forms


class Form(ABC):
    """The JSON of one kind of completions, whole or in chunks."""

    prefix, kind, chunk_kind = "", "", ""

    def __init__(self, replies: Replies) -> None:
        self.replies, self._begun = replies, set[int]()
        self._head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time())}

    @abstractmethod
    def message(self, text: str) -> dict[str, Any]:
        """A whole answer."""

    @abstractmethod
    def delta(self, index: int, text: str) -> dict[str, Any]:
        """A part of one."""

    async def whole(self) -> dict[str, Any]:
        """The response of a request that is not streamed. Raises Refused where an answer failed."""
        replies = self.replies
        texts, ends = [[] for _ in replies.requests], [""] * len(replies.requests)
        async for some in replies.pieces():
            for piece in some:
                if piece.ended in FAILED:
                    raise replies.refusal(piece)
                texts[piece.index].append(piece.text)
                ends[piece.index] = piece.ended or ""
        choices = [
            {"index": i, **self.message("".join(own)), "logprobs": None, "finish_reason": end}
            for i, (own, end) in enumerate(zip(texts, ends, strict=True))
        ]
        told = {"router": routed(replies.choices[0])} if replies.choices else {}
        return {
            **self._head, "object": self.kind, "model": replies.names[0], "choices": choices,
            "usage": replies.usage, **told,
        }  # fmt: skip

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The events of a request that is streamed; an answer that failed ends it with an error."""
        with_usage = self.replies.asked.with_usage
        rest = {"usage": None} if with_usage else {}
        async for some in self.replies.pieces():
            made = []
            for piece in some:
                if piece.ended in FAILED:
                    made.append(event(error_of(self.replies.refusal(piece))))
                    yield b"".join(made)
                    return
                made += [event({**one, **rest}) for one in self._chunks(piece)]
            if made:
                yield b"".join(made)
        if with_usage:
            yield event({**self._chunk([]), "usage": self.replies.usage})
        yield DONE

    def _chunks(self, piece: Piece) -> list[dict[str, Any]]:
        if piece.choice is not None:
            return [{**self._chunk([]), "router": routed(piece.choice)}]
        made = []
        if piece.text or piece.index not in self._begun:
            made.append(self._of(piece.index, piece.text, None))
        if piece.ended:
            made.append(self._of(piece.index, "", piece.ended))
        return made

    def _of(self, index: int, text: str, end: str | None) -> dict[str, Any]:
        delta = self.delta(index, text)
        self._begun.add(index)
        return self._chunk([{"index": index, **delta, "logprobs": None, "finish_reason": end}])

    def _chunk(self, choices: list[dict]) -> dict[str, Any]:
        name = self.replies.names[0]
        return {**self._head, "object": self.chunk_kind, "model": name, "choices": choices}


class ChatForm(Form):
    """/v1/chat/completions."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def message(self, text: str) -> dict[str, Any]:
        """The assistant's."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def delta(self, index: int, text: str) -> dict[str, Any]:
        """The first one says who speaks."""
        if index not in self._begun:
            return {"delta": {"role": "assistant", "content": text}}
        return {"delta": {"content": text} if text else {}}


class TextForm(Form):
    """/v1/completions."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def message(self, text: str) -> dict[str, Any]:
        """The text itself."""
        return {"text": text}

    def delta(self, index: int, text: str) -> dict[str, Any]:
        """The text itself."""
        return {"text": text}


async def comparison(replies: Replies) -> AsyncGenerator[bytes, None]:
    """/v1/compare: every model's pieces in one stream, as a browser has few connections.

    An answer that failed ends for itself; the others go on.
    """
    async for some in replies.pieces():
        made = []
        for piece in some:
            text = replies.texts[piece.index]
            told: Mapping[str, Any] = {
                "index": piece.index, "model": replies.names[piece.index], "text": piece.text,
                "tokens": text.count, "ended": piece.ended, "error": piece.error,
            }  # fmt: skip
            choice = {} if piece.choice is None else {"router": routed(piece.choice)}
            made.append(event({**told, **choice}))
        if made:
            yield b"".join(made)
    yield DONE

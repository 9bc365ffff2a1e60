"""Whatever JSON a client sends, a request is read or refused; no text makes pieces go astray."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.serving.engine import Request
from minilora.serving.http.asked import (
    BOOKKEEPING,
    NEUTRAL,
    Asked,
    Limits,
    Refused,
    encode,
    read_chat,
    read_comparison,
    read_completion,
    read_object,
)
from minilora.serving.http.texts import AnswerText
from minilora.text.streaming import answer_text
from tests import tiny

WORDS, LIMITS = tiny.tokenizer(), Limits()
FIELDS = (
    "model", "models", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature",
    "top_p", "seed", "stop", "stream", "stream_options", "n", *NEUTRAL, *BOOKKEEPING, "other",
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["plain", "user", "system", "text", "hello", 1, 2, 0.5, 1.0]),
)  # fmt: skip
KEYS = st.sampled_from(["role", "content", "type", "text", "include_usage", "tool_calls", "x"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
GOOD = {
    "model": st.just("plain"), "models": st.just(["plain", "wide"]),
    "messages": st.just([{"role": "user", "content": "Pulse 88"}]),
    "prompt": st.sampled_from(["Pulse", ["Pulse", [3, 4]], [5, 6]]), "n": st.just(1),
}  # fmt: skip


@st.composite
def bodies(draw):
    body = {name: draw(good) for name, good in GOOD.items() if draw(st.booleans())}
    for name in draw(st.lists(st.sampled_from(FIELDS), max_size=3)):
        body[name] = draw(VALUES)
    return body


@settings(max_examples=300, deadline=None)
@given(bodies(), st.sampled_from([read_chat, read_completion, read_comparison]))
def test_a_body_is_read_or_refused(body, read):
    own = {read_chat: "messages", read_completion: "prompt", read_comparison: "messages"}[read]
    others = {"messages", "prompt", "models"} - {own}
    if read is read_comparison:
        others.discard("models")
    body = {name: value for name, value in body.items() if name not in others}
    try:
        asked = read(body, LIMITS)
        requests = asked.requests(encode(asked, WORDS, 300), LIMITS, 128, ())
    except Refused as refused:
        assert refused.status == 400 and str(refused)
        json.dumps(refused.field)
        return
    assert isinstance(asked, Asked) and 1 <= len(requests) <= LIMITS.together
    for one in requests:
        assert isinstance(one, Request) and 0 <= one.seed < 2**64
        assert len(one.prompt) + one.max_new_tokens <= 128


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_a_body_of_bytes_is_an_object_or_refused(body):
    try:
        assert isinstance(read_object(body), dict)
    except Refused as refused:
        assert refused.status == 400


TEXTS = st.text(st.sampled_from("ab mg ä€"), max_size=30)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.lists(st.text(st.sampled_from("ab mgä"), min_size=1, max_size=4), max_size=4))
def test_pieces_end_where_the_first_stop_text_begins(text, stops):
    ids = WORDS.encode(text)
    answer = AnswerText(WORDS, len(ids) + 1, stops)
    pieces = [answer.add(token) for token in ids] + [answer.end()]
    whole = answer_text(WORDS, ids, len(ids) + 1)
    ends = {whole.index(stop) for stop in stops if stop in whole}
    told = "".join(pieces)
    assert answer.stopped == bool(ends)
    if not ends:
        assert told == whole
        return
    # Of two that come with one token either may count: the first to begin, or to be complete.
    _, complete = min((whole.index(stop) + len(stop), whole.index(stop)) for stop in stops
                      if stop in whole)  # fmt: skip
    assert told in {whole[:end] for end in ends if end <= complete}

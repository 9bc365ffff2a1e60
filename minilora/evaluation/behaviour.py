"""Behaviour diff: the answers that two models give differently, and where they part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import numpy as np

from minilora.evaluation.cases import Case
from minilora.evaluation.variants import Variant
from minilora.nn import Transformer, next_logits
from minilora.text import Tokenizer
from minilora.text.answers import prompt_ids, stop_ids
from minilora.text.streaming import answer_text

Wearing = Callable[[], AbstractContextManager]
"""Makes a context in which the model is one side of the diff."""


@dataclass(frozen=True)
class Choice:
    """A token that a side chose, as text ("" where it ended), and its probability on both sides."""

    token: int
    text: str
    in_a: float
    in_b: float


@dataclass(frozen=True)
class Parting:
    """Where two greedy answers part: after `shared` tokens, whose text is `text`.

    a, b: the next token of each side. context: token ids of prompt and shared answer.
    """

    shared: int
    text: str
    a: Choice
    b: Choice
    context: tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """A case that two models answer differently. number: of the case, from 0."""

    number: int
    case: Case
    a: str
    b: str
    parting: Parting

    @property
    def right(self) -> tuple[bool, bool]:
        """Whether each side's answer is the expected one."""
        expected = self.case.expected.strip()
        return self.a == expected, self.b == expected

    def to_dict(self) -> dict:
        """JSON-ready; without the context's tokens."""
        parting = asdict(self.parting)
        del parting["context"]
        return {
            "source": self.case.source,
            "prompt": self.case.messages[-1]["content"],
            "expected": self.case.expected,
            "a": self.a,
            "b": self.b,
            "right": list(self.right),
            "parting": parting,
        }


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two answers have in common before they part."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax along the last axis, in float64."""
    z = logits.astype(np.float64)
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def find_changes(
    model: Transformer,
    tokenizer: Tokenizer,
    cases: Sequence[Case],
    variant: Variant,
    answered: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]],
    wearing: tuple[Wearing, Wearing],
    room: int,
) -> list[Change]:
    """The cases whose answers differ as texts, in order, each with the tokens where they part.

    answered: the greedy tokens of each side, without the one that ends an answer. wearing: make
    the contexts in which the model is side a, and side b. room: tokens of an answer at most.
    """
    texts = [[answer_text(tokenizer, ids, room).strip() for ids in side] for side in answered]
    numbers = [i for i in range(len(cases)) if texts[0][i] != texts[1][i]]
    if not numbers:
        return []
    pairs = [(list(answered[0][i]), list(answered[1][i])) for i in numbers]
    shared = [shared_length(*pair) for pair in pairs]
    contexts = [
        [*prompt_ids(tokenizer, variant.prompt(cases[i])), *a[:count]]
        for i, (a, _), count in zip(numbers, pairs, shared, strict=True)
    ]
    chances = []
    for side in wearing:
        with side():
            chances.append(probabilities(next_logits(model, contexts)))
    stops = sorted(stop_ids(model, tokenizer))
    changes = []
    for row, (i, pair, count) in enumerate(zip(numbers, pairs, shared, strict=True)):
        p = [side[row] for side in chances]
        choices = [
            _choice(tokenizer, ids, count, own, p, stops)
            for ids, own in zip(pair, p, strict=True)
        ]  # fmt: skip
        parting = Parting(count, tokenizer.decode(pair[0][:count]), *choices, tuple(contexts[row]))
        changes.append(Change(i, cases[i], texts[0][i], texts[1][i], parting))
    return changes


def _choice(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    count: int,
    own: np.ndarray,
    both: Sequence[np.ndarray],
    stops: Sequence[int],
) -> Choice:
    """The token that a side chose after `count`: its own next one, or the likeliest that ends."""
    ended = len(ids) == count and bool(stops)
    token = max(stops, key=lambda stop: own[stop]) if ended else ids[count]
    text = "" if ended else tokenizer.decode([token])
    return Choice(int(token), text, *(float(p[token]) for p in both))

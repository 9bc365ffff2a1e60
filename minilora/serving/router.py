"""A router: which adapter of a bank a text is for, or none of them.

By rule: a regular expression an adapter, looked for in the text or in one field of a record. By
loss: every adapter reads the text, in a batch in which each row is the same text with another
adapter, and the one that is least surprised has it. What it is surprised by is the text itself, or
the first tokens of the answer that it begins. Where even the least is above a threshold, the text
is for none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from tqdm import tqdm

from minilora.autograd import functional as F
from minilora.autograd import no_grad
from minilora.backend import (
    blas_threads,
    get_array_module,
    recommended_blas_threads,
    to_numpy,
)
from minilora.limits import require_count, require_finite
from minilora.nn import Transformer, generate, quiet_overflow
from minilora.nn.finite import require_finite_logits
from minilora.serving.bank import AdapterBank

By = Literal["prompt", "answer"]
"""What an adapter is surprised by: the text, or the first tokens of its own answer."""

READ_TOKENS = 4096
"""Positions read at a time, over all adapters."""


@dataclass(frozen=True)
class Choice:
    """Where a text goes: an adapter's name, None for "none of these"; and what each was given.

    losses: name -> nats a token, the lowest first; empty where a rule decided.
    """

    name: str | None
    losses: Mapping[str, float] = field(default_factory=dict)


class RuleRouter:
    """By rule: the first of the regular expressions that is found.

    rules: name -> expression, in the order in which they are tried. field: of a record, the field
    to look in; None where texts are routed. Raises ValueError for no rules, or one that is no
    regular expression.
    """

    def __init__(self, rules: Mapping[str, str], field: str | None = None) -> None:
        if not rules:
            raise ValueError("got no rules, expected at least one")
        self.field, self.rules = field, {}
        for name, rule in rules.items():
            try:
                self.rules[name] = re.compile(rule)
            except (re.error, TypeError) as error:
                text = f"got the rule {rule!r} for {name}, expected a regular expression: {error}"
                raise ValueError(text) from None

    def route(self, asked: str | Mapping) -> Choice:
        """Where a text goes, or a record where the router has a field.

        Raises ValueError for the other of the two, and for a record without a text in the field.
        """
        text = asked
        if self.field is not None:
            text = asked.get(self.field) if isinstance(asked, Mapping) else None
        if not isinstance(text, str):
            what = "a text" if self.field is None else f"a record with a text in {self.field!r}"
            raise ValueError(f"got {type(asked).__name__} to route, expected {what}")
        found = (name for name, rule in self.rules.items() if rule.search(text))
        return Choice(next(found, None))


@dataclass(frozen=True)
class LossSettings:
    """How a router by loss decides; all of it is chosen on texts whose place is known.

    by: what the loss is of. tokens: of the answer, how many. threshold: in nats a token; above it
    a text is for none, None for never. Raises ValueError for what makes no sense.
    """

    by: By = "answer"
    tokens: int = 16
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.by not in ("prompt", "answer"):
            raise ValueError(f"got by {self.by!r}, expected 'prompt' or 'answer'")
        require_count("tokens", self.tokens, 1)
        if self.threshold is not None:
            require_finite("threshold", self.threshold)


class LossRouter:
    """By loss: the adapter of the bank that is least surprised.

    names: those that may be chosen, all of the bank's by default. Raises ValueError for fewer than
    one, or one that is not in the bank.
    """

    def __init__(
        self,
        bank: AdapterBank,
        settings: LossSettings | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.bank, self.settings = bank, settings or LossSettings()
        self.names = tuple(bank.names if names is None else names)
        if not self.names or not set(self.names) <= set(bank.names):
            raise ValueError(
                f"got the names {list(self.names)}, expected some of the bank's: "
                f"{', '.join(bank.names) or 'it is empty'}"
            )

    def route(self, prompts: Sequence[Sequence[int]], progress: str = "") -> list[Choice]:
        """Where each prompt (token ids) goes. `progress` names a bar."""
        return [self.choice(row) for row in self.losses(prompts, progress)]

    def choice(self, losses: Sequence[float]) -> Choice:
        """Where a prompt with these losses (K,), in the order of `names`, goes."""
        order = np.argsort(losses, kind="stable")
        given = {self.names[k]: float(losses[k]) for k in order}
        best, threshold = self.names[order[0]], self.settings.threshold
        none = threshold is not None and given[best] > threshold
        return Choice(None if none else best, given)

    def losses(self, prompts: Sequence[Sequence[int]], progress: str = "") -> np.ndarray:
        """(N, K): the mean loss, in nats a token, of each prompt (token ids) under each adapter.

        Of an answer, it is that of its first tokens, each the likeliest: how sure the adapter is of
        what it begins to say. Raises ValueError for a prompt of fewer than two tokens, or without
        room for an answer.
        """
        told = self.token_losses(prompts, progress)
        return np.array([[one.mean() for one in row] for row in told]).reshape(len(prompts), -1)

    def token_losses(
        self, prompts: Sequence[Sequence[int]], progress: str = ""
    ) -> list[list[np.ndarray]]:
        """For each prompt and each adapter, the loss of every token that `losses` has the mean of.

        The first tokens of an answer are the same however many are asked for, so that routers of
        fewer tokens can be read off one of many. Raises ValueError as `losses`.
        """
        short = [i for i, prompt in enumerate(prompts) if len(prompt) < 2]
        if short:
            raise ValueError(f"prompt {short[0]} has fewer than 2 tokens, expected at least 2")
        model, names = self.bank.model, list(self.names)
        result: list[list[np.ndarray]] = [[] for _ in prompts]
        bar = tqdm(total=len(prompts), desc=progress, unit="text", disable=not progress)
        with bar, blas_threads(recommended_blas_threads(model.config.hidden_size)):
            for some in some_at_a_time([len(p) for p in prompts], len(names)):
                rows = [list(prompts[i]) for i in some for _ in names]
                with self.bank.rows(names * len(some)):
                    told = iter(self._read(model, rows))
                for i in some:
                    result[i] = [next(told) for _ in names]
                bar.update(len(some))
        return result

    def _read(self, model: Transformer, rows: list[list[int]]) -> list[np.ndarray]:
        if self.settings.by == "prompt":
            return token_losses(model, rows, [1] * len(rows))
        begun = generate(model, rows, self.settings.tokens)
        whole = [row + new for row, new in zip(rows, begun, strict=True)]
        return token_losses(model, whole, [len(row) for row in rows])


def token_losses(
    model: Transformer, rows: Sequence[Sequence[int]], first: Sequence[int]
) -> list[np.ndarray]:
    """For each row of token ids, the loss in nats of its tokens from place first[i] on, 1 or more.

    -log softmax(h W^T)[token], with h at the place before it.
    """
    time = max(map(len, rows)) - 1
    ids = np.zeros((len(rows), time), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row) - 1] = row[:-1]
    pairs = list(zip(rows, first, strict=True))
    places = [i * time + np.arange(begin - 1, len(row) - 1) for i, (row, begin) in enumerate(pairs)]
    xp, was_training = get_array_module(model.head_weight.data), model.training
    model.eval()
    try:
        with no_grad(), quiet_overflow():
            only = xp.asarray(np.concatenate(places))
            hidden = model.hidden_states(xp.asarray(ids), only=only)
            losses, done = [], 0
            for row, begin in pairs:  # a row at a time, as logits are the widest of all arrays
                part = hidden[done : done + len(row) - begin]
                done += len(row) - begin
                logits = to_numpy(F.linear(part, model.head_weight).data)
                require_finite_logits(logits)
                logits -= logits.max(axis=-1, keepdims=True)
                said = logits[np.arange(len(logits)), row[begin:]]
                losses.append(np.log(np.exp(logits).sum(axis=-1)) - said)
            return losses
    finally:
        model.train(was_training)


def some_at_a_time(lengths: Sequence[int], adapters: int) -> Iterator[list[int]]:
    """Prompts from the shortest on, as many at a time as READ_TOKENS have room for."""
    some: list[int] = []
    for i in np.argsort(lengths, kind="stable").tolist():
        if some and (len(some) + 1) * adapters * lengths[i] > READ_TOKENS:
            yield some
            some = []
        some.append(i)
    if some:
        yield some


@dataclass(frozen=True)
class Threshold:
    """A threshold and the share of texts that it sends to the right place."""

    value: float | None
    accuracy: float


def best_threshold(
    losses: np.ndarray, names: Sequence[str], places: Sequence[str | None]
) -> Threshold:
    """The threshold under which most texts go to their place; places: a name, None for none.

    losses (N, K) as `LossRouter.losses` gives them. Of thresholds that are equally good, the middle
    of the widest gap between losses, so that the choice hangs on no single text. None where no text
    belongs to none and no threshold is better.
    """
    if len(losses) == 0 or len(losses) != len(places):
        raise ValueError(f"got {len(losses)} losses for {len(places)} texts, expected one each")
    lowest = losses.min(axis=1)
    chosen = [names[k] for k in losses.argmin(axis=1)]
    right = np.array([place == name for place, name in zip(places, chosen, strict=True)])
    none = np.array([place is None for place in places])
    order = np.argsort(lowest, kind="stable")
    # a cut after the first j texts: those are sent to the adapter chosen, the others to none
    hits = np.concatenate([[0], np.cumsum(right[order])])
    hits = hits + np.concatenate([np.cumsum(none[order][::-1])[::-1], [0]])
    edges = lowest[order]
    gaps = np.concatenate([[0.0], np.diff(edges), [0.0]])
    best = max(range(len(hits)), key=lambda j: (hits[j], gaps[j]))
    accuracy = float(hits[best] / len(places))
    if best == len(places):
        return Threshold(None, accuracy)
    below = edges[best - 1] if best else 0.0
    return Threshold(float((below + edges[best]) / 2), accuracy)

"""Which modules of an adapter an answer hangs on: knock-outs, one module at a time and together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from minilora.backend import blas_threads, recommended_blas_threads
from minilora.evaluation.behaviour import Change
from minilora.evaluation.variants import Variant
from minilora.lora import Adapter, BaseMark
from minilora.lora.deltas import compare_deltas
from minilora.lora.exchange import given_back, wearing
from minilora.nn import Transformer, next_logits
from minilora.text import Tokenizer
from minilora.text.answers import answers


@dataclass(frozen=True)
class Cause:
    """What a changed answer hangs on.

    modules: without these b takes a's token where the two part. One where a single module does it
    (of several, the one that moves the token most); else a set of which none can be left out, found
    greedily; () where none was found. single: every module that does it alone. effects: module ->
    by how much its absence moves log p(a's token) - log p(b's token), in nats. answer: b's whole
    answer without `modules`.
    """

    modules: tuple[str, ...]
    single: tuple[str, ...]
    effects: Mapping[str, float] = field(repr=False)
    answer: str = ""

    def to_dict(self) -> dict:
        """JSON-ready, with the effects from the largest on."""
        return {
            "modules": list(self.modules),
            "single": list(self.single),
            "effects": dict(sorted(self.effects.items(), key=lambda item: -item[1])),
            "answer_without": self.answer,
        }


class KnockOuts:
    """Side b of a diff with modules taken out: they get what side a has there.

    Where a is the base that is scaling 0; where a is another adapter, its ΔW takes the place, so
    that all modules together always give a.
    """

    def __init__(
        self, model: Transformer, b: Adapter, a: Adapter | None, base: BaseMark | None
    ) -> None:
        self.model, self.b, self.a, self.base = model, b, a, base
        self.modules = [one.module for one in compare_deltas(a, b) if one.change > 0]

    def without(self, modules: Sequence[str] | frozenset[str]):
        """A context in which the model is b without these modules."""
        return wearing(self.model, given_back(self.b, self.a, modules), self.base)

    def margins(
        self, changes: Sequence[Change], modules: Sequence[str] | frozenset[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(log p(a's token) - log p(b's token), whether a's token is the likeliest), a change."""
        with self.without(modules):
            logits = next_logits(self.model, [change.parting.context for change in changes])
        rows = np.arange(len(changes))
        a = np.array([change.parting.a.token for change in changes])
        b = np.array([change.parting.b.token for change in changes])
        margin = logits[rows, a].astype(np.float64) - logits[rows, b]
        return margin, logits.argmax(axis=-1) == a

    def flips(self, changes: Sequence[Change], sets: Sequence[frozenset[str]]) -> list[bool]:
        """Whether each change's token goes back to a's without its own set of modules."""
        result = [False] * len(changes)
        for modules in dict.fromkeys(sets):
            rows = [i for i, own in enumerate(sets) if own == modules]
            _, back = self.margins([changes[i] for i in rows], modules)
            for i, flipped in zip(rows, back, strict=True):
                result[i] = bool(flipped)
        return result


def find_causes(
    knock_outs: KnockOuts,
    tokenizer: Tokenizer,
    changes: Sequence[Change],
    variant: Variant,
    room: int,
    bars: bool = False,
) -> list[Cause]:
    """The cause of each change.

    Every module is taken out alone. For a change that no single one undoes, modules are taken out
    together, from the one with the largest effect on, until a's token is back; then each is put
    back in turn and stays where it was not needed.
    """
    if not changes:
        return []
    model, modules = knock_outs.model, knock_outs.modules
    with blas_threads(recommended_blas_threads(model.config.hidden_size)):
        before, _ = knock_outs.margins(changes, ())
        effects, back = [], []
        for module in tqdm(modules, desc="knocking out", unit="module", disable=not bars):
            margin, flipped = knock_outs.margins(changes, (module,))
            effects.append(margin - before)
            back.append(flipped)
        order = np.argsort(-np.array(effects), axis=0, kind="stable")  # (modules, changes)
        single = [tuple(modules[k] for k in order[:, i] if back[k][i]) for i in range(len(changes))]
        sets = [frozenset(own[:1]) for own in single]
        open_ = [i for i, own in enumerate(sets) if not own]
        found = _greedy(
            knock_outs,
            [changes[i] for i in open_],
            [[modules[k] for k in order[:, i]] for i in open_],
        )
        for i, own in zip(open_, found, strict=True):
            sets[i] = own
    texts = _answers_without(knock_outs, tokenizer, changes, variant, room, sets)
    return [
        Cause(
            tuple(modules[k] for k in order[:, i] if modules[k] in sets[i]),
            single[i],
            {module: float(effects[k][i]) for k, module in enumerate(modules)},
            texts[i],
        )
        for i in range(len(changes))
    ]


def _greedy(
    knock_outs: KnockOuts, changes: Sequence[Change], orders: Sequence[Sequence[str]]
) -> list[frozenset[str]]:
    """A set for each change, none of whose modules can be left out; empty where none flips it."""
    sets = [frozenset[str]()] * len(changes)
    waiting = list(range(len(changes)))
    for size in range(2, len(knock_outs.modules) + 1):
        if not waiting:
            break
        tried = [frozenset(orders[i][:size]) for i in waiting]
        back = knock_outs.flips([changes[i] for i in waiting], tried)
        for i, own, flipped in zip(waiting, tried, back, strict=True):
            if flipped:
                sets[i] = own
        waiting = [i for i, flipped in zip(waiting, back, strict=True) if not flipped]
    for place in range(max(map(len, sets), default=0)):
        # The newest module was needed, so the others are tried, from the largest effect on.
        rows = [i for i in range(len(changes)) if orders[i][place] in sets[i] and len(sets[i]) > 1]
        tried = [sets[i] - {orders[i][place]} for i in rows]
        back = knock_outs.flips([changes[i] for i in rows], tried)
        for i, own, flipped in zip(rows, tried, back, strict=True):
            if flipped:
                sets[i] = own
    return sets


def _answers_without(
    knock_outs: KnockOuts,
    tokenizer: Tokenizer,
    changes: Sequence[Change],
    variant: Variant,
    room: int,
    sets: Sequence[frozenset[str]],
) -> list[str]:
    texts = [""] * len(changes)
    for modules in dict.fromkeys(own for own in sets if own):
        rows = [i for i, own in enumerate(sets) if own == modules]
        prompts = [variant.prompt(changes[i].case) for i in rows]
        with knock_outs.without(modules):
            outputs = answers(knock_outs.model, tokenizer, prompts, room)
        for i, text in zip(rows, outputs, strict=True):
            texts[i] = text.strip()
    return texts

"""Variants: ways to ask a model the same cases, and what it gets for its answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from minilora.evaluation.cases import Case, chat
from minilora.evaluation.house import SPARE_TOKENS
from minilora.nn import Transformer
from minilora.text import Problem, Tokenizer
from minilora.text.answers import Raw, answers, prompt_ids
from minilora.ward import HouseScore, score_house


@dataclass(frozen=True)
class Variant:
    """A column of the table: how the cases are asked.

    instruction: stands at the end of the first and the last prompt. shots: worked examples, as
    earlier turns of the chat. raw: the prompt is continued as it is, without a chat template.
    """

    name: str
    instruction: str | None = None
    shots: tuple[Case, ...] = ()
    raw: bool = False

    def prompt(self, case: Case) -> list[dict] | Raw:
        """A case as this variant asks it."""
        messages = chat(case, self.instruction, self.shots)
        return Raw(messages[0]["content"]) if self.raw else messages


@dataclass(frozen=True)
class VariantScore:
    """What a model got in one variant; a share is between 0 and 1.

    prompt_tokens: mean. seconds: for all answers. exact: None where nothing was asked. house: by
    ward. loss: of the file's plain texts, in nats a token, None where there are none.
    """

    variant: Variant
    adapter: str = ""
    prompt_tokens: float = 0.0
    seconds: float = 0.0
    exact: float | None = None
    outputs: Sequence[str] = ()
    house: Mapping[str, HouseScore] = field(default_factory=dict)
    loss: float | None = None
    loss_rows: int = 0

    def to_dict(self) -> dict:
        """JSON-ready; only what there is."""
        result: dict = {"name": self.variant.name}
        if self.exact is not None:
            result |= {
                "instruction": self.variant.instruction,
                "shots": [shot.source for shot in self.variant.shots],
                "prompt_tokens": self.prompt_tokens,
                "seconds": self.seconds,
                "exact": self.exact,
                "outputs": list(self.outputs),
            }
        if self.house:
            result["house"] = {ward: score.to_dict() for ward, score in self.house.items()}
        if self.loss is not None:
            result |= {"loss": self.loss, "loss_rows": self.loss_rows}
        return {**result, "adapter": self.adapter}


def with_room(
    cases: Sequence[Case], variants: Sequence[Variant], tokenizer: Tokenizer, limit: int
) -> tuple[list[Case], int, list[Problem]]:
    """The cases that every variant has room for, the tokens of an answer, and the others.

    All answers get the same room, the longest expected one and SPARE_TOKENS; it is chosen so that
    as many cases as possible fit into `limit` positions. Raises ValueError as `Variant.prompt`.
    """
    needs = np.array([len(tokenizer.encode(case.expected)) for case in cases]) + SPARE_TOKENS
    lengths = np.array(
        [[len(prompt_ids(tokenizer, v.prompt(case))) for v in variants] for case in cases]
    )
    longest = lengths.max(axis=1)

    def fits(room: int) -> np.ndarray:
        return (needs <= room) & (longest + room <= limit)

    room = int(max(np.unique(needs), key=lambda room: (fits(room).sum(), -room)))
    kept = fits(room)
    problems = [
        Problem(
            cases[i].source,
            f"{variants[lengths[i].argmax()].name}: got {longest[i]} tokens and an answer of "
            f"{needs[i] - SPARE_TOKENS}, expected at most {limit - room} and "
            f"{room - SPARE_TOKENS} (max_position_embeddings = {limit})",
        )
        for i in np.flatnonzero(~kept)
    ]
    return [case for case, keep in zip(cases, kept, strict=True) if keep], room, problems


def score_variant(
    model: Transformer,
    tokenizer: Tokenizer,
    cases: Sequence[Case],
    variant: Variant,
    room: int,
    bars: bool = False,
    workers: int = 1,
) -> VariantScore:
    """What the model answers to the cases, and its scores.

    room: tokens of an answer. workers: processes that write the answers.
    """
    if not cases:
        return VariantScore(variant)
    prompts = [variant.prompt(case) for case in cases]
    began = time.perf_counter()
    bar = variant.name if bars else ""
    outputs = answers(model, tokenizer, prompts, room, progress=bar, workers=workers)
    seconds = time.perf_counter() - began
    tokens = sum(len(prompt_ids(tokenizer, p)) for p in prompts) / len(prompts)
    return replace(score_outputs(cases, variant, outputs), prompt_tokens=tokens, seconds=seconds)


def score_outputs(cases: Sequence[Case], variant: Variant, outputs: Sequence[str]) -> VariantScore:
    """The scores of answers that were given to the cases, at least one."""
    outputs = [text.strip() for text in outputs]
    right = [case.expected.strip() == text for case, text in zip(cases, outputs, strict=True)]
    house = {}
    for ward in sorted({case.ward for case in cases if case.ward}):
        pairs = [(c.house, text) for c, text in zip(cases, outputs, strict=True) if c.ward == ward]
        records, texts = zip(*pairs, strict=True)
        house[ward] = score_house(ward, records, texts)
    return VariantScore(variant, exact=sum(right) / len(right), outputs=outputs, house=house)

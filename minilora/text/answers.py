"""Answers in text: prompts through the chat template, the model, and back to words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from tqdm import tqdm

from minilora.backend import (
    blas_threads,
    get_array_module,
    keep_freed_memory,
    recommended_blas_threads,
)
from minilora.limits import require_count
from minilora.nn import Transformer, generate
from minilora.nn.rows import rows_of, seeing
from minilora.processes import may_fork, side_by_side
from minilora.text.streaming import answer_text
from minilora.text.tokenizer import Tokenizer

Prompt: TypeAlias = "str | Raw | Sequence[dict]"
"""A user's message, a text to be continued, or messages."""

BATCH_TOKENS = 16384
"""Positions read at a time by all processes together, so that many long prompts need no more memory
than many short ones."""


def stop_ids(model: Transformer, tokenizer: Tokenizer) -> Collection[int]:
    """Tokens that end an answer: the tokenizer's and the config's ends of sequence."""
    ends = model.config.eos_token_id
    ends = ends if isinstance(ends, tuple) else (ends,)
    return {i for i in (tokenizer.eos_id, *ends) if i is not None}


@dataclass(frozen=True)
class Raw:
    """A prompt that is continued as it is, as models are asked that learned from plain text."""

    text: str


def question(tokenizer: Tokenizer, text: str, raw: bool = False) -> Prompt:
    """A text as the model was taught to be asked: in its chat template where it has one."""
    return text if tokenizer.config.get("chat_template") and not raw else Raw(text)


def raw_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text to continue, as `text_ids` gives those of a text to learn, but for its end."""
    (before, _), ids = tokenizer.text_ends(), tokenizer.encode(text)
    return ids if ids[: len(before)] == before else [*before, *ids]


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Ids of a user's message, or of a chat so far, up to where the assistant's answer begins."""
    if isinstance(prompt, Raw):
        return raw_ids(tokenizer, prompt.text)
    if isinstance(prompt, str):
        return tokenizer.encode_prompt(prompt)
    return tokenizer.encode(tokenizer.apply_chat_template(prompt, add_generation_prompt=True))


def answers(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    max_new_tokens: int = 96,
    batch_size: int = 64,
    progress: str = "",
    workers: int = 1,
) -> list[str]:
    """The greedy answer to each prompt, in the prompts' order.

    Prompts of similar length share a batch, so little is padded. `progress` names a bar. workers:
    forked processes that the batches are dealt to, one BLAS thread each; on a GPU there is one.
    Raises ValueError for an over-long prompt, or fewer than one worker, before anything is
    generated.
    """
    ids = answer_ids(model, tokenizer, prompts, max_new_tokens, batch_size, progress, workers)
    return [answer_text(tokenizer, answer, max_new_tokens) for answer in ids]


def answer_ids(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    max_new_tokens: int = 96,
    batch_size: int = 64,
    progress: str = "",
    workers: int = 1,
) -> list[list[int]]:
    """The tokens of `answers`, without the one that ends an answer."""
    require_count("workers", workers, 1)
    encoded = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    check_lengths(encoded, max_new_tokens, model.config.max_position_embeddings)
    stops, whole = stop_ids(model, tokenizer), rows_of(len(prompts))
    on_host = get_array_module(model.head_weight.data) is np
    workers = max(1, min(workers, len(prompts))) if on_host and may_fork() else 1
    batches = _batches([len(ids) for ids in encoded], batch_size, workers)
    threads = 1 if workers > 1 else recommended_blas_threads(model.config.hidden_size)
    bar = tqdm(total=len(prompts), desc=progress, unit="answer", disable=not progress)
    keep_freed_memory()  # A batch of answers makes and frees the same large arrays at every token.

    def answered(rows: list[int]) -> list[list[int]]:
        with seeing(whole.cut(rows)):
            return generate(model, [encoded[j] for j in rows], max_new_tokens, stop_ids=stops)

    with bar, blas_threads(threads):
        found = side_by_side(answered, batches, workers, lambda i: bar.update(len(batches[i])))
    result: list[list[int]] = [[] for _ in prompts]
    for rows, new_ids in zip(batches, found, strict=True):
        for j, new in zip(rows, new_ids, strict=True):
            result[j] = new
    return result


def _batches(lengths: Sequence[int], batch_size: int, workers: int = 1) -> list[list[int]]:
    """Rows from the shortest on, as many at a time as fit into a worker's share of BATCH_TOKENS.

    For each worker those of every workers-th row, from the shortest to the longest: so there is as
    much for each to do.
    """
    order, most = np.argsort(lengths, kind="stable").tolist(), BATCH_TOKENS // workers
    return [
        rows for w in range(workers) for rows in _cut(order[w::workers], lengths, batch_size, most)
    ]


def _cut(
    order: Sequence[int], lengths: Sequence[int], batch_size: int, most: int
) -> Iterator[list[int]]:
    """Runs of the order: at most batch_size rows and `most` positions, but at least one row."""
    rows: list[int] = []
    for j in order:
        if rows and (len(rows) == batch_size or (len(rows) + 1) * lengths[j] > most):
            yield rows
            rows = []
        rows.append(j)
    if rows:
        yield rows


def check_lengths(encoded: Sequence[Sequence[int]], room: int, limit: int) -> None:
    """Raise ValueError for a prompt without room for its answer.

    The longest comes last, after minutes of work; it is refused before the first.
    """
    longest = max(range(len(encoded)), key=lambda i: len(encoded[i]), default=None)
    if longest is not None and len(encoded[longest]) + room > limit:
        raise ValueError(
            f"prompt {longest} has {len(encoded[longest])} tokens, expected at most "
            f"{limit - room} with {room} new ones (max_position_embeddings = {limit})"
        )

"""Answers in text: prompts through the chat template, the model, and back to words."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from tqdm import tqdm

from minilora.backend import blas_threads, recommended_blas_threads
from minilora.hub.tokenizer import Tokenizer
from minilora.nn import Transformer, generate


def stop_ids(model: Transformer, tokenizer: Tokenizer) -> Collection[int]:
    """Tokens that end an answer: the tokenizer's and the config's end of sequence."""
    return {i for i in (tokenizer.eos_id, model.config.eos_token_id) if i is not None}


def answers(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int = 96,
    batch_size: int = 64,
    progress: str = "",
) -> list[str]:
    """The greedy answer to each prompt, in the prompts' order.

    Prompts of similar length share a batch, so little is padded. `progress` names a bar.
    Raises ValueError for an over-long prompt, before anything is generated.
    """
    encoded = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    _check_lengths(encoded, max_new_tokens, model.config.max_position_embeddings)
    order = np.argsort([len(ids) for ids in encoded], kind="stable")
    result = [""] * len(prompts)
    bar = tqdm(total=len(prompts), desc=progress, unit="answer", disable=not progress)
    with bar, blas_threads(recommended_blas_threads(model.config.hidden_size)):
        for i in range(0, len(order), batch_size):
            rows = order[i : i + batch_size]
            stops = stop_ids(model, tokenizer)
            batch = [encoded[j] for j in rows]
            new_ids = generate(model, batch, max_new_tokens, stop_ids=stops)
            for j, new in zip(rows, new_ids, strict=True):
                result[j] = tokenizer.decode(new)
            bar.update(len(rows))
    return result


def _check_lengths(encoded: Sequence[Sequence[int]], room: int, limit: int) -> None:
    """The longest prompt comes last, after minutes of work; it is refused before the first."""
    longest = max(range(len(encoded)), key=lambda i: len(encoded[i]), default=None)
    if longest is not None and len(encoded[longest]) + room > limit:
        raise ValueError(
            f"prompt {longest} has {len(encoded[longest])} tokens, expected at most "
            f"{limit - room} with {room} new ones (max_position_embeddings = {limit})"
        )

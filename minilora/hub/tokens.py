"""add_tokens: tokens that a base does not have, in its tokenizer and as rows of its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import tokenizers

from minilora.autograd.products import is_stored
from minilora.backend import Array, get_array_module, to_numpy
from minilora.nn import Parameter, Transformer
from minilora.nn.freeze import is_frozen
from minilora.text import Tokenizer


def add_tokens(
    model: Transformer, tokenizer: Tokenizer, texts: Sequence[str]
) -> tuple[Tokenizer, tuple[int, ...]]:
    """Give a plain model a row for each of these texts, in place; a tokenizer that has them, ids.

    A row starts as the mean of the rows of the tokens that the text was before (of the embedding,
    and of the head where that is a table of its own), so the same base and texts give the same
    base again. What is read without these texts is read as before, but for the new logits. The
    tokenizer that is given stays as it is. Raises ValueError, before anything changes, for no
    text, one that is empty, given twice or a token already, and a model that is frozen, stored in
    fewer bits, or carries an adapter.
    """
    _check_texts(tokenizer, texts)
    tables = [model.model.embed_tokens, *([model.lm_head] if model.lm_head is not None else [])]
    if is_frozen(model) or any(is_stored(table.weight.data) for table in tables):
        raise ValueError("got a frozen or stored model to add tokens to, expected a plain one")
    pieces = [tokenizer.encode(text) for text in texts]
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in texts])
    grown = Tokenizer(backend, tokenizer.config)
    ids = tuple(backend.token_to_id(text) for text in texts)
    size = max(model.config.vocab_size, max(ids) + 1)
    for table in tables:
        old = table.weight
        table.weight = Parameter(_grown(old.data, size, ids, pieces), old.requires_grad)
    if model.lm_head is not None:
        model.lm_head.out_features = size
    model.config = replace(model.config, vocab_size=size)
    return grown, ids


def _check_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not texts or not all(isinstance(t, str) and t for t in texts):
        raise ValueError(f"got tokens {texts!r} to add, expected texts, each a token")
    if len(set(texts)) < len(texts):
        raise ValueError(f"got tokens {list(texts)} to add, expected each once")
    known = [text for text in texts if tokenizer.backend.token_to_id(text) is not None]
    if known:
        raise ValueError(f"got {known[0]!r} to add, which is a token already, expected new ones")


def _grown(table: Array, size: int, ids: tuple[int, ...], pieces: Sequence[Sequence[int]]) -> Array:
    """The table with `size` rows, those of ids the means of rows of their pieces."""
    old = to_numpy(table)
    new = np.zeros((size, old.shape[1]), dtype=old.dtype)
    new[: len(old)] = old
    for i, before in zip(ids, pieces, strict=True):
        new[i] = old[list(before)].mean(axis=0)
    return get_array_module(table).asarray(new)


def ids_of(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[int, ...]:
    """The ids of texts that are one token each. Raises ValueError naming one that is not."""
    ids = []
    for text in texts:
        number = tokenizer.backend.token_to_id(text)
        if number is None:
            raise ValueError(
                f"got {text!r} to train the row of, which is no token of the base; expected one, "
                "or a base that has it (minilora tokens --add)"
            )
        ids.append(number)
    return tuple(ids)

"""Text generation: a KV cache, greedy and nucleus sampling, stop tokens, batches of any lengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np

from minilora.autograd import functional as F
from minilora.autograd import no_grad
from minilora.backend import Array, get_array_module, to_numpy
from minilora.nn.decode import Decoding
from minilora.nn.transformer import LayerCache, Transformer

KEPT_SHARE = 0.75
"""Rows that have ended leave the batch when at most this share is left: a smaller batch is faster,
and making one copies the caches."""

PREFILL_TOKENS = 2048
"""Positions of prompts read at a time: their arrays stay in the cache, and memory small."""


def sample_token(logits: np.ndarray, temperature: float, top_p: float, rng: object) -> np.ndarray:
    """One token id per row of logits (B, V).

    temperature 0 takes the largest (greedy). Otherwise softmax(logits / temperature) is cut to
    the smallest set of tokens whose probabilities sum to top_p (Holtzman et al. 2019, Sec. 3.1).
    """
    if temperature == 0.0:
        return logits.argmax(axis=-1)
    z = logits.astype(np.float64)
    z -= z.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):  # divided by next to nothing, all but the largest are -inf
        z /= temperature
    p = np.exp(z)
    p /= p.sum(axis=-1, keepdims=True)
    order = np.argsort(-p, axis=-1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=-1)
    ranked[np.cumsum(ranked, axis=-1) - ranked >= top_p] = 0.0
    total = np.cumsum(ranked, axis=-1)
    draw = rng.random((len(p), 1)) * total[:, -1:]
    choice = (total <= draw).sum(axis=-1, keepdims=True)
    return np.take_along_axis(order, choice, axis=-1)[:, 0]


def _check(prompts: Sequence[Sequence[int]], room: int, limit: int, settings: tuple) -> None:
    temperature, top_p, rng = settings
    if not prompts or not all(len(p) for p in prompts):
        raise ValueError("generate got an empty prompt, expected at least one token in each")
    longest = max(len(p) for p in prompts)
    if room < 1:
        raise ValueError(f"got max_new_tokens {room}, expected at least 1")
    if longest + room > limit:
        raise ValueError(
            f"got a prompt of {longest} tokens and max_new_tokens {room}, expected a sum up to "
            f"max_position_embeddings = {limit}"
        )
    if not 0 <= temperature < math.inf:
        raise ValueError(f"got temperature {temperature}, expected a finite number of at least 0")
    if not 0 < top_p <= 1:
        raise ValueError(f"got top_p {top_p}, expected 0 < top_p <= 1")
    if temperature > 0 and rng is None:
        raise ValueError("generate got temperature > 0 without rng, expected a numpy Generator")


def _left_padded(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Token rows of unequal length as (B, T) padded with 0 on the left, and the padding counts.

    On the left, so that the last column is the last token of every row; rotary positions are
    relative, so the shift changes no result.
    """
    time = max(len(row) for row in rows)
    ids = np.zeros((len(rows), time), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, time - len(row) :] = row
    return ids, np.array([time - len(row) for row in rows])


def _last_logits(model: Transformer, ids: Array, start: Array | None, caches: list | None) -> Array:
    batch, time = ids.shape
    last = np.arange(time - 1, batch * time, time)
    hidden = model.hidden(ids, start, caches, rows=last)
    return to_numpy(F.linear(hidden, model.head_weight).data)


def _read(
    model: Transformer, ids: np.ndarray, start: np.ndarray, padding: Array | None, caches: list
) -> Array:
    """Logits (B, V) after each prompt, and its keys and values in the caches.

    A few rows at a time, without the columns that are padding in all of them.
    """
    logits, time = [], ids.shape[1]
    few = max(1, PREFILL_TOKENS // time)
    for i in range(0, len(ids), few):
        rows, first = slice(i, i + few), int(start[i : i + few].min())
        parts = [cache.part(rows, first) for cache in caches]
        padded = None if padding is None else padding[rows]
        logits.append(_last_logits(model, ids[rows, first:], padded, parts))
    for cache in caches:
        cache.length = time
    return np.concatenate(logits)


def new_caches(model: Transformer, batch: int, length: int) -> list[LayerCache]:
    """Empty caches of every layer, for `batch` rows of up to `length` positions."""
    layers, like = model.config.num_hidden_layers, model.head_weight.data
    return [LayerCache(batch, length, model.config, like) for _ in range(layers)]


class _Batch:
    """The rows still being answered: what was read of each, and the logits of its next token."""

    def __init__(
        self, model: Transformer, prompts: Sequence[Sequence[int]], room: int, use_cache: bool
    ) -> None:
        self.model, self.rows = model, list(range(len(prompts)))  # rows: the prompt of each
        self.ids, start = _left_padded(prompts)
        self.xp = get_array_module(model.head_weight.data)
        self.padding = self.xp.asarray(start) if start.any() else None
        self.decoding = None
        if use_cache:
            caches = new_caches(model, len(prompts), self.ids.shape[1] + room)
            self.logits = _read(model, self.ids, start, self.padding, caches)
            self.decoding = Decoding(model, caches, self.padding)
        else:
            self.logits = _last_logits(model, self.ids, self.padding, None)

    def step(self, token: np.ndarray) -> None:
        """Read one more token a row (B,)."""
        if self.decoding is not None:
            self.logits = to_numpy(self.decoding.step(self.xp.asarray(token)))
        else:
            self.ids = np.concatenate([self.ids, token[:, None]], axis=1)
            self.logits = _last_logits(self.model, self.ids, self.padding, None)

    def keep(self, live: list[int]) -> None:
        """Go on with these of the rows alone."""
        self.rows, self.ids = [self.rows[j] for j in live], self.ids[live]
        kept = self.xp.asarray(live)
        if self.padding is not None:
            self.padding = self.padding[kept]
        if self.decoding is not None:
            self.decoding.keep(kept)


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    rng: np.random.Generator | None = None,
    stop_ids: Collection[int] = (),
    use_cache: bool = True,
    on_token: Callable[[list[int]], None] | None = None,
) -> list[list[int]]:
    """Continue each prompt (token ids) until a stop token or `max_new_tokens`.

    Returns the new tokens only, without the stop token. With the cache each step feeds one token
    a row; without it the whole row is read again, for the same tokens. `on_token(ids)` is called
    with the newest token of each row, for streaming. Raises ValueError for empty or over-long
    prompts and settings out of range.
    """
    limit = model.config.max_position_embeddings
    _check(prompts, max_new_tokens, limit, (temperature, top_p, rng))
    new: list[list[int]] = [[] for _ in prompts]
    newest, stops = [0] * len(prompts), set(stop_ids)
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            batch = _Batch(model, prompts, max_new_tokens, use_cache)
            live = batch.rows  # places in the batch; all of them at first
            for left in reversed(range(max_new_tokens)):
                token = sample_token(batch.logits, temperature, top_p, rng)
                chosen = token.tolist()
                live = [j for j in live if chosen[j] not in stops]
                if not live:
                    break
                for j in live:
                    new[batch.rows[j]].append(chosen[j])
                if on_token is not None:
                    for i, one in zip(batch.rows, chosen, strict=True):
                        newest[i] = one
                    on_token(newest.copy())
                if left == 0:
                    break
                if len(live) <= KEPT_SHARE * len(batch.rows):
                    batch.keep(live)
                    token, live = token[live], list(range(len(live)))
                batch.step(token)
    finally:
        model.train(was_training)
    return new

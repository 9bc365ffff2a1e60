"""Text generation: a KV cache, greedy and nucleus sampling, stop tokens, batches of any lengths."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from minilora.autograd import functional as F
from minilora.autograd import no_grad
from minilora.backend import Array, get_array_module, to_numpy
from minilora.limits import require_count, require_finite
from minilora.nn.cache import LayerCache
from minilora.nn.decode import Decoding
from minilora.nn.finite import quiet_overflow, require_finite_logits
from minilora.nn.rows import Said, rows_of, seeing
from minilora.nn.transformer import Transformer

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


def check_request(prompts: Sequence[Sequence[int]], room: int, limit: int, settings: tuple) -> None:
    """Raise ValueError for what `generate` refuses; settings: temperature, top_p and rng."""
    temperature, top_p, rng = settings
    if not prompts or not all(len(p) for p in prompts):
        raise ValueError("generate got an empty prompt, expected at least one token in each")
    longest = max(len(p) for p in prompts)
    require_count("max_new_tokens", room, 1)
    if longest + room > limit:
        raise ValueError(
            f"got a prompt of {longest} tokens and max_new_tokens {room}, expected a sum up to "
            f"max_position_embeddings = {limit}"
        )
    require_finite("temperature", temperature)
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


def last_logits(model: Transformer, ids: Array, start: Array | None, caches: list | None) -> Array:
    """Logits (B, V) after the last of each row's ids (B, T)."""
    batch, time = ids.shape
    last_of_each = np.arange(time - 1, batch * time, time)
    hidden = model.hidden_states(ids, start, caches, only=last_of_each)
    return to_numpy(F.linear(hidden, model.head_weight).data)


def _read(
    model: Transformer,
    ids: np.ndarray,
    start: np.ndarray,
    padding: Array | None,
    caches: list,
    done: int = 0,
) -> Array:
    """Logits (B, V) after each prompt, with its keys and values in the caches.

    A few prompts at a time, without the columns that are padding in all of them. done: columns
    whose keys and values are in the caches already.
    """
    logits, time = [], ids.shape[1]
    few, whole = max(1, PREFILL_TOKENS // (time - done)), rows_of(len(ids))
    for i in range(0, len(ids), few):
        rows, first = slice(i, i + few), done or int(start[i : i + few].min())
        parts = [cache.part(rows, first) for cache in caches]
        padding_of_rows = None if padding is None else padding[rows]
        with seeing(whole.cut(rows)):
            logits.append(last_logits(model, ids[rows, first:], padding_of_rows, parts))
    for cache in caches:
        cache.length = time
    return np.concatenate(logits)


def next_logits(model: Transformer, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Logits (B, V) of the token that comes after each of these rows of token ids.

    A few rows at a time, so that many need no more memory than few. Raises ValueError for an
    empty row or one that the model has no positions for, NotFiniteError as `generate`.
    """
    if not rows or not all(len(row) for row in rows):
        raise ValueError("next_logits got an empty row, expected at least one token in each")
    few = max(1, PREFILL_TOKENS // max(map(len, rows)))
    xp, logits = get_array_module(model.head_weight.data), []
    with no_grad(), quiet_overflow():
        for i in range(0, len(rows), few):
            ids, start = _left_padded(rows[i : i + few])
            padding = xp.asarray(start) if start.any() else None
            logits.append(require_finite_logits(last_logits(model, ids, padding, None)))
    return np.concatenate(logits)


def shared_columns(prompts: Sequence[Sequence[int]], invocations: Sequence[Sequence[int]]) -> int:
    """How many columns of these prompts, padded on the left, come before every invocation.

    At least the last token of a prompt is left, from which its answer begins.
    """
    ids, start = _left_padded(prompts)
    said = Said(ids, start)
    firsts = [said.since(tuple(tokens)) + start for tokens in invocations]
    return int(min(ids.shape[1] - 1, *(first.min() for first in firsts)))


def new_caches(model: Transformer, batch: int, length: int) -> list[LayerCache]:
    """Empty caches of every layer, for `batch` rows of up to `length` positions."""
    config, like = model.config, model.head_weight.data
    shape = (batch, length, config.num_key_value_heads, config.head_dim)
    return [LayerCache(*shape, like) for _ in range(config.num_hidden_layers)]


@dataclass(frozen=True)
class Reading:
    """Prompts that were read up to a column, from which any number of generations can go on.

    ids (B, T): the prompts, padded on the left; caches: keys and values of their first `columns`.
    """

    ids: np.ndarray
    caches: list[LayerCache]

    @property
    def columns(self) -> int:
        """How many columns of the padded prompts have been read."""
        return self.caches[0].length

    def caches_for(self, ids: np.ndarray, room: int) -> list[LayerCache]:
        """Copies to go on with, with room for so many new tokens. Raises ValueError for others."""
        if ids.shape != self.ids.shape or (ids != self.ids).any():
            raise ValueError(
                f"got other prompts than the {len(self.ids)} that were read, expected the same"
            )
        return [cache.longer(ids.shape[1] + room) for cache in self.caches]


def read_ahead(model: Transformer, prompts: Sequence[Sequence[int]], columns: int) -> Reading:
    """Read the first `columns` of these prompts, padded on the left, with the model as it is now.

    For adapters that act after them: the base reads once, each adapter goes on by itself. Raises
    ValueError for an empty prompt, or columns that leave no token of a prompt for its answer.
    """
    check_request(prompts, 1, model.config.max_position_embeddings, (0.0, 1.0, None))
    ids, start = _left_padded(prompts)
    require_count("columns", columns, 1, ids.shape[1] - 1)
    xp = get_array_module(model.head_weight.data)
    padding = xp.asarray(start) if start.any() else None
    caches = new_caches(model, len(ids), columns)
    with no_grad(), quiet_overflow(), seeing(rows_of(len(ids)).saying(ids, start)):
        _read(model, ids[:, :columns], np.minimum(start, columns - 1), padding, caches)
    return Reading(ids, caches)


class _Batch:
    """Rows that are being answered side by side, and the logits of each one's next token.

    prompt_of: the number of the prompt that each row answers. At first row i answers prompt i; rows
    whose answers have ended are dropped, and the others move up.
    """

    def __init__(
        self,
        model: Transformer,
        prompts: Sequence[Sequence[int]],
        room: int,
        use_cache: bool,
        reading: Reading | None = None,
    ) -> None:
        self.model, self.prompt_of = model, list(range(len(prompts)))
        self.ids, start = _left_padded(prompts)
        # An answer may say an invocation again; what acts is decided by the prompt.
        self.rows = rows_of(len(prompts)).saying(self.ids, start)
        self.xp = get_array_module(model.head_weight.data)
        self.padding = self.xp.asarray(start) if start.any() else None
        self.decoding = None
        with seeing(self.rows):
            if use_cache:
                done = 0 if reading is None else reading.columns
                if reading is None:
                    caches = new_caches(model, len(prompts), self.ids.shape[1] + room)
                else:
                    caches = reading.caches_for(self.ids, room)
                self.logits = _read(model, self.ids, start, self.padding, caches, done)
                self.decoding = Decoding(model, caches, self.padding)
            else:
                self.logits = last_logits(model, self.ids, self.padding, None)

    def step(self, tokens: np.ndarray) -> None:
        """Read one more token of each row (B,)."""
        if self.decoding is not None:
            self.logits = to_numpy(self.decoding.step(self.xp.asarray(tokens)))
        else:
            self.ids = np.concatenate([self.ids, tokens[:, None]], axis=1)
            with seeing(self.rows):
                self.logits = last_logits(self.model, self.ids, self.padding, None)

    def drop_all_but(self, rows: list[int]) -> None:
        """Go on with these rows alone."""
        self.prompt_of, self.ids = [self.prompt_of[row] for row in rows], self.ids[rows]
        self.rows = self.rows.cut(rows)
        if self.padding is not None:
            self.padding = self.padding[self.xp.asarray(rows)]
        if self.decoding is not None:
            self.decoding.keep(rows)


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
    reading: Reading | None = None,
) -> list[list[int]]:
    """Continue each prompt (token ids) until a stop token or `max_new_tokens`.

    Returns the new tokens only, without the stop token. With the cache each step feeds one token
    a row; without it the whole row is read again, for the same tokens. `on_token(ids)` is called
    with the latest token of each prompt, for streaming. reading: of these prompts by `read_ahead`,
    from which to go on, where what is on the model now acts after it. Raises ValueError for empty
    or over-long prompts and settings out of range, NotFiniteError where a logit is not a finite
    number.
    """
    limit = model.config.max_position_embeddings
    check_request(prompts, max_new_tokens, limit, (temperature, top_p, rng))
    answers: list[list[int]] = [[] for _ in prompts]
    latest, stops = [0] * len(prompts), set(stop_ids)
    was_training = model.training
    model.eval()
    model.generations += 1
    try:
        with no_grad(), quiet_overflow():
            batch = _Batch(model, prompts, max_new_tokens, use_cache, reading)
            unended = list(range(len(prompts)))  # rows of the batch whose answers go on
            for steps_left in reversed(range(max_new_tokens)):
                logits = require_finite_logits(batch.logits)
                tokens = sample_token(logits, temperature, top_p, rng)
                ids = tokens.tolist()
                unended = [row for row in unended if ids[row] not in stops]
                if not unended:
                    break
                for row in unended:
                    answers[batch.prompt_of[row]].append(ids[row])
                if on_token is not None:
                    for prompt, token in zip(batch.prompt_of, ids, strict=True):
                        latest[prompt] = token
                    on_token(latest.copy())
                if steps_left == 0:
                    break
                if len(unended) <= KEPT_SHARE * len(ids):
                    batch.drop_all_but(unended)
                    tokens, unended = tokens[unended], list(range(len(unended)))
                batch.step(tokens)
    finally:
        model.generations -= 1
        model.train(was_training)
    return answers

"""Text generation: a KV cache, greedy and nucleus sampling, stop tokens, batches of any lengths."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from minilora.autograd import functional as F
from minilora.autograd import no_grad
from minilora.backend import Array, get_array_module, to_numpy
from minilora.nn.decode import Decoding
from minilora.nn.transformer import LayerCache, Transformer


def sample_token(logits: np.ndarray, temperature: float, top_p: float, rng: object) -> np.ndarray:
    """One token id per row of logits (B, V).

    temperature 0 takes the largest (greedy). Otherwise softmax(logits / temperature) is cut to
    the smallest set of tokens whose probabilities sum to top_p (Holtzman et al. 2019, Sec. 3.1).
    """
    if temperature == 0.0:
        return logits.argmax(axis=-1)
    z = logits.astype(np.float64) / temperature
    z -= z.max(axis=-1, keepdims=True)
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
    if room < 1 or longest + room > limit:
        raise ValueError(
            f"generate got a prompt of {longest} tokens and max_new_tokens {room}, expected "
            f"max_new_tokens >= 1 and a sum up to max_position_embeddings = {limit}"
        )
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"generate got temperature {temperature} and top_p {top_p}, "
            "expected temperature >= 0 and 0 < top_p <= 1"
        )
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


def new_caches(model: Transformer, batch: int, length: int) -> list[LayerCache]:
    """Empty caches of every layer, for `batch` rows of up to `length` positions."""
    layers, like = model.config.num_hidden_layers, model.head_weight.data
    return [LayerCache(batch, length, model.config, like) for _ in range(layers)]


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
    on_token: Callable[[np.ndarray], None] | None = None,
) -> list[list[int]]:
    """Continue each prompt (token ids) until a stop token or `max_new_tokens`.

    Returns the new tokens only, without the stop token. With the cache each step feeds one token
    a row; without it the whole row is read again, for the same tokens. `on_token(ids)` is called
    with the token chosen in each row, for streaming. Raises ValueError for empty or over-long
    prompts and settings out of range.
    """
    limit = model.config.max_position_embeddings
    _check(prompts, max_new_tokens, limit, (temperature, top_p, rng))
    xp = get_array_module(model.head_weight.data)
    ids, start = _left_padded(prompts)
    padding = xp.asarray(start) if start.any() else None
    new, live, stops = [[] for _ in prompts], range(len(prompts)), set(stop_ids)
    caches = new_caches(model, len(ids), ids.shape[1] + max_new_tokens) if use_cache else None
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            logits = _last_logits(model, ids, padding, caches)
            decoding = None if caches is None else Decoding(model, caches, padding)
            for left in reversed(range(max_new_tokens)):
                token = sample_token(logits, temperature, top_p, rng)
                chosen = token.tolist()
                live = [i for i in live if chosen[i] not in stops]
                if not live:
                    break
                for i in live:
                    new[i].append(chosen[i])
                if on_token is not None:
                    on_token(token)
                if left == 0:
                    break
                if decoding is None:
                    ids = np.concatenate([ids, token[:, None]], axis=1)
                    logits = _last_logits(model, ids, padding, None)
                else:
                    logits = to_numpy(decoding.step(xp.asarray(token)))
    finally:
        model.train(was_training)
    return new

"""Reading prompts once: their keys and values, as constants for whatever is read after them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minilora.autograd import Tensor, no_grad
from minilora.backend import Array, get_array_module
from minilora.nn.rows import rows_of, seeing
from minilora.nn.transformer import Past, Positions, Transformer


class _Kept:
    """Stands where a cache would: keeps a layer's keys and values as they are made."""

    def __init__(self) -> None:
        self.pair: tuple[Array, Array] | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep these; all that is to be seen is they themselves."""
        self.pair = k.data, v.data
        return k, v


def read_past(model: Transformer, prompts: Sequence[np.ndarray]) -> Past:
    """Keys and values of these prompts (token ids, of any lengths, also none), without gradients.

    Layers that wait for an invocation do not act, so they are the base's. Nothing is computed that
    they don't need: the last block makes its keys and values, and no more.
    """
    lengths = np.array([len(prompt) for prompt in prompts])
    time, config = int(lengths.max()), model.config
    ids = np.zeros((len(prompts), time), dtype=np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[time - len(prompt) :] = prompt
    if time == 0:
        xp, like = get_array_module(model.head_weight.data), model.head_weight.data
        none = xp.empty((len(ids), 0, config.num_key_value_heads, config.head_dim), like.dtype)
        return Past([(none, none)] * config.num_hidden_layers, lengths)
    start = time - lengths
    numbers = np.maximum(np.arange(time) - start[:, None], 0)
    padding = start if start.any() else None
    layers, kept = model.model.layers, [_Kept() for _ in range(config.num_hidden_layers)]
    positions = Positions(*model.rope_tables(numbers), padding, kept)
    rows = rows_of(len(ids)).placed(0, padding).all_acting(False)
    with no_grad(), seeing(rows):
        x = model.model.embed_tokens(ids)
        for i in range(len(layers) - 1):
            x = layers[i](x, positions, i)
        last = layers[len(layers) - 1]
        kept[-1].append(*last.self_attn.keys_and_values(last.input_layernorm(x), positions))
    return Past([one.pair for one in kept], lengths)

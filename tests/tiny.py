"""Tiny models, and what tests train them on and save them as: the one maker for all tests.

No two sizes are alike, so that an axis taken for another does not fit. Weights are large, so that
every token, position and layer shows in the logits. A test that needs other sizes says which:
`tiny.model(hidden_size=64)`.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from minilora.autograd import IGNORE
from minilora.hub import save_pretrained
from minilora.nn import Transformer, TransformerConfig
from minilora.text import Example, Tokenizer

IDS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 35]])
LABELS = np.array([[1, 4, 1, 5, IGNORE], [2, 6, 5, 35, 8]])
TEXT = "The patient takes 20 mg of lisinopril daily. Pulse 88, regular. No known allergies."


def config(tokenizer: Tokenizer | None = None, **changes) -> TransformerConfig:
    """Grouped heads wider than the model; with a tokenizer, its vocabulary and special tokens."""
    settings = dict(
        vocab_size=37, hidden_size=10, intermediate_size=14, num_hidden_layers=3,
        num_attention_heads=3, num_key_value_heads=1, head_dim=6, max_position_embeddings=128,
        rms_norm_eps=1e-4, rope_theta=5000.0, initializer_range=0.3,
    )  # fmt: skip
    if tokenizer is not None:
        settings |= dict(
            vocab_size=tokenizer.vocab_size,
            eos_token_id=tokenizer.eos_id,
            pad_token_id=tokenizer.pad_id,
        )
    return TransformerConfig(**{**settings, **changes})


def model(
    seed: int = 0,
    *,
    dtype: type = np.float32,
    norms: float = 0.0,
    tokenizer: Tokenizer | None = None,
    **changes,
) -> Transformer:
    """A model of `config(tokenizer, **changes)`; norms: how far their weights lie around 1.

    Norms of exactly 1 would hide one that is left out or taken for another.
    """
    rng = np.random.default_rng(seed)
    made = Transformer(config(tokenizer, **changes), rng)
    for name, parameter in made.named_parameters():
        if norms and "norm" in name:
            parameter.data = 1 + norms * rng.standard_normal(parameter.shape)
        parameter.data = parameter.data.astype(dtype)
    return made


@functools.cache
def tokenizer(vocab: int = 300) -> Tokenizer:
    """A byte-level tokenizer trained on TEXT. It is shared: do not change it."""
    return Tokenizer.train([TEXT] * 3, vocab)


def save(folder: Path, words: Tokenizer, seed: int = 0, card: str = "", **changes) -> Path:
    """`folder`, with a model that speaks `words` in it, as a Hugging Face folder."""
    save_pretrained(folder, model(seed, tokenizer=words, **changes), words, card)
    return folder


def copy_examples(count: int, *, vocab: int = 13, shortest: int = 1) -> list[Example]:
    """Some tokens, a separator (0), the same tokens: labels on the repetition only."""
    rng, examples = np.random.default_rng(2), []
    for _ in range(count):
        tokens = rng.integers(1, vocab, rng.integers(shortest, 6))
        ids = np.concatenate([tokens, [0], tokens]).astype(np.int32)
        labels = np.where(np.arange(len(ids)) < len(tokens), IGNORE, ids).astype(np.int32)
        examples.append(Example(ids[:-1], labels[1:]))
    return examples

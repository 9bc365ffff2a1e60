"""A tiny model with a tokenizer of its own, and the folder that they are saved in."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.hub import save_pretrained
from minilora.nn import Transformer, TransformerConfig
from minilora.text import Tokenizer

TEXT = "The patient takes 20 mg of lisinopril daily. Pulse 88, regular. No known allergies."


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.train([TEXT] * 3, 300)


@pytest.fixture(scope="session")
def make_model(tokenizer):
    """A model whose logits are far from uniform, with settings of your own."""

    def make(**changes):
        settings = dict(
            vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=20,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=64, rms_norm_eps=2e-5, rope_theta=5000.0,
            initializer_range=0.3, eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id,
        )  # fmt: skip
        config = TransformerConfig(**{**settings, **changes})
        return Transformer(config, np.random.default_rng(0)).eval()

    return make


@pytest.fixture
def saved(tmp_path, make_model, tokenizer):
    """A saved folder, fresh for each test that spoils it."""
    save_pretrained(tmp_path / "model", make_model(), tokenizer, "# A card\n")
    return tmp_path / "model"

"""A workload small enough for a test."""

import pytest

from minilora.bench.workloads import Workload
from minilora.nn import TransformerConfig


@pytest.fixture
def tiny():
    config = TransformerConfig(
        vocab_size=37, hidden_size=12, intermediate_size=20, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=3, head_dim=4, max_position_embeddings=128,
        rope_theta=500.0, rms_norm_eps=1e-4,
    )  # fmt: skip
    return Workload("tiny", config, rows=5, time=7, labels=3)

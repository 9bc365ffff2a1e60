"""A workload small enough for a test."""

import pytest

from minilora.bench.workloads import Workload
from tests.tiny import config


@pytest.fixture
def tiny():
    shape = config(
        hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=3, head_dim=4,
    )  # fmt: skip
    return Workload("tiny", shape, rows=5, time=7, labels=3)

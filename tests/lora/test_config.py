from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from minilora.lora import LoRAConfig
from tests.says import refusal


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LoRAConfig(), 2.0),
        (LoRAConfig(r=3, lora_alpha=5), 5 / 3),
        (LoRAConfig(r=9, lora_alpha=6, use_rslora=True), 2.0),
        (LoRAConfig(r=7, lora_alpha=0.5, use_rslora=True), 0.5 / math.sqrt(7)),
    ],
)
def test_scaling(config, expected):
    assert config.scaling == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", 0), ("r", -2), ("r", 2.0), ("r", True), ("r", "8"), ("r", None),
        ("lora_alpha", 0), ("lora_alpha", -1.0), ("lora_alpha", math.nan), ("lora_alpha", math.inf),
        ("lora_alpha", 1e39), ("lora_alpha", 10**400), ("lora_dropout", math.inf),
        ("lora_alpha", "16"), ("lora_alpha", True),
        ("lora_dropout", 1.0), ("lora_dropout", -0.1), ("lora_dropout", math.nan),
        ("lora_dropout", "0.1"), ("use_rslora", 1), ("use_rslora", None),
        ("target_modules", "q_proj"), ("target_modules", ()), ("target_modules", ("q_proj", "")),
        ("target_modules", None), ("target_modules", (1,)), ("target_modules", [["q_proj"]]),
        ("target_modules", {"q_proj": 1}),
    ],
)  # fmt: skip
def test_refused_values_are_named(field, value):
    with refusal(ValueError, field, repr(value)) as error:
        LoRAConfig(**{field: value})
    assert repr(value) in str(error.value)


def test_targets_become_a_tuple_each_once_and_sets_are_sorted():
    assert LoRAConfig(target_modules=["v_proj", "q_proj", "v_proj"]).target_modules == (
        "v_proj",
        "q_proj",
    )
    assert LoRAConfig(target_modules={"b", "c", "a"}).target_modules == ("a", "b", "c")
    assert LoRAConfig(target_modules="all-linear").target_modules == "all-linear"


def test_numpy_numbers_become_plain_and_whole_alpha_stays_whole():
    config = LoRAConfig(r=np.int64(4), lora_alpha=np.float32(2.5), lora_dropout=0)
    assert [type(config.r), type(config.lora_alpha), type(config.lora_dropout)] == [
        int,
        float,
        float,
    ]
    assert type(LoRAConfig(lora_alpha=np.int32(16)).lora_alpha) is int


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LoRAConfig().r = 4

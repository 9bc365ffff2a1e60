"""The validators: every kind of number that is none, both ends of each range, and the name."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minilora.limits import require_count, require_finite
from tests.says import refusal


@pytest.mark.parametrize("value", [2, 7, np.int64(2), np.uint8(7)])
def test_a_whole_number_in_range_is_a_count(value):
    require_count("steps", value, 2, 7)


@pytest.mark.parametrize(
    "value", [1, 8, -2, 10**30, 2.0, math.nan, True, "3", None, [3], np.float32(3)]
)
def test_what_is_no_count_is_refused_by_name(value):
    with refusal(ValueError, "steps", value):
        require_count("steps", value, 2, 7)


def test_a_count_without_an_upper_end_has_none():
    require_count("steps", 10**30, 1)
    with refusal(ValueError, "steps", 0, 1):
        require_count("steps", 0, 1)


@pytest.mark.parametrize("value", [0, 0.0, 0.99, np.float32(0.5), 1e-300])
def test_a_finite_number_in_range_passes(value):
    require_finite("rate", value, below=1.0)


@pytest.mark.parametrize(
    "value", [-1e-300, 1, 1.5, math.nan, math.inf, -math.inf, True, "0.5", None, 0.5j]
)
def test_what_is_no_finite_number_in_range_is_refused_by_name(value):
    with refusal(ValueError, "rate", value):
        require_finite("rate", value, below=1.0)


def test_an_open_lower_end_is_not_taken():
    require_finite("rate", 1e-300, above=True)
    for value in (0, -1, math.nan, math.inf):
        with refusal(ValueError, "rate", value):
            require_finite("rate", value, above=True)

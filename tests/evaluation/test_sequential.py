"""The stakes of the sequential test: what they say, and that looking all the time does no harm."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minilora.evaluation.sequential import SIZES, Stakes
from tests.says import refusal


def stopped(rng, margin, lost, gained, alpha, most=300):
    """("above" or "below" or "", after how many) of a run that is looked at after every row."""
    stakes = Stakes(margin)
    for draw in rng.random(most):
        stakes.add(-1.0 if draw < lost else 1.0 if draw < lost + gained else 0.0)
        if stakes.above >= -math.log(alpha):
            return "above", stakes.count
        if stakes.below >= -math.log(alpha):
            return "below", stakes.count
    return "", most


def test_a_stake_is_what_its_players_have_won():
    stakes = Stakes(-0.1)
    assert stakes.above == stakes.below == 0.0
    for x in (0.0, -1.0, 0.5):
        stakes.add(x)
    gaps = np.array([0.1, -0.9, 0.6])
    assert stakes.above == pytest.approx(
        math.log(np.mean([np.prod(1 + c / 0.9 * gaps) for c in SIZES]))
    )
    assert stakes.below == pytest.approx(
        math.log(np.mean([np.prod(1 - c / 1.1 * gaps) for c in SIZES]))
    )
    assert stakes.count == 3
    with refusal(ValueError, 1.5):
        stakes.add(1.5)
    for margin in (-1.0, 1.0):
        with refusal(ValueError, margin):
            Stakes(margin)


def test_no_stake_falls_below_nothing():
    for margin in (-0.9, -0.05, 0.0, 0.9):
        stakes = Stakes(margin)
        for x in (1.0, -1.0) * 200:
            stakes.add(x)
        assert math.isfinite(stakes.above) and math.isfinite(stakes.below)


@pytest.mark.parametrize(("lost", "gained"), [(0.1, 0.0), (0.3, 0.2)])
def test_looking_after_every_row_raises_no_more_false_alarms(lost, gained):
    # The truth is the margin itself: either verdict is an error.
    rng, tries, alpha = np.random.default_rng(), 400, 0.1
    ends = [stopped(rng, -0.1, lost, gained, alpha)[0] for _ in range(tries)]
    for side in ("above", "below"):
        rate = ends.count(side) / tries
        assert rate <= alpha + 4 * math.sqrt(alpha * (1 - alpha) / tries), (side, rate)


def test_a_plain_case_is_decided_early():
    rng = np.random.default_rng()
    runs = [stopped(rng, -0.1, 0.7, 0.0, 0.025) for _ in range(50)]
    assert {end for end, _ in runs} == {"below"}
    assert np.median([count for _, count in runs]) < 20
    end, count = stopped(rng, -0.1, 0.0, 0.0, 0.025)
    assert end == "above" and count < 60

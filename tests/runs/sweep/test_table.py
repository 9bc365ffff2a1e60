"""The table: seeds together, the noise of seeds, and the cheapest that is good enough."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from minilora.runs.sweep import Candidate, Point, candidates, cheapest
from minilora.runs.sweep.table import seed_noise


def candidate(trained, *choose, breaks=False, seconds=1.0):
    return Candidate({"r": trained}, trained, choose, choose, 10, (), breaks, seconds)


def point(r, seed):
    return Point(f"{r}-{seed}", {"r": r, "seed": seed}, "all", {}, Path("out"))


def result(right, suite=None, trained=8):
    parts = {"choose": [True] * right + [False] * (10 - right), "report": [True, False]}
    if suite is not None:
        parts["suite"] = suite
    return {"right": parts, "trained": trained, "seconds": 2.0, "loss": 0.1}


def test_seeds_of_a_combination_are_one_line():
    points = [point(r, seed) for r in (1, 2) for seed in (0, 1)]
    results = {p.id: result(5 + p.settings["r"] + p.settings["seed"]) for p in points}
    best, other = candidates(points, results)
    assert best.settings == {"data": "all", "r": 2} and best.choose == (0.7, 0.8)
    assert other.choose == (0.6, 0.7) and other.report == (0.5, 0.5) and other.rows == 2


def test_a_combination_with_a_missing_seed_waits():
    points = [point(r, seed) for r in (1, 2) for seed in (0, 1)]
    results = {p.id: result(5) for p in points[:3]}
    assert [c.settings["r"] for c in candidates(points, results)] == [1]


def test_noise_is_the_error_of_a_difference_of_means():
    found = [candidate(8, 0.9, 0.7), candidate(4, 0.6, 0.6), candidate(2, 0.5, 0.6)]
    pooled = (0.02 + 0.0 + 0.005) / 3
    assert seed_noise(found) == pytest.approx(math.sqrt(pooled * 2 / 2))
    assert seed_noise([candidate(8, 0.9), candidate(2, 0.1)]) == 0.0


def test_the_cheapest_within_noise_is_taken():
    noisy = [candidate(32, 0.95, 0.85), candidate(8, 0.92, 0.84), candidate(2, 0.5, 0.4)]
    assert cheapest(noisy).trained == 8
    best = candidate(32, 1.0, 0.9)  # one standard error is 0.071
    assert seed_noise([best, candidate(8, 0.84, 0.74)]) == pytest.approx(0.0707, abs=1e-4)
    assert cheapest([best, candidate(8, 0.88, 0.78)]).trained == 8
    assert cheapest([best, candidate(8, 0.84, 0.74)]).trained == 32
    exact = [candidate(32, 0.95, 0.95), candidate(8, 0.94, 0.94), candidate(2, 0.5, 0.5)]
    assert cheapest(exact).trained == 32
    assert cheapest([]) is None


def test_what_breaks_the_base_is_left_out_where_asked():
    found = [candidate(8, 0.9, 0.9, breaks=True), candidate(32, 0.8, 0.8)]
    assert cheapest(found).trained == 8
    assert cheapest(found, keep_base=True).trained == 32
    assert cheapest(found[:1], keep_base=True) is None


@pytest.mark.parametrize(("kept", "breaks"), [(40, False), (39, False), (20, True), (0, True)])
def test_the_base_is_broken_where_chance_does_not_explain_it(kept, breaks):
    base = [True] * 40
    after = [True] * kept + [False] * (40 - kept)
    points = [point(1, 0), point(1, 1)]
    (found,) = candidates(points, {p.id: result(9, after) for p in points}, base)
    assert found.breaks_base is breaks
    assert found.suite == (kept / 40, kept / 40)


def test_seeds_of_one_row_are_no_more_rows():
    base, after = [True] * 40, [False] * 3 + [True] * 37
    for seeds in (1, 8):
        points = [point(1, seed) for seed in range(seeds)]
        (found,) = candidates(points, {p.id: result(9, after) for p in points}, base)
        assert not found.breaks_base  # 24 wrong answers, and still three rows


def test_what_is_meant_to_change_breaks_no_base():
    groups = ["public"] * 20 + ["question"] * 20
    after = [True] * 2 + [False] * 18 + [True] * 19 + [False]
    points = [point(1, 0), point(1, 1)]
    results = {p.id: result(9, after) for p in points}
    (strict,) = candidates(points, results, [True] * 40, groups)
    (free,) = candidates(points, results, [True] * 40, groups, ["public"])
    assert strict.breaks_base and not free.breaks_base
    assert strict.groups == free.groups == {"public": 0.1, "question": 0.95}
    assert strict.suite == free.suite == (0.525, 0.525)
    (other,) = candidates(points, results, [True] * 40, groups, ["question"])
    assert other.breaks_base


def test_what_is_out_tells_of_the_noise_of_seeds():
    noisy = candidate(4, 0.2, 0.6, breaks=True)
    left = [candidate(32, 0.9, 0.9), candidate(8, 0.8, 0.8)]
    assert cheapest(left, keep_base=True).trained == 32
    assert cheapest([noisy, *left], keep_base=True).trained == 8


def test_a_base_that_gains_is_not_broken():
    points = [point(1, 0)]
    (found,) = candidates(points, {"1-0": result(9, [True] * 20)}, [False] * 20)
    assert not found.breaks_base


def test_what_is_reported_decides_nothing():
    def scored(trained, choose, report):
        return Candidate({"r": trained}, trained, (choose,), (report,), 10, (), False, 1.0)

    found = [scored(32, 0.9, 0.1), scored(8, 0.8, 1.0), scored(2, 0.7, 1.0)]
    assert cheapest(found).trained == 32


def test_the_time_is_that_of_all_seeds():
    points = [point(1, seed) for seed in (0, 1)]
    results = {p.id: {**result(5), "seconds": 1.0 + p.settings["seed"]} for p in points}
    assert candidates(points, results)[0].seconds == 1.5

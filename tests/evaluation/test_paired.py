"""Paired statistics against SciPy's and published figures, and their error rates by simulation.

Each simulation draws anew: a rate that holds for one seed only would not be a rate.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, norm, permutation_test

from minilora.evaluation import paired
from minilora.evaluation.paired import (
    Counts,
    Pairs,
    chance_to_see,
    holm,
    mcnemar,
    newcombe,
    p_fewer,
    smallest_drop,
    wilson,
)
from tests.says import refusal


def drawn(rng, rows, before=0.9, lost=0.1, gained=0.05, patients=None, alike=0.0):
    """Pairs whose right-before rows are lost, and wrong-before rows gained, with these chances.

    alike: the chance that a row does as its patient's first row does.
    """
    size = rows if patients is None else patients
    u, v = rng.random(rows), rng.random(rows)
    owner = None
    if patients is not None:
        owner = rng.integers(size, size=rows)
        shared = rng.random(rows) < alike
        u = np.where(shared, rng.random(size)[owner], u)
        v = np.where(shared, rng.random(size)[owner], v)
    was = u < before
    now = np.where(was, v >= lost, v < gained)
    return Pairs(was, now, owner)


def within(hits, tries, least, sigmas=4.0):
    """Whether a rate of `hits` may be a true rate of `least` or more."""
    return hits >= tries * least - sigmas * np.sqrt(tries * least * (1 - least))


def test_wilson_is_scipys():
    for right, of in ((0, 7), (7, 30), (59, 60), (60, 60)):
        for confidence in (0.8, 0.95):
            expected = binomtest(right, of).proportion_ci(confidence, method="wilson")
            assert wilson(right, of, confidence) == pytest.approx(tuple(expected), abs=1e-12)
    assert wilson(0.5, 10)[0] < 0.05 < wilson(0.5, 10)[1]
    with refusal(ValueError, 8, 7):
        wilson(8, 7)


def test_newcombe_gives_the_published_interval():
    # Airway responsiveness before and after a transplant, of Fagerland, Lydersen and Laake,
    # Statistics in Medicine 33 (2014): 1, 1, 7, 12 of 21; difference 0.286, 0.026 to 0.507.
    low, high = newcombe(Counts(1, 1, 7, 12))
    assert (round(low, 3), round(high, 3)) == (0.026, 0.507)
    # Of rows that neither model ever fails, the width is that of Wilson's interval.
    assert newcombe(Counts(60, 0, 0, 0))[0] == pytest.approx(wilson(60, 60)[0] - 1)
    assert newcombe(Counts(30, 5, 2, 3)) == pytest.approx(
        tuple(-x for x in reversed(newcombe(Counts(30, 2, 5, 3))))
    )


def test_answers_that_are_alike_make_newcombes_interval_narrower():
    # Worked by hand: both shares are 1/2, each Wilson side is d, and φ = (30·30 - 60/2) / 30².
    low, high = newcombe(Counts(30, 0, 0, 30))
    d, phi = 0.5 - wilson(30, 60)[0], 870 / 900
    assert (low, high) == pytest.approx((-d * (2 - 2 * phi) ** 0.5, d * (2 - 2 * phi) ** 0.5))
    # Without a correlation it is the widest that these shares have.
    assert high < newcombe(Counts(15, 15, 15, 15))[1] == pytest.approx(d * 2**0.5)


def test_a_patient_with_many_rows_widens_the_interval_beyond_that_of_as_many_patients():
    pairs = Pairs([1] * 40, [0] * 20 + [1] * 20, ["one"] * 20 + list(range(20)))
    low, high = newcombe(pairs.counts.times(21 / 40))
    assert pairs.interval()[0] < low - 0.02 and pairs.interval()[1] > high + 0.02


def test_no_draw_at_all_beyond_the_tolerance_is_no_certainty():
    """The p-value of draws is never 0, and the larger of the two counts."""
    many = Pairs([1] * 200, [0] * 200, [row // 2 for row in range(200)])
    assert many.p_worse(0.1) == pytest.approx(1 / (paired.DRAWS + 1))
    few = Pairs([1] * 12, [0] * 12, [row // 3 for row in range(12)])
    assert few.p_worse(0.1) > 5 / (paired.DRAWS + 1)


def test_the_test_is_mcnemars_and_scipys_permutation_test():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(6, 0) == pytest.approx(2 / 64)
    for lost, gained in ((6, 0), (5, 2), (3, 9), (0, 0)):
        net = [-1] * lost + [1] * gained + [0] * 4
        n = lost + gained
        expected = binomtest(lost, n, alternative="greater").pvalue if n else 1.0
        assert p_fewer(net) == pytest.approx(expected)
    rng = np.random.default_rng()
    for _ in range(5):
        net = rng.integers(-4, 4, 9)
        expected = permutation_test(
            (net,), np.sum, permutation_type="samples", alternative="less", n_resamples=np.inf
        )
        assert p_fewer(net) == pytest.approx(expected.pvalue), net


def test_rows_are_counted_by_what_both_models_made_of_them():
    pairs = Pairs([1, 1, 0, 0, 1], [1, 0, 1, 0, 0], ["a", "a", "b", "b", "a"])
    assert pairs.counts == Counts(1, 2, 1, 1)
    assert pairs.counts.change == pytest.approx(-0.2)
    assert pairs.net.tolist() == [-2, 1] and pairs.sizes.tolist() == [3, 2] and pairs.clustered
    assert not Pairs([1, 0], [1, 1]).clustered
    for lists in (([], []), ([1], [1, 0]), ([1], [0], ["a", "b"])):
        with refusal(ValueError, "answers", "patients"):
            Pairs(*lists)


def test_rows_of_one_patient_are_worth_less_than_as_many_patients():
    before, after = [1] * 60, [1] * 48 + [0] * 12
    alone = Pairs(before, after)
    of_two = Pairs(before, after, [min(row, 48) for row in range(60)])
    assert of_two.p_worse() == 0.5 > alone.p_worse()
    low, high = of_two.interval()
    assert low < alone.interval()[0] and high > alone.interval()[1]
    # One row a patient is no cluster, whatever the patients' names are.
    assert Pairs(before, after, [f"p{row}" for row in range(60)]).interval() == alone.interval()
    # Nothing changed in any row: the bootstrap knows of no other world, Newcombe's does.
    still = Pairs([1] * 60, [1] * 60, [row // 2 for row in range(60)])
    assert still.interval() == pytest.approx(newcombe(Counts(30, 0, 0, 0)))


def test_the_interval_and_the_p_value_agree_on_a_tolerance():
    pairs = Pairs([1] * 60, [1] * 52 + [0] * 8)
    for tolerance in (0.0, 0.02, 0.05, 0.3):
        p = pairs.p_worse(tolerance)
        if tolerance:
            assert (p < 0.025) == (pairs.interval()[1] < -tolerance), tolerance
    assert pairs.p_worse(0.02) < pairs.p_worse(0.05) < pairs.p_worse(0.3) == 1.0
    p = pairs.p_worse(0.05)
    assert newcombe(pairs.counts, 1 - 2 * p)[1] == pytest.approx(-0.05, abs=1e-6)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng, tries = np.random.default_rng(), 600
    for before, lost, gained, rows in (
        (0.95, 0.1, 0.3, 60),
        (0.99, 0.02, 0.0, 60),
        (0.6, 0.3, 0.2, 40),
    ):
        truth = (1 - before) * gained - before * lost
        hits = 0
        for _ in range(tries):
            low, high = drawn(rng, rows, before, lost, gained).interval(0.9)
            hits += low <= truth <= high
        # Newcombe found 88 % at worst for a nominal 90.
        assert within(hits, tries, 0.88), (before, lost, gained, hits / tries)


@pytest.mark.slow
def test_clustered_intervals_hold_the_truth_and_plain_ones_would_not():
    rng, tries, rows, patients = np.random.default_rng(), 250, 120, 30
    truth, hits, naive = 0.2 * 0.5 - 0.8 * 0.2, 0, 0
    for _ in range(tries):
        pairs = drawn(rng, rows, 0.8, 0.2, 0.5, patients, alike=0.9)
        low, high = pairs.interval(0.9)
        hits += low <= truth <= high
        low, high = newcombe(pairs.counts, 0.9)
        naive += low <= truth <= high
    assert within(hits, tries, 0.89), hits / tries
    assert naive / tries < 0.85, naive / tries


def test_the_tests_raise_no_more_false_alarms_than_they_say():
    rng, tries = np.random.default_rng(), 1500
    alone = sum(drawn(rng, 60, 0.5, 0.2, 0.2).p_worse() < 0.05 for _ in range(tries))
    assert within(tries - alone, tries, 0.95), alone / tries
    many = sum(
        drawn(rng, 60, 0.5, 0.2, 0.2, patients=20, alike=0.9).p_worse() < 0.05 for _ in range(tries)
    )
    assert within(tries - many, tries, 0.95), many / tries
    # A drop of exactly the tolerance is no failure, but for one in forty.
    edge = sum(drawn(rng, 150, 1.0, 0.1, 0.0).p_worse(0.1) < 0.025 for _ in range(400))
    assert within(400 - edge, 400, 0.965), edge / 400


def test_holm_corrects_step_by_step_and_bounds_the_errors_of_a_family():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
    rng = np.random.default_rng()
    p = norm.sf(rng.standard_normal((2000, 5)))
    wrong = sum(min(holm(row)) < 0.05 for row in p)
    assert within(2000 - wrong, 2000, 0.95), wrong / 2000


def test_the_smallest_drop_is_found_in_four_of_five_tries():
    assert smallest_drop(5) is None and smallest_drop(100, gained=0.5) is None
    drops = [smallest_drop(rows) for rows in (30, 60, 120, 300)]
    assert all(a > b for a, b in itertools.pairwise(drops))
    assert smallest_drop(60, gained=0.05) > smallest_drop(60)
    assert chance_to_see(0.0, 60) == 0.0
    rng, rows, gained, tries = np.random.default_rng(), 60, 0.05, 1000
    drop = smallest_drop(rows, gained)
    seen = 0
    for _ in range(tries):
        draws = rng.random(rows)
        net = np.where(draws < drop + gained, -1, np.where(draws < drop + 2 * gained, 1, 0))
        seen += p_fewer(net) <= 0.025
    assert seen / tries == pytest.approx(0.8, abs=0.055)


def test_many_patients_are_drawn_in_parts(monkeypatch):
    rng = np.random.default_rng(3)
    pairs = drawn(rng, 80, patients=25)
    whole = pairs.interval()
    again = Pairs(pairs.before, pairs.after, pairs.patient.tolist())
    monkeypatch.setattr(paired, "BATCH", 25 * 100)
    assert again.interval() == pytest.approx(whole, abs=0.02)


def test_several_rows_of_one_patient_are_one_draw():
    """Nothing can be drawn anew, and one patient tells little: the interval is wide."""
    pairs = Pairs([True] * 6, [True] * 4 + [False] * 2, ["Ada"] * 6)
    low, high = pairs.interval()
    assert low < pairs.counts.change < high and high - low > 1
    assert 0 <= pairs.p_worse() <= 1

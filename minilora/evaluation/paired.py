"""Paired statistics: two models on the same rows, and what so many rows can tell.

Both models answer each row, so a row says something only where one of them is right and the other
wrong: the test counts these (McNemar 1947). Several rows of one patient rise and fall together, so
they count as one draw (Miller 2024, arXiv 2411.00640, section 2.2): then patients are drawn again
in the bootstrap, and patients change sides in the test.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 4999
"""Draws of the bootstrap."""
BATCH = 2_000_000
"""Patients drawn at a time, so that many rows need no more memory than some."""


@dataclass(frozen=True)
class Counts:
    """Rows by what both models made of them; fractions of a row are allowed.

    both: right before and after. lost: right before alone. gained: right after alone.
    """

    both: float
    lost: float
    gained: float
    neither: float

    @property
    def of(self) -> float:
        """All rows."""
        return self.both + self.lost + self.gained + self.neither

    @property
    def change(self) -> float:
        """Share right after less share right before, between -1 and 1."""
        return (self.gained - self.lost) / self.of

    def times(self, factor: float) -> Counts:
        """The same shares of `factor` times as many rows."""
        return Counts(*(factor * x for x in (self.both, self.lost, self.gained, self.neither)))


class Pairs:
    """What two models made of the same n rows, and which rows are one patient's.

    before, after (n,): whether the answer was right. patients (n,): equal values for rows that
    belong together; None where each row stands alone. patient (n,): the same, numbered from 0.
    Raises ValueError for no row, or lengths that differ.
    """

    def __init__(
        self,
        before: Sequence[bool],
        after: Sequence[bool],
        patients: Sequence[Hashable] | None = None,
    ) -> None:
        self.before, self.after = np.asarray(before, bool), np.asarray(after, bool)
        patients = range(len(self.before)) if patients is None else patients
        lengths = len(self.before), len(self.after), len(patients)
        if len(set(lengths)) > 1 or not lengths[0]:
            raise ValueError(
                f"got {lengths[0]} answers before, {lengths[1]} after and {lengths[2]} patients, "
                "expected as many of each, and at least 1"
            )
        place = {patient: i for i, patient in enumerate(dict.fromkeys(patients))}
        self.patient = np.array([place[patient] for patient in patients])

    def __len__(self) -> int:
        return len(self.before)

    @functools.cached_property
    def counts(self) -> Counts:
        """The four counts of McNemar's table."""
        b, a = self.before, self.after
        return Counts(*(int(x.sum()) for x in (b & a, b & ~a, ~b & a, ~b & ~a)))

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """Rows of each patient."""
        return np.bincount(self.patient)

    @functools.cached_property
    def net(self) -> np.ndarray:
        """Rows that each patient gained, less those that they lost."""
        change = self.after.astype(int) - self.before
        return np.bincount(self.patient, change).astype(int)

    @property
    def clustered(self) -> bool:
        """Whether any patient has several rows."""
        return len(self.sizes) < len(self)

    @functools.cached_property
    def _draws(self) -> np.ndarray:
        """Sorted changes (DRAWS,) when patients are drawn anew, with their rows."""
        from scipy.stats import bootstrap

        if len(self.sizes) == 1:  # the same patient in every draw
            return np.array([self.counts.change])
        result = bootstrap(
            (self.net, self.sizes),
            lambda net, sizes, axis: net.sum(axis) / sizes.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=DRAWS,
            method="percentile",
            batch=max(1, BATCH // len(self.sizes)),
            rng=np.random.default_rng(0),
        )
        return np.sort(result.bootstrap_distribution)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Where the change lies with this confidence, (low, high).

        Newcombe's interval. With several rows a patient, the hull of the bootstrap's interval and
        of Newcombe's for as many rows as there are patients: the bootstrap alone would have no
        width where no answer changed, which is where a gate stands most of the time.
        """
        counts = self.counts
        if not self.clustered:
            return newcombe(counts, confidence)
        low, high = newcombe(counts.times(len(self.sizes) / len(self)), confidence)
        tail = (1 - confidence) / 2
        drawn = np.quantile(self._draws, [tail, 1 - tail])
        return min(low, float(drawn[0])), max(high, float(drawn[1]))

    def p_worse(self, tolerance: float = 0.0) -> float:
        """P-value against "the share fell by at most `tolerance`", one-sided.

        Without a tolerance it is exact (`p_fewer`). With one, 1 less the confidence at which the
        interval's upper end reaches -tolerance, halved as the other end is left open; 1 where not
        even the change itself is below.
        """
        if tolerance == 0:
            return p_fewer(self.net)
        if self.counts.change >= -tolerance:
            return 1.0
        if not self.clustered:
            return _newcombe_p(self.counts, tolerance)
        counts = self.counts.times(len(self.sizes) / len(self))
        drawn = (1 + int(np.sum(self._draws >= -tolerance))) / (DRAWS + 1)
        return max(_newcombe_p(counts, tolerance), drawn)


def p_fewer(net: Sequence[int]) -> float:
    """P-value against "neither model is better", one-sided: so few gained, by chance alone?

    net: rows gained less rows lost of each patient. Were the models equal, each patient's net could
    as well have the other sign; this is the share of all 2^n choices of signs whose sum is as low.
    Exact, by convolution: SciPy's `permutation_test` draws some of them. With one row a patient it
    is McNemar's exact test.
    """
    net = np.asarray(net, int)
    chances = np.ones(1)
    for size in np.abs(net[net != 0]):
        step = np.zeros(2 * size + 1)
        step[[0, -1]] = 0.5
        chances = np.convolve(chances, step)
    # chances[i] belongs to the sum i - most
    most = int(np.abs(net).sum())
    return min(1.0, float(chances[: int(net.sum()) + most + 1].sum()))


def mcnemar(lost: int, gained: int) -> float:
    """P-value against "neither model is better", two-sided: McNemar's exact test.

    Of the rows on which they differ, each is a toss of a coin. 1 where they differ on none.
    """
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def wilson(right: float, of: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927) for a share, (low, high); `right` may have fractions.

    (p + z²/2n ± z sqrt(p(1 - p)/n + z²/4n²)) / (1 + z²/n), p = right / n. The same as SciPy's
    `binomtest(...).proportion_ci(method="wilson")`, which takes no fractions of rows.
    Raises ValueError unless 0 <= right <= of.
    """
    if not (0 <= right <= of and of > 0):
        raise ValueError(f"got {right} right of {of} rows, expected 0 to all of at least 1")
    z = _normal(confidence)
    p = right / of
    middle, width = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + (z / (2 * of)) ** 2)
    low, high = ((middle + side * width) / (1 + z * z / of) for side in (-1, 1))
    # rounding must not leave out the share itself
    return max(0.0, min(low, p)), min(1.0, max(high, p))


def newcombe(counts: Counts, confidence: float = 0.95) -> tuple[float, float]:
    """Newcombe's interval for a change of paired shares, (low, high): his method 10.

    The two shares' Wilson intervals, put together as sides of a triangle whose angle is the
    correlation of the answers (Statistics in Medicine 17, 1998, 2635-2650). SciPy has none.
    """
    n = counts.of
    before, after = counts.both + counts.lost, counts.both + counts.gained
    b, a = before / n, after / n
    b_low, b_high = wilson(before, n, confidence)
    a_low, a_high = wilson(after, n, confidence)
    phi = _correlation(counts)

    def side(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))

    low = counts.change - side(a - a_low, b_high - b)
    high = counts.change + side(a_high - a, b - b_low)
    return max(-1.0, low), min(1.0, high)


def _correlation(counts: Counts) -> float:
    """Of the two models' answers, with Newcombe's correction; 0 where one model is constant."""
    n, before, after = counts.of, counts.both + counts.lost, counts.both + counts.gained
    spread = before * (n - before) * after * (n - after)
    if spread <= 0:
        return 0.0
    together = counts.both * counts.neither - counts.lost * counts.gained
    if together > 0:
        together = max(together - n / 2, 0.0)
    return together / math.sqrt(spread)


def _newcombe_p(counts: Counts, tolerance: float) -> float:
    """Half of 1 - confidence at which the upper end is -tolerance, of a change below that."""
    from scipy.optimize import brentq

    def gap(tail: float) -> float:
        return newcombe(counts, 1 - 2 * tail)[1] + tolerance

    smallest = 1e-12
    return smallest if gap(smallest) < 0 else float(brentq(gap, smallest, 0.5, xtol=1e-12))


def _normal(confidence: float) -> float:
    """z, so that a normal number lies within ±z with this confidence."""
    from scipy.special import ndtri

    return float(ndtri((1 + confidence) / 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, each made larger for being one of several, in their order (Holm 1979).

    The smallest times m, the next times m - 1, and none below one before it: whoever calls those
    below 0.05 real errs anywhere with a chance of at most 0.05. SciPy has only rates of false
    discoveries.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [1.0] * len(order), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def smallest_drop(
    rows: int, gained: float = 0.0, alpha: float = 0.025, power: float = 0.8
) -> float | None:
    """The smallest drop that so many rows show: the exact test finds it in `power` of all tries.

    gained: share of rows that the new model alone gets right, beside which more must be lost.
    alpha: of the one-sided test. None where even a fall from all to nothing would not be seen.
    """
    from scipy.optimize import brentq

    def gap(drop: float) -> float:
        return chance_to_see(drop, rows, gained, alpha) - power

    most = 1.0 - 2 * gained
    if most <= 0 or gap(most) < 0:
        return None
    return float(brentq(gap, 0.0, most, xtol=1e-6))


def chance_to_see(drop: float, rows: int, gained: float = 0.0, alpha: float = 0.025) -> float:
    """How often McNemar's exact one-sided test at `alpha` finds this drop of a share, 0 to 1.

    Of `rows` rows a share drop + gained is lost and a share `gained` is gained. Summed over the
    number m of rows that change: m is binomial, and lost among m is.
    """
    from scipy.stats import binom

    changing = drop + 2 * gained
    if changing <= 0:
        return 0.0
    m = np.arange(rows + 1)
    needed = binom.isf(alpha, m, 0.5) + 1  # the fewest lost that are too many for a coin
    seen = binom.sf(needed - 1, m, (drop + gained) / changing)
    return float(np.sum(binom.pmf(m, rows, min(1.0, changing)) * seen))

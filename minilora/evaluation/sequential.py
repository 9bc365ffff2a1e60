"""Sequential tests: evidence that may be looked at after every patient, and stopped by.

A bet against the hypothesis is fair, or loses, where the hypothesis is true; then the chance that
the stake ever grows to 1 / alpha times itself is at most alpha, however long one plays and whenever
one stops (Ville's inequality). So the stake is the evidence. The bets are those of Waudby-Smith and
Ramdas, "Estimating means of bounded random variables by betting" (JRSS B 86, 2024, section 4), one
for each of a grid of sizes, side by side: their mean is such a stake too.
"""

from __future__ import annotations

import math

import numpy as np

SIZES = np.linspace(0.02, 0.98, 49)
"""Shares of the stake that are risked at most, one player each."""


class Stakes:
    """Two stakes on the mean of numbers x in [-1, 1]: that it is above `margin`, and below.

    A player's stake is multiplied by 1 + λ(x - margin) each time, λ > 0 for "above" and λ < 0 for
    "below", with |λ| small enough that nothing falls below 0. Valid where each x has this mean
    given those before it; for rows of a file, where they come in an order that nothing depends on.
    Raises ValueError for a margin outside -1 < margin < 1.
    """

    def __init__(self, margin: float) -> None:
        if not -1 < margin < 1:
            raise ValueError(f"got margin {margin}, expected more than -1 and less than 1")
        self.margin, self.count = margin, 0
        self._above, self._below = np.zeros(len(SIZES)), np.zeros(len(SIZES))

    def add(self, x: float) -> None:
        """One number more. Raises ValueError for one outside [-1, 1]."""
        if not -1 <= x <= 1:
            raise ValueError(f"got {x}, expected a change between -1 and 1")
        gap = x - self.margin
        self._above += np.log1p(SIZES / (1 + self.margin) * gap)
        self._below += np.log1p(-SIZES / (1 - self.margin) * gap)
        self.count += 1

    @property
    def above(self) -> float:
        """Natural logarithm of the stake on a mean above the margin, 0 at the start."""
        return _log_mean(self._above)

    @property
    def below(self) -> float:
        """Natural logarithm of the stake on a mean below the margin, 0 at the start."""
        return _log_mean(self._below)


def _log_mean(logs: np.ndarray) -> float:
    most = float(logs.max())
    return most + math.log(float(np.exp(logs - most).mean()))

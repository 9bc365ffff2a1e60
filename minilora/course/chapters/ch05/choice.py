"""Exercise 5.3: the cheapest rank within the noise of the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge

EVEN, SKEWED, DIPPED = (-1.0, 0.0, 1.0), (-0.3, -0.3, 0.6), (-0.6, 0.3, 0.3)
"""Three seeds about their mean. The sample standard deviation of EVEN is 1."""


def _table(judge: Judge, noise: float, rows: Mapping[int, tuple]) -> dict[int, list[float]]:
    """Losses by rank from (mean above the best, spread, pattern), in units of the noise."""
    base = float(judge.rng.uniform(0.5, 0.7))
    return {
        r: [base + noise * (rows[r][0] + rows[r][1] * p) for p in judge.rng.permutation(rows[r][2])]
        for r in judge.rng.permutation(list(rows)).tolist()
    }


def check_cheapest_rank(fn: Callable, judge: Judge) -> None:
    best, worse = (0.0, 1.0, EVEN), (1.6, 1.0, EVEN)
    half, cases = (0.5, 1.0, EVEN), []
    tables = (  # each shows one mistake; the right answer is the second row's rank
        {8: best, 2: half, 32: (0.3, 1.0, EVEN), 1: worse},
        {16: best, 3: (0.9, 1.0, EVEN), 1: worse, 64: (0.9, 1.0, EVEN)},
        {12: best, 5: half, 4: (1.5, 4.0, SKEWED), 24: worse},
        {10: best, 6: half, 2: (2.0, 6.0, DIPPED), 20: worse},
        {14: best, 7: (0.7, 1.0, EVEN), 3: worse, 28: (6.0, 1.0, EVEN)},
        {18: best, 9: half, 3: worse, 1: (3.5, 1.0, EVEN), 36: (6.0, 5.0, EVEN)},
        {17: best, 4: half, 8: worse, 34: worse},
        {22: (0.0, 2.0, SKEWED), 11: half, 5: (1.12, 1.0, EVEN), 44: worse},
    )
    for ranks in tables:
        shift = int(judge.rng.integers(6))
        rows = {r + shift: row for r, row in ranks.items()}
        noise = float(judge.rng.uniform(0.02, 0.05))
        losses = _table(judge, noise, rows)
        got = judge.call(fn, losses=losses)
        others = _other_noises(losses) | _other_choices(losses)
        cases.append((f"the rank for {_told(losses)}", got, list(rows)[1], others))
    judge.numbers(cases)
    exact = {8: [0.5, 1.0, 1.5], 4: [1.25, 1.5, 1.75], 1: [3.0, 3.5, 4.0]}  # limit 1.5 = mean of 4
    judge.number(
        f"the rank for {_told(exact)}",
        judge.call(fn, losses=exact),
        4,
        instead={"a mean that is exactly at the limit is within it: at most, so <=.": 8.0},
    )


def _other_noises(losses: Mapping[int, Sequence[float]]) -> dict[str, int]:
    """What one answers who takes something else for the noise, by sentence."""
    mean = {r: float(np.mean(v)) for r, v in losses.items()}
    best = min(mean, key=mean.get)
    own = np.asarray(losses[best])
    noises = {
        "a standard deviation from a few seeds divides by n - 1: np.std(…, ddof=1).": own.std(),
        "you took the deviation of a mean; the noise is that of a single run, without the root of "
        "n.": own.std(ddof=1) / len(own) ** 0.5,
        "you took two standard deviations; the limit is one.": 2 * own.std(ddof=1),
        "you took the range, largest minus smallest; the noise is a standard deviation.": (
            own.max() - own.min()
        ),
        "you took the worst seed of the best rank for the limit; the noise is a standard "
        "deviation.": own.max() - mean[best],
        "you averaged the ranks' deviations; the noise is the best rank's own.": np.mean(
            [np.std(v, ddof=1) for v in losses.values()]
        ),
        "you took the spread of the ranks' means; the noise is that of the best rank's seeds.": (
            np.std(list(mean.values()), ddof=1)
        ),
        "you took the spread of all losses together, which holds what the ranks differ by; the "
        "noise is the best rank's own.": np.std([x for v in losses.values() for x in v], ddof=1),
    }
    return {
        text: min(r for r in losses if mean[r] <= mean[best] + float(noise))
        for text, noise in noises.items()
    }


def _other_choices(losses: Mapping[int, Sequence[float]]) -> dict[str, int]:
    """What one answers who chooses in another way, by sentence."""
    mean = {r: float(np.mean(v)) for r, v in losses.items()}
    lowest = {r: float(np.min(v)) for r, v in losses.items()}
    sample = {r: float(np.std(v, ddof=1)) for r, v in losses.items()}
    middle = {r: float(np.median(v)) for r, v in losses.items()}
    best, lucky = min(mean, key=mean.get), min(lowest, key=lowest.get)
    best_middle = min(middle, key=middle.get)
    limit = mean[best] + sample[best]
    return {
        "the best rank has the smallest mean, not the luckiest seed.": min(
            r for r in losses if mean[r] <= mean[lucky] + sample[lucky]
        ),
        "that is the best mean; a smaller rank is within its noise.": best,
        "that is within the noise, but the dearest of those; take the cheapest.": max(
            r for r in losses if mean[r] <= limit
        ),
        "you took each rank's own noise, so a rank is chosen for being unsteady; the yardstick "
        "is the noise of the best.": min(r for r in losses if mean[r] - sample[r] <= mean[best]),
        "you compared medians; the mean of the seeds is what was asked for.": min(
            r for r in losses if middle[r] <= min(middle.values()) + sample[best_middle]
        ),
        "you took the first that is within the noise; the ranks come in any order, so take the "
        "smallest.": next(r for r in losses if mean[r] <= limit),
        "you went down from the best and stopped at the first that is outside the noise; a smaller "
        "one may be within it again.": min(
            r for r in losses if all(mean[q] <= limit for q in losses if r <= q <= best)
        ),
        "that is the smallest rank of all, whatever its loss.": min(losses),
        "you compared lucky seeds; compare means.": min(
            r for r in losses if lowest[r] <= min(lowest.values()) + sample[best]
        ),
    }


def _told(losses: Mapping[int, Sequence[float]]) -> str:
    return "; ".join(f"{r}: {', '.join(f'{x:.3f}' for x in losses[r])}" for r in sorted(losses))


@exercise(
    "5.3",
    "The cheapest rank that is as good",
    minutes=8,
    difficulty=2,
    importance=3,
    check=check_cheapest_rank,
    statement=r"""
    `losses` maps a rank to its held-out losses, one for each seed. A lower loss by less than the
    seeds differ among themselves is no reason to pay for more rank. Write `cheapest_rank(losses)`:

    1. the *best* rank has the smallest mean loss;
    2. the *noise* is the standard deviation of the best rank's own losses, with $n - 1$ under the
       sum, because it is estimated from $n$ seeds;
    3. return the smallest rank whose mean is at most the best mean plus the noise.

    The ranks come in any order.
    """,
    hints=(
        "First a dict of means: {r: np.mean(values) for r, values in losses.items()}.",
        "best = min(means, key=means.get), and noise = np.std(losses[best], ddof=1).",
        "min(r for r in means if means[r] <= means[best] + noise).",
    ),
    wrong=(
        mistake(
            "the best mean",
            "that is the best mean",
            body="return min(losses, key=lambda r: np.mean(losses[r]))",
        ),
        mistake("the dearest", "dearest of those", change=("min(r for", "max(r for")),
        mistake("below the limit", "exactly at the limit", change=("<=", "<")),
        mistake(
            "deviation of a mean",
            "the deviation of a mean",
            change=("np.std(losses[best], ddof=1)", "np.std(losses[best], ddof=1) / 3**0.5"),
        ),
        mistake(
            "worst seed",
            "you took the worst seed",
            change=("np.std(losses[best], ddof=1)", "max(losses[best]) - means[best]"),
        ),
        mistake(
            "best seed",
            "not the luckiest seed",
            change=("min(means, key=means.get)", "min(losses, key=lambda r: min(losses[r]))"),
        ),
        mistake("n for n - 1", "divides by n - 1", change=(", ddof=1", "")),
        mistake(
            "all losses together",
            "spread of all losses",
            change=("np.std(losses[best], ddof=1)", "np.std(sum(losses.values(), []), ddof=1)"),
        ),
        mistake(
            "average noise",
            "you averaged",
            change=(
                "np.std(losses[best], ddof=1)",
                "np.mean([np.std(v, ddof=1) for v in losses.values()])",
            ),
        ),
        mistake(
            "own noise",
            "each rank's own noise",
            body="""
            means = {r: np.mean(values) for r, values in losses.items()}
            low = min(means.values())
            return min(r for r in means if means[r] <= low + np.std(losses[r], ddof=1))
            """,
        ),
        mistake("the first", "you took the first", change=("min(r for", "next(r for")),
        mistake(
            "downwards",
            "went down from the best",
            body="""
            means = {r: np.mean(values) for r, values in losses.items()}
            best = chosen = min(means, key=means.get)
            for r in sorted((r for r in means if r < best), reverse=True):
                if means[r] > means[best] + np.std(losses[best], ddof=1):
                    break
                chosen = r
            return chosen
            """,
        ),
        mistake(
            "lucky seeds",
            "you compared lucky seeds",
            body="""
            best = min(losses, key=lambda r: np.mean(losses[r]))
            limit = min(map(min, losses.values())) + np.std(losses[best], ddof=1)
            return min(r for r in losses if min(losses[r]) <= limit)
            """,
        ),
    ),
)
def cheapest_rank(losses: dict[int, list[float]]) -> int:
    """Smallest rank whose mean loss is within the best rank's seed noise of the best mean."""
    means = {r: np.mean(values) for r, values in losses.items()}
    best = min(means, key=means.get)
    noise = np.std(losses[best], ddof=1)
    return min(r for r in means if means[r] <= means[best] + noise)

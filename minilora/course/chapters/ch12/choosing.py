"""Exercise 12.5: the cheapest run that is as good as the best, chosen without a look at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge, Mistake

Runs = Sequence[Mapping]


def _picked(
    runs: Runs,
    rows: str = "choose",
    middle: Callable = np.mean,
    gate: bool = True,
    gated_best: bool = True,
    errors: float = 2,
    variance: Callable = lambda scores, left, top: scores.var(axis=1, ddof=1).mean(),
    of_both: Callable = lambda variance, seeds: (2 * variance / seeds) ** 0.5,
    take: Callable = lambda left, good, top, sizes: good[np.argmin(sizes[good])],
) -> int:
    """The rule, and with other arguments what mistakes pick in its place."""
    scores = np.array([run[rows] for run in runs])
    mean, every = middle(scores, axis=1), np.arange(len(runs))
    left = np.array([i for i in every if not (gate and runs[i]["breaks_base"])])
    top = max(left if gated_best else every, key=lambda i: mean[i])
    error = of_both(variance(scores, left, top), scores.shape[1])
    good = left[mean[left] >= mean[top] - errors * error]
    sizes = np.array([run["trained"] for run in runs])
    return int(take(left, good, top, sizes)) if len(good) else -1


MISTAKES = {
    "that was chosen by the rows that are to be reported; then their score is no longer honest. "
    'Choose by "choose".': {"rows": "report"},
    "that one breaks the base; throw such runs out first.": {"gate": False},
    "that is the best one; asked is the cheapest of those that are within two errors of it.": {
        "take": lambda left, good, top, sizes: top
    },
    "that is within two errors of the best of all runs, but the best breaks the base and is out; "
    "compare with the best of those that are left.": {"gated_best": False},
    "you allow one error; two are asked.": {"errors": 1},
    "the error of a difference of two means has a factor 2 under the root: both means scatter.": {
        "of_both": lambda variance, seeds: (variance / seeds) ** 0.5
    },
    "the error has n, the number of seeds, under the root: a mean of n scores scatters less than "
    "one score.": {"of_both": lambda variance, seeds: (2 * variance) ** 0.5},
    "under the root stands n, the number of seeds, not n - 1; that is for the variance.": {
        "of_both": lambda variance, seeds: (2 * variance / (seeds - 1)) ** 0.5
    },
    "the error is the root of 2 s^2 / n; the root is missing.": {
        "of_both": lambda variance, seeds: 2 * variance / seeds
    },
    "the variance of a few scores is divided by n - 1, not by n.": {
        "variance": lambda scores, left, top: scores.var(axis=1).mean()
    },
    "s^2 is the mean of the variances; you take the mean of their roots.": {
        "variance": lambda scores, left, top: scores.std(axis=1, ddof=1).mean() ** 2
    },
    "s^2 is the mean over all runs of the list, not the variance of the best run alone; three "
    "scores tell little of it.": {
        "variance": lambda scores, left, top: scores[top].var(ddof=1)
    },
    "s^2 is the mean over all runs of the list, those that are out too: they tell of the seeds as "
    "well as the others.": {
        "variance": lambda scores, left, top: scores[left].var(axis=1, ddof=1).mean()
    },
    "s^2 is the scatter of seeds, so it is taken in each run by itself; you take the variance of "
    "all scores together, in which the runs differ too.": {
        "variance": lambda scores, left, top: scores.var(ddof=1)
    },
    "compare means over the seeds, not medians.": {"middle": np.median},
    "compare means over the seeds, not the best seed of each run.": {"middle": np.max},
    "compare means over the seeds, not the worst seed of each run.": {"middle": np.min},
    "that is the cheapest of all that do not break the base, however bad; it has to be within two "
    "errors of the best.": {"errors": np.inf},
    "of several that train as few numbers, the first in the list is asked.": {
        "take": lambda left, good, top, sizes: good[::-1][np.argmin(sizes[good][::-1])]
    },
    "that is a place in the list of those that are left; asked is the place in `runs`.": {
        "take": lambda left, good, top, sizes: np.searchsorted(left, good[np.argmin(sizes[good])])
    },
    "that is a place in the list of those that are good enough; asked is the place in `runs`.": {
        "take": lambda left, good, top, sizes: np.argmin(sizes[good])
    },
}  # fmt: skip
"""Sentence -> the arguments with which `_picked` makes this mistake."""


def _runs(judge: Judge, seeds: int) -> list[dict]:
    """Runs whose scores rise with their size and then stay; a few break the base, some are equally
    large.
    """
    rng, count = judge.rng, 14
    sizes = 64 * rng.choice(np.arange(20, 900), count - 4, replace=False)
    sizes = np.sort([*sizes, *rng.choice(sizes, 4)])
    found = []
    for i, size in enumerate(sizes):
        true = 0.55 + 0.4 * (1 - np.exp(-i / 4)) + rng.normal(0, 0.01)
        scatter = rng.uniform(0.01, 0.05)
        found.append(
            {
                "trained": int(size),
                "choose": [float(x) for x in true + rng.normal(0, scatter, seeds)],
                "report": [float(x) for x in true + rng.normal(0, 0.05, seeds)],
                "breaks_base": bool(rng.random() < 0.3 or i == count - 2),
            }
        )
    return [found[i] for i in rng.permutation(count)]


def _tables(judge: Judge) -> list[list[dict]]:
    """Tables, ten or more, on which every mistake picks other runs than the rule and the others."""
    tables: list[list[dict]] = []
    answers: list[list[int]] = [[] for _ in range(1 + len(MISTAKES))]
    while len(tables) < 10 or len({tuple(own) for own in answers}) < len(answers):
        runs = _runs(judge, 3 + len(tables) % 2)
        if all(run["breaks_base"] for run in runs):
            continue
        here = [_picked(runs, **how) for how in ({}, *MISTAKES.values())]
        if -1 not in here:  # an answer that finds none would stop with an error
            tables.append(runs)
            answers = [[*own, one] for own, one in zip(answers, here, strict=True)]
    return tables


def check_picked(fn: Callable, judge: Judge) -> None:
    tables, got = _tables(judge), []
    for runs in tables:
        one = judge.call(fn, runs=runs)
        judge.true(
            not isinstance(one, Mapping), "return the run's number in the list, not the run itself."
        )
        number = judge.one("the run", one)
        judge.true(
            number in range(len(runs)), f"there are runs 0 to {len(runs) - 1}, yours is {number:g}."
        )
        got.append(int(number))
    right = [_picked(runs) for runs in tables]
    if got != right:
        for sentence, how in MISTAKES.items():
            if got == [_picked(runs, **how) for runs in tables]:
                raise Mistake(sentence)
    for runs, one, want in zip(tables, got, right, strict=True):
        size, least = runs[one]["trained"], runs[want]["trained"]
        first = " and before it in the list" if size == least else ""
        judge.true(
            one == want or not runs[one]["breaks_base"],
            f"run {one} breaks the base; throw such runs out first.",
        )
        judge.true(
            one == want or size < least,
            f"run {one} trains {size} numbers; run {want}, with {least}{first}, is within two "
            "errors of the best, and is asked.",
        )
        judge.true(
            one == want,
            f"run {one} is not within two errors of the best by its rows to choose by; run "
            f"{want} is the cheapest that is.",
        )


@exercise(
    "12.5",
    "Throw away what loses",
    minutes=15,
    difficulty=2,
    importance=2,
    check=check_picked,
    statement=r"""
    Each entry of the list `runs` is a dictionary: `"trained"` is how many numbers the adapter has,
    `"choose"` and `"report"` are lists of scores, one for each of $n$ seeds, on two different sets
    of rows, and `"breaks_base"` is whether the base's own tasks got worse beyond chance.

    Write `picked(runs)`, the number (0, 1, …) of the run to keep:

    1. Runs that break the base are out.
    2. Of the others, the best has the highest mean of `"choose"`.
    3. Seeds scatter. With $s^2$ the mean, over *all* runs of the list, of the variance of their
       `"choose"` (divide by $n-1$), the difference of two means has the standard error
       $s\sqrt{2/n}$. All runs that are not out and lie at most two of these errors below the best
       are good enough.
    4. Of the good enough ones, the one that trains the fewest numbers is kept; of several that
       train as few, the first in the list.
    """,
    hints=(
        "statistics.variance(values) divides by n - 1, as np.var(values, ddof=1) does.",
        "error = sqrt(mean of the variances * 2 / n). The line that a run must reach is the best "
        "mean of those that are left, less 2 * error.",
        "min(good, key=lambda i: runs[i]['trained']), where good is the list of numbers i of runs "
        "that do not break the base and whose mean is at least that line.",
    ),
    wrong=(
        mistake("reported rows", "no longer honest", change=('["choose"]', '["report"]')),
        mistake("no gate", "breaks the base", change=('if not run["breaks_base"]', "if True")),
        mistake(
            "the best",
            "asked is the cheapest",
            change=('key=lambda i: runs[i]["trained"]', "key=lambda i: -mean[i]"),
        ),
        mistake(
            "cheapest of all",
            "however bad",
            change=("mean[i] >= line", "mean[i] >= 0"),
        ),
        mistake("one error", "two are asked", change=("- 2 * error", "- error")),
        mistake(
            "one mean", "factor 2 under the root", change=("variance * 2 / len", "variance / len")
        ),
        mistake(
            "the run",
            "not the run itself",
            change=("return min(good,", "return runs[0] or min(good,"),
        ),
    ),
)
def picked(runs: list[dict]) -> int:
    """The number of the cheapest run within two standard errors of the best."""
    import statistics

    scores = [run["choose"] for run in runs]
    mean = [statistics.fmean(own) for own in scores]
    variance = statistics.fmean(statistics.variance(own) for own in scores)
    error = (variance * 2 / len(scores[0])) ** 0.5
    left = [i for i, run in enumerate(runs) if not run["breaks_base"]]
    line = max(mean[i] for i in left) - 2 * error
    good = [i for i in left if mean[i] >= line]
    return min(good, key=lambda i: runs[i]["trained"])

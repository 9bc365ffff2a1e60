"""Exercise 12.5: the cheapest run that is as good as the best, chosen without a look at the end."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge, Mistake

Runs = Sequence[Mapping]


def _picked(
    runs: Runs,
    rows: str = "choose",
    gate: bool = True,
    errors: float = 2,
    cheap: bool = True,
    gated_best: bool = True,
    pooled: bool = True,
    difference: bool = True,
) -> int | None:
    """The rule, and with other arguments what mistakes pick in its place."""
    left = [i for i, run in enumerate(runs) if not (gate and run["breaks_base"])]
    if not left:
        return None
    mean = {i: statistics.fmean(run[rows]) for i, run in enumerate(runs)}
    top = max(left if gated_best else range(len(runs)), key=lambda i: mean[i])
    variances = [statistics.variance(run[rows]) for run in runs]
    variance = statistics.fmean(variances) if pooled else variances[top]
    error = (variance * (2 if difference else 1) / len(runs[0][rows])) ** 0.5
    good = [i for i in left if mean[i] >= mean[top] - errors * error]
    if not good:
        return None
    return min(good, key=lambda i: runs[i]["trained"]) if cheap else top


def _others(runs: Runs) -> dict[str, int | None]:
    return {
        "that was chosen by the rows that are to be reported; then their score is no longer "
        "honest. Choose by \"choose\".": _picked(runs, rows="report"),
        "that one breaks the base; throw such runs out first.": _picked(runs, gate=False),
        "that is the best one; asked is the cheapest of those that are within two errors of it.": (
            _picked(runs, cheap=False)
        ),
        "that is within two errors of the best of all runs, but the best breaks the base and is "
        "out; compare with the best of those that are left.": _picked(runs, gated_best=False),
        "you allow one error; two are asked.": _picked(runs, errors=1),
        "the error of a difference of two means has a factor 2 under the root: both means "
        "scatter.": _picked(runs, difference=False),
        "that is the cheapest of all that do not break the base, however bad; it has to be within "
        "two errors of the best.": _picked(runs, errors=1e9),
    }  # fmt: skip


def _runs(judge: Judge, seeds: int) -> list[dict]:
    """Runs whose scores rise with their size and then stay, and a few that break the base."""
    rng, count = judge.rng, 14
    sizes = np.sort(rng.choice(np.arange(20, 900), count, replace=False)) * 64
    found = []
    for i, size in enumerate(sizes):
        true = 0.55 + 0.4 * (1 - np.exp(-i / 4)) + rng.normal(0, 0.01)
        found.append(
            {
                "trained": int(size),
                "choose": [float(x) for x in true + rng.normal(0, 0.03, seeds)],
                "report": [float(x) for x in true + rng.normal(0, 0.05, seeds)],
                "breaks_base": bool(rng.random() < 0.3 or i == count - 2),
            }
        )
    return [found[i] for i in rng.permutation(count)]


def _tables(judge: Judge) -> list[list[dict]]:
    """Tables on which every mistake picks other runs than the rule, and than any other mistake."""
    tables: list[list[dict]] = []
    answers = [[] for _ in range(1 + len(_others(_runs(judge, 3))))]
    while len({tuple(own) for own in answers}) < len(answers):
        runs = _runs(judge, 3 + len(tables) % 2)
        here = [_picked(runs), *_others(runs).values()]
        told_apart = {(tuple(own), one) for own, one in zip(answers, here, strict=True)}
        if None not in here and len(told_apart) > len({tuple(own) for own in answers}):
            answers = [[*own, one] for own, one in zip(answers, here, strict=True)]
            tables.append(runs)
    return tables


def check_picked(fn: Callable, judge: Judge) -> None:
    tables, got = _tables(judge), []
    for runs in tables:
        one = judge.call(fn, runs=runs)
        judge.true(
            not isinstance(one, Mapping), "return the run's number in the list, not the run itself."
        )
        got.append(int(judge.one("the run", one)))
        judge.true(
            -1 < got[-1] < len(runs), f"there are runs 0 to {len(runs) - 1}, yours is {got[-1]}."
        )
    right = [_picked(runs) for runs in tables]
    if got != right:
        for sentence in _others(tables[0]):
            if got == [_others(runs)[sentence] for runs in tables]:
                raise Mistake(sentence)
    for runs, one, want in zip(tables, got, right, strict=True):
        judge.true(
            one == want or not runs[one]["breaks_base"],
            "that one breaks the base; throw such runs out first.",
        )
        judge.true(
            one == want or runs[one]["trained"] <= runs[want]["trained"],
            f"run {one} trains {runs[one]['trained']} numbers, and run {want} with "
            f"{runs[want]['trained']} is within two errors of the best.",
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
    importance=3,
    check=check_picked,
    statement=r"""
    Each entry of the list `runs` is a dictionary: `"trained"` is how many numbers the adapter has,
    `"choose"` and `"report"` are lists of scores, one for each of $n$ seeds, on two different sets
    of rows, and `"breaks_base"` is whether the base's own tasks got worse.

    Write `picked(runs)`, the number (0, 1, …) of the run to keep:

    1. Runs that break the base are out.
    2. Of the others, the best has the highest mean of `"choose"`.
    3. Seeds scatter. With $s^2$ the mean, over *all* runs of the list, of the variance of their
       `"choose"` (divide by $n-1$), the difference of two means has the standard error
       $s\sqrt{2/n}$. All runs that are not out and lie at most two of these errors below the best
       are good enough.
    4. Of the good enough ones, the one that trains the fewest numbers is kept.
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

"""Exercise 11.3: which volumes are fair to every job."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_fairest(fn: Callable, judge: Judge) -> None:
    cases = []
    for of_table, level in ((True, 1.0), (False, 1.0), (False, 0.4), (False, 2.4)):
        scores, alone, best, instead = _table(judge, of_table, level)
        got = judge.call(fn, scores=scores, alone=alone)
        cases.append(("the setting", got, best, instead))
    judge.numbers(cases)


def _table(
    judge: Judge, of_table: bool, level: float
) -> tuple[np.ndarray, np.ndarray, int, dict[str, float]]:
    """Scores and what each job gets alone, where no mistake finds the right setting by luck.

    of_table: nor does who divides by the best score in the table, which is rarer. level: of the
    shares. At 0.4 every setting has a share below a half; at 2.4 several have none below 1, as
    where two jobs help each other. These two are for who cuts shares off, and for no other mistake.
    """
    while True:
        settings, jobs = judge.sizes(17, 3)
        alone = judge.rng.uniform(0.3, 0.95, jobs) / max(1, level)
        scores = level * judge.rng.uniform(0.05, 1.1, (settings, jobs)) * alone
        if of_table:  # merged, some jobs fare badly everywhere
            scores *= judge.rng.uniform(0.7, 1, jobs)
        shares = scores / alone
        worst = shares.min(axis=1)
        best = int(worst.argmax())
        instead = {
            "that has the best mean; ask for the job that fares worst.": shares.mean(1).argmax(),
            "that compares plain scores; a job that is hard alone is not the merging's fault. "
            "Divide by `alone`.": scores.min(1).argmax(),
            "that has the best single share; ask for the job that fares worst.": shares.max(
                1
            ).argmax(),
            "that subtracts what each job gets alone; a share divides by it.": (scores - alone)
            .min(1)
            .argmax(),
            "that has the best product of shares; ask for the job that fares worst.": shares.prod(
                1
            ).argmax(),
            "that is the setting whose worst job fares worst.": worst.argmin(),
            "that is the job whose worst share is the largest; the minimum goes over the jobs of a "
            "setting, axis 1.": shares.min(0).argmax(),
            "settings are counted from 0.": best + 1,
            "that is the share itself; return which row it is.": worst.max(),
        }
        cut_off = {
            "small shares are no longer told apart; take them as they are.": np.maximum(
                shares, 0.5
            ),
            "large shares are no longer told apart; take them as they are.": np.minimum(
                shares, 0.5
            ),
            "shares above 1 are no longer told apart. A job may gain from the other adapter; take "
            "the shares as they are.": np.minimum(shares, 1),
        }
        cut = {why: int(found.min(axis=1).argmax()) for why, found in cut_off.items()}
        best_of_table = int((scores / scores.max(0)).min(1).argmax())
        if level == 1:
            shows = len({best, *instead.values()}) == len(instead) + 1
            shows &= best_of_table != best or not of_table
        else:
            small, *large = cut.values()
            shows = best != small if level < 1 else len({best, *large}) == 3
        if shows:
            instead[
                "that divides by the best score of each job in the table; divide by `alone`."
            ] = best_of_table
            return scores, alone, best, {k: float(v) for k, v in (instead | cut).items()}


@exercise(
    "11.3",
    "Fair volumes",
    minutes=8,
    difficulty=2,
    importance=2,
    check=check_fairest,
    statement=r"""
    `scores` (settings, jobs) holds what each job gets at each setting of the volumes, and `alone`
    (jobs,) what its own adapter gets when it is the only one. A job's *share* is score / alone, so
    that a job which is hard anyway is not counted against the merging.

    Write `fairest(scores, alone)`: the number (0, 1, …) of the setting in which the job that fares
    worst has the largest share.
    """,
    hints=(
        "shares = scores / alone divides every row by the same scores of the adapters alone.",
        "The worst share of each setting is the smallest in its row: shares.min(axis=1).",
        "np.argmax tells where the largest of them is; int() makes it a plain number.",
    ),
    wrong=(
        mistake("mean", "the best mean", change=(".min(axis=1)", ".mean(axis=1)")),
        mistake("plain scores", "Divide by `alone`", change=("scores / alone", "scores")),
        mistake("worst of worst", "worst job fares worst", change=("np.argmax", "np.argmin")),
        mistake(
            "value", "return which row", change=("int(np.argmax(worst))", "float(worst.max())")
        ),
        mistake(
            "differences", "subtracts what each job", change=("scores / alone", "scores - alone")
        ),
        mistake(
            "best of the table",
            "best score of each job in the table",
            change=("scores / alone", "scores / scores.max(axis=0)"),
        ),
        mistake(
            "at least a half",
            "small shares",
            change=("(scores / alone)", "np.maximum(scores / alone, 0.5)"),
        ),
        mistake(
            "at most a half",
            "large shares",
            change=("(scores / alone)", "np.minimum(scores / alone, 0.5)"),
        ),
        mistake(
            "at most 1",
            "above 1",
            change=("(scores / alone)", "np.clip(scores / alone, 0, 1)"),
        ),
        mistake("wrong axis", "goes over the jobs", change=("axis=1", "axis=0")),
        mistake(
            "from 1",
            "counted from 0",
            change=("int(np.argmax(worst))", "int(np.argmax(worst)) + 1"),
        ),
        mistake(
            "by job",
            "expected one number",
            body="return np.argmax(scores / alone, axis=0)",
        ),
    ),
)
def fairest(scores: np.ndarray, alone: np.ndarray) -> int:
    """Which row of scores has the largest least share of what each job gets alone."""
    worst = (scores / alone).min(axis=1)
    return int(np.argmax(worst))

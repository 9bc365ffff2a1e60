"""Exercises 6.4 and 6.5: whether a curve has levelled off, and whether a gain beats the noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge

CURVES = (  # losses, window, tolerance, verdict, what a wrong verdict means
    ((4.0, 2.0, 1.5, 1.2, 1.0, 0.8), 2, 0.1, False,
     "a curve that still falls by a third was called level"),
    ((4.0, 2.0, 1.02, 1.0, 0.99, 0.985), 2, 0.05, True,
     "a curve that fell by 2 % of its best was not called level"),
    ((0.40, 0.20, 0.12, 0.10, 0.085, 0.07), 2, 0.1, False,
     "the tolerance is a share of the best loss, not a difference of losses"),
    ((4.0, 2.0, 1.0, 0.7, 0.6, 0.98), 3, 0.1, False,
     "the best of the whole window counts, and you looked at the last value"),
    ((4.0, 2.0, 1.0, 0.95, 0.905), 2, 0.1, True,
     "the tolerance is a share of the best loss before the window, not of the one in it"),
    ((4.0, 2.0, 0.9, 1.4, 1.0, 0.89), 2, 0.05, True,
     "compare with the best value before the window, and not with the one just before it"),
    ((3.0, 1.0, 1.3, 1.6), 2, 0.05, True,
     "a loss that only rises has not improved; that is level for us"),
    ((4.0, 2.0, 1.0, 1.3, 0.8, 1.2), 3, 0.1, False,
     "the best of the window counts, not its mean"),
    ((4.0, 2.0, 1.0, 0.8, 0.79), 1, 0.05, True,
     "the last `window` losses are one part, and all others the other"),
    ((4.0, 2.0, 1.5), 1, 0.25, False,
     "an improvement by exactly the tolerance is one: less than, not at most"),
    ((30.0, 29.0), 2, 0.1, False,
     "a curve that is no longer than the window has shown nothing yet: False"),
    ((2.0,), 3, 0.1, False,
     "a curve that is shorter than the window has shown nothing yet: False"),
)  # fmt: skip


def check_plateaued(fn: Callable, judge: Judge) -> None:
    scale = int(judge.rng.integers(922, 1127)) / 1024  # a product with it rounds nothing off
    for losses, window, tolerance, verdict, sentence in CURVES:
        longer = len(losses) > window  # then worse losses before all others change nothing
        worse = np.sort(judge.rng.uniform(40.0, 50.0, int(judge.rng.integers(4)) * longer))[::-1]
        scaled = [scale * x for x in (*worse, *losses)]
        got = judge.call(fn, losses=scaled, window=window, tolerance=tolerance)
        judge.true(isinstance(got, (bool, np.bool_)), f"return True or False, yours is {got!r}.")
        told = ", ".join(f"{x:.3g}" for x in scaled)
        if len(scaled) > window:
            told += f"; b = {min(scaled[:-window]):.3g}, n = {min(scaled[-window:]):.3g}"
        judge.true(
            bool(got) == verdict,
            f"{sentence} (losses {told}; window {window}, tolerance {tolerance}).",
        )


@exercise(
    "6.4",
    "Has it levelled off?",
    minutes=10,
    difficulty=2,
    importance=2,
    check=check_plateaued,
    statement=r"""
    `losses` are held-out losses in the order of training. Let $b$ be the best of all but the last
    `window`, and $n$ the best of the last `window`. Write `plateaued(losses, window, tolerance)`:
    `True` where

    $$b - n < \text{tolerance} \cdot b ,$$

    and `False` where there are no more than `window` losses, for then nothing is known.
    """,
    hints=(
        "The two parts are losses[:-window] and losses[-window:].",
        "The best of a part is its min. First deal with a curve that is too short.",
        "return min(losses[:-window]) - min(losses[-window:]) < tolerance * min(losses[:-window])",
    ),
    wrong=(
        mistake(
            "absolute", "not a difference of losses", change=("tolerance * before", "tolerance")
        ),
        mistake(
            "share of the new best",
            "not of the one in it",
            change=("tolerance * before", "tolerance * now"),
        ),
        mistake("reversed", "falls by a third", change=("before - now", "now - before")),
        mistake(
            "last value",
            "you looked at the last value",
            change=("min(losses[-window:])", "losses[-1]"),
        ),
        mistake(
            "value before",
            "not with the one just before it",
            change=("min(losses[:-window])", "losses[-window - 1]"),
        ),
        mistake(
            "size of the change",
            "a loss that only rises",
            change=("before - now <", "abs(before - now) <"),
        ),
        mistake("at most", "not at most", change=("before - now <", "before - now <=")),
        mistake(
            "mean of the window",
            "not its mean",
            change=("min(losses[-window:])", "sum(losses[-window:]) / window"),
        ),
        mistake("too short", "has shown nothing yet", change=("return False", "return True")),
    ),
)
def plateaued(losses: list[float], window: int, tolerance: float) -> bool:
    """Whether the last `window` losses improve on the best before by less than the tolerance."""
    if len(losses) <= window:
        return False
    before, now = min(losses[:-window]), min(losses[-window:])
    return before - now < tolerance * before


def check_gain(fn: Callable, judge: Judge) -> None:
    for (n, m), worse in (
        (judge.sizes(3, 5), 1.0),
        (judge.sizes(4, 3), 2.6),
    ):  # the second wide is worse than lean
        lean = 2 + 0.3 * judge.rng.random(n)
        wide = worse + 0.2 * judge.rng.random(m)
        gain = lean.mean() - wide.mean()

        def over(ddof=1, root=True, share=True, n=n, m=m, lean=lean, wide=wide):
            a, b = lean.var(ddof=ddof), wide.var(ddof=ddof)
            square = a / n + b / m if share else a + b
            return square**0.5 if root else square

        pooled = ((n - 1) * lean.var(ddof=1) + (m - 1) * wide.var(ddof=1)) / (n + m - 2)
        judge.number(
            "the gain over the noise",
            judge.call(fn, lean=lean, wide=wide),
            gain / over(),
            factors={"a gain is lean minus wide, for a loss that falls": -1.0},
            instead={
                "so few seeds: divide the squares by n - 1 (ddof=1), or the noise looks "
                "smaller than it is.": gain / over(ddof=0),
                "that pools the two variances into one, as if both arms scattered alike; each "
                "keeps its own here, over its own number of runs.": (
                    gain / np.sqrt(pooled * (1 / n + 1 / m))
                ),
                "the squares of both noises are added, and the root is taken of their sum.": gain
                / (lean.std(ddof=1) / n**0.5 + wide.std(ddof=1) / m**0.5),
                "the runs of both arms in one heap scatter by the gain itself, too; take each "
                "arm's own variance.": gain
                / np.sqrt(np.concatenate([lean, wide]).var(ddof=1) * (1 / n + 1 / m)),
                "that compares medians; the noise is that of means.": (
                    float(np.median(lean) - np.median(wide)) / over()
                ),
                "that is a difference in units of one run's spread (Cohen's d); divide each "
                "variance by its number of runs.": gain / np.sqrt(pooled),
                "the root over the variances is missing.": gain / over(root=False),
                "a mean is steadier than one run: divide each variance by its number of runs.": (
                    gain / over(share=False)
                ),
                "that compares the best runs, and the luckiest seed wins.": (
                    lean.min() - wide.min()
                )
                / over(),
                "spreads do not add up; their squares do, each over its number of runs.": gain
                / (lean.std(ddof=1) + wide.std(ddof=1)),
                "each variance goes over the number of its own arm's runs, not of all.": gain
                / np.sqrt((lean.var(ddof=1) + wide.var(ddof=1)) / (n + m)),
                "that is the spread of lean alone; both means scatter.": gain / lean.std(ddof=1),
                "that is the noise of lean's mean alone; wide's scatters too.": gain
                / (lean.std(ddof=1) / n**0.5),
                "that is the gain alone; divide it by the noise.": gain,
            }
            | ({"where wide is worse the gain is negative.": -gain / over()} if gain < 0 else {}),
        )


@exercise(
    "6.5",
    "A gain and its noise",
    minutes=10,
    difficulty=2,
    importance=2,
    check=check_gain,
    statement=r"""
    `lean` and `wide` are arrays of held-out losses, one a seed; their lengths may differ. Write
    `gain_over_noise(lean, wide)`: how much lower the mean of `wide` is, in units of what chance
    does to the difference of two means,

    $$\begin{gathered}
    \frac{\bar\ell_{\text{lean}} - \bar\ell_{\text{wide}}} {\sqrt{s_{\text{lean}}^2 /
    n_{\text{lean}} + s_{\text{wide}}^2 / n_{\text{wide}}}} , \\[4pt]
    s^2 = \frac{1}{n - 1} \sum_i (\ell_i - \bar\ell)^2 .
    \end{gathered}$$
    """,
    hints=(
        "np.var(lean, ddof=1) is s^2 with n - 1 below.",
        "The noise is the root of the sum of the two variances, each over its number of runs.",
        "(lean.mean() - wide.mean()) / np.sqrt(lean.var(ddof=1) / len(lean) + "
        "wide.var(ddof=1) / len(wide))",
    ),
    wrong=(
        mistake(
            "sign",
            "lean minus wide",
            change=("lean.mean() - wide.mean()", "wide.mean() - lean.mean()"),
        ),
        mistake(
            "ddof",
            "n - 1 (ddof=1)",
            change=(
                "lean.var(ddof=1) / len(lean) + wide.var(ddof=1) / len(wide)",
                "lean.var() / len(lean) + wide.var() / len(wide)",
            ),
        ),
        mistake(
            "no sign",
            "where wide is worse",
            change=("(lean.mean() - wide.mean())", "abs(lean.mean() - wide.mean())"),
        ),
        mistake("no root", "the root over", change=("np.sqrt(noise)", "noise")),
        mistake(
            "spread of runs",
            "a mean is steadier",
            change=(
                "lean.var(ddof=1) / len(lean) + wide.var(ddof=1) / len(wide)",
                "lean.var(ddof=1) + wide.var(ddof=1)",
            ),
        ),
        mistake(
            "best runs",
            "luckiest seed",
            change=("lean.mean() - wide.mean()", "lean.min() - wide.min()"),
        ),
        mistake(
            "pooled",
            "as if both arms scattered alike",
            body="""
            n, m = len(lean), len(wide)
            pooled = ((n - 1) * lean.var(ddof=1) + (m - 1) * wide.var(ddof=1)) / (n + m - 2)
            return float((lean.mean() - wide.mean()) / np.sqrt(pooled * (1 / n + 1 / m)))
            """,
        ),
        mistake("gain alone", "divide it by the noise", change=(" / np.sqrt(noise)", "")),
    ),
)
def gain_over_noise(lean: np.ndarray, wide: np.ndarray) -> float:
    """Difference of the means over its standard error."""
    noise = lean.var(ddof=1) / len(lean) + wide.var(ddof=1) / len(wide)
    return float((lean.mean() - wide.mean()) / np.sqrt(noise))

"""Exercise 9.5: the threshold above which a note is for nobody."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def _right(losses: np.ndarray, place: np.ndarray, t: float) -> int:
    """How many notes come to their place with this threshold."""
    sent = np.where(losses.min(axis=1) <= t, losses.argmin(axis=1), -1)
    return int((sent == place).sum())


def _notes(judge: Judge, sure: int, strange: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses (N, K) and places of notes whose best threshold lies just above the sure ones.

    Beyond it are notes that the wrong ward wants, a few that the right one does, and strangers.
    """
    K, uniform = 4, judge.rng.uniform
    right = [*uniform(0.2, 1.1, sure), *uniform(1.4, 1.6, 2)]
    wrong = [*uniform(1.3, 1.7, 8), *uniform(2.75, 2.9, 2)]
    nobody = [*uniform(1.2, 1.28, 3), *uniform(1.8, 2.7, strange)]
    lowest = np.array([*right, *wrong, *nobody])
    nearest = judge.rng.integers(K, size=len(lowest))
    place = nearest.copy()
    place[len(right) :] = (nearest[len(right) :] + 1) % K
    place[len(right) + len(wrong) :] = -1
    losses = 3.0 + np.abs(judge.normal(len(lowest), K))
    losses[np.arange(len(lowest)), nearest] = lowest
    order = judge.rng.permutation(len(lowest))
    return losses[order], place[order]


def check_threshold(fn: Callable, judge: Judge) -> None:
    for like in ((14, 11), (17, 9), (20, 10)):
        sure, strange = judge.sizes(*like)
        losses, place = _notes(judge, sure, strange)
        t = judge.one("the threshold", judge.call(fn, losses=losses, place=place))
        lowest, argmin = losses.min(axis=1), losses.argmin(axis=1)
        cuts = [-1.0, *lowest.tolist()]
        scores = [_right(losses, place, cut) for cut in cuts]
        best, got = max(scores), _right(losses, place, t)
        if got == best:
            judge.true(True, "")
            continue
        ward = place >= 0
        split = max(cuts, key=lambda cut: int(((lowest <= cut) == ward).sum()))
        middle = (lowest[ward].mean() + lowest[~ward].mean()) / 2
        correct = lowest[argmin == place]
        for known_t, sentence in (
            (lowest[ward].max(), "it is the largest loss of a ward's note, so every note of a ward "
             "gets through, and many a stranger with it"),
            (lowest[~ward].min(), "it is the smallest loss of a stranger, who "
             "gets through with it, for a loss of t is at most t"),
            (middle, "it lies midway between two means, which is right only where both spread "
             "alike"),
            (split, "it parts wards from strangers, but a note that goes to the wrong ward is no "
             "better than a stranger: count where each is sent"),
            (correct.max(), "it is the largest loss of a note that is "
             "sent to its place"),
        ):  # fmt: skip
            judge.true(
                not np.isclose(t, known_t),
                f"with your threshold {got} of {len(place)} notes come to their place, with the "
                f"best {best}: {sentence}.",
            )
        judge.true(
            False,
            f"with your threshold {t:.4g}, {got} of {len(place)} notes come to their place; "
            f"another brings {best} there. Try every lowest loss as a threshold and count.",
        )
    strangers = np.abs(judge.normal(*judge.sizes(9, 4))) + 1.0
    nobody = np.full(len(strangers), -1)
    t = judge.one("the threshold", judge.call(fn, losses=strangers, place=nobody))
    through = int((strangers.min(axis=1) <= t).sum())
    judge.true(
        through == 0,
        f"of {len(nobody)} notes that all belong to none, {through} got through. Sometimes the "
        "best threshold lies below every loss; try such a one too.",
    )


@exercise(
    "9.5",
    "None of these",
    minutes=12,
    difficulty=2,
    importance=2,
    check=check_threshold,
    statement=r"""
    `losses` (N, K) holds how surprised each of K adapters is by each of N notes, and `place` (N,)
    where each note belongs: the number of an adapter, or `-1` for none. A note goes to the adapter
    with the lowest loss, if that loss is at most $t$, and else to none.

    Write `choose_threshold(losses, place)` and return the $t$ with which most notes come to their
    place. (These notes are for choosing. What the router is worth is counted on others.)
    """,
    hints=(
        "Only a note's lowest loss is compared with t, so only those values make a difference.",
        "For one t: sent = np.where(losses.min(axis=1) <= t, losses.argmin(axis=1), -1), and "
        "(sent == place).sum() notes are right.",
        "Try every lowest loss as t, and one below all, and keep the best: max(..., key=…).",
    ),
    wrong=(
        mistake(
            "midway",
            "midway between two means",
            body="""
            lowest, ward = losses.min(axis=1), place >= 0
            return (lowest[ward].mean() + lowest[~ward].mean()) / 2
            """,
        ),
        mistake(
            "all wards",
            "every note of a ward gets through",
            body="""
            return losses.min(axis=1)[place >= 0].max()
            """,
        ),
        mistake(
            "parts only",
            "a note that goes to the wrong ward",
            body="""
            lowest, ward = losses.min(axis=1), place >= 0
            return max(lowest, key=lambda t: ((lowest <= t) == ward).sum())
            """,
        ),
        mistake(
            "none below all",
            "lies below every loss",
            change=("[lowest.min() - 1, *lowest]", "[*lowest]"),
        ),
        mistake("the worst", "Try every lowest loss", change=("max(cuts", "min(cuts")),
    ),
)
def choose_threshold(losses: np.ndarray, place: np.ndarray) -> float:
    """The loss above which a note is for none, so that most notes come to their place."""
    lowest, nearest = losses.min(axis=1), losses.argmin(axis=1)
    cuts = [lowest.min() - 1, *lowest]
    return max(cuts, key=lambda t: (np.where(lowest <= t, nearest, -1) == place).sum())

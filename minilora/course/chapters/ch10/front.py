"""Exercise 10.4: which settings are worth a look when two scores count."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge, Mistake

Points = Sequence[tuple[float, float]]


def _beaten(points: Points, i: int, strict_both: bool = False, ties: bool = False) -> bool:
    """Whether another point is at least as good in both scores, and better in one."""
    for j, (a, b) in enumerate(points):
        x, y = points[i]
        if j == i:
            continue
        if strict_both:
            if a > x and b > y:
                return True
        elif ties:
            if a >= x and b >= y:
                return True
        elif a >= x and b >= y and (a > x or b > y):
            return True
    return False


def _points(judge: Judge, count: int) -> list[tuple[float, float]]:
    """Points along a falling curve and below it, with a double, and ties in either score."""
    x = np.sort(0.2 + 0.7 * judge.rng.random(count))
    y = np.sqrt(1 - x * x)
    points = list(zip(x, y, strict=True))
    points += [(a * 0.8, b * 0.7) for a, b in points[1:-1]]
    points.append(points[count // 2])  # the same pair twice
    # equal to the last, or the first, in its best score, and beaten by it alone
    points.append((points[count - 1][0], points[count - 1][1] - 0.1))
    points.append((points[0][0] - 0.05, points[0][1]))
    points.append((points[1][0] * 0.4, points[1][1] * 0.4))  # beaten by one that is beaten
    return [tuple(map(float, points[i])) for i in judge.rng.permutation(len(points))]


def check_front(fn: Callable, judge: Judge) -> None:
    for like in (5, 8):
        points = _points(judge, *judge.sizes(like))
        got = judge.call(fn, points=points)
        judge.true(
            isinstance(got, (list, tuple, set, np.ndarray)),
            "return a list of places, such as [0, 3, 4].",
        )
        found = [int(i) for i in np.asarray(list(got)).ravel() if np.ndim(i) == 0]
        judge.true(
            all(isinstance(i, (int, np.integer)) for i in got),
            "return places (whole numbers from 0 on), not the points themselves.",
        )
        everyone = range(len(points))
        want = {i for i in everyone if not _beaten(points, i)}
        one_of_two = {i for i in everyone if not _beaten(points, i, ties=True)}
        first = {max(everyone, key=lambda i: points[i][k]) for k in (0, 1)}
        sums = {max(everyone, key=lambda i: sum(points[i]))}
        for sentence, other in (
            ("a point that is equal in one score and worse in the other is beaten; you ask for "
             "better in both.", {i for i in everyone if not _beaten(points, i, True)}),
            ("the same pair stands there twice, and neither beats the other; both stay.",
             one_of_two),
            ("those are the beaten ones; asked are the others.", set(everyone) - want),
            ("only the best of each score is there; what lies between them may be unbeaten.",
             first),
            ("only the largest sum is there; whether a point of one score is worth one of the "
             "other is not known.", sums),
            ("better is larger, in both scores.",
             {i for i in everyone if not _beaten([(-a, -b) for a, b in points], i)}),
            ("only the first of two equal pairs is there; both stay.",
             {i for i in want if points.index(points[i]) == i}),
        ):  # fmt: skip
            if set(found) == other and other != want:
                raise Mistake(sentence)
        for i in everyone:
            x, y = points[i]
            judge.true(
                (i in found) == (i in want),
                f"the point ({x:.2f}, {y:.2f}) is "
                + ("unbeaten, and missing." if i in want else "beaten, and in your list."),
            )
        judge.true(len(found) == len(want), "a place stands in your list twice.")
    judge.true(list(judge.call(fn, points=[(0.5, 0.5)])) == [0], "a single point is unbeaten.")


@exercise(
    "10.4",
    "What is worth a look",
    minutes=10,
    difficulty=2,
    importance=2,
    check=check_front,
    statement=r"""
    Every setting of a dial gives two scores, and of both more is better: `points` is a list of
    pairs. A setting is *beaten* where some other is at least as good in both scores, and better in
    one of them. Nobody needs a beaten setting; which of the others is best depends on what the two
    scores are worth to you. Write `front(points)` and return the list of the places (0, 1, …) of
    all that are not beaten, in any order. Two equal pairs do not beat each other.
    """,
    hints=(
        "Compare each point with each other one: two loops, or any(...) inside a list.",
        "q beats p where q[0] >= p[0] and q[1] >= p[1] and q != p.",
        "[i for i, p in enumerate(points) if not any(q[0] >= p[0] and q[1] >= p[1] and q != p for "
        "q in points)]",
    ),
    wrong=(
        mistake(
            "better in both",
            "equal in one score",
            change=("q[0] >= p[0] and q[1] >= p[1] and q != p", "q[0] > p[0] and q[1] > p[1]"),
        ),
        mistake(
            "doubles lost",
            "stands there twice",
            body="""
            return [
                i
                for i, p in enumerate(points)
                if not any(
                    q[0] >= p[0] and q[1] >= p[1] for j, q in enumerate(points) if j != i
                )
            ]
            """,
        ),
        mistake("the beaten", "those are the beaten ones", change=("if not any(", "if any(")),
        mistake(
            "best of each",
            "best of each score",
            body="""
            places = range(len(points))
            return list({max(places, key=lambda i: points[i][k]) for k in (0, 1)})
            """,
        ),
        mistake(
            "points",
            "return places",
            change=("i\n        for i, p", "p\n        for i, p"),
        ),
        mistake(
            "smaller",
            "better is larger",
            change=("q[0] >= p[0] and q[1] >= p[1]", "q[0] <= p[0] and q[1] <= p[1]"),
        ),
    ),
)
def front(points: list[tuple[float, float]]) -> list[int]:
    """The places of the points that no other one beats."""
    return [
        i
        for i, p in enumerate(points)
        if not any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)
    ]

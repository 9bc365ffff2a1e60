"""Exercise 8.5: the fewest directions that are enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge, Mistake


def _fewest(losses: Mapping[int, float], limit: float) -> int | None:
    return min((d for d, loss in losses.items() if loss <= limit), default=None)


def _readings(before: float, full: float, losses: Mapping[int, float]) -> dict[str, int | None]:
    """Sentence -> what a function of that mistake returns; the right one has no sentence."""
    limit = before - 0.9 * (before - full)
    reached = [d for d, loss in losses.items() if loss <= limit]
    order = list(losses)
    right = min(reached, default=None)
    place = order.index(right) if reached else None
    return {
        "": right,
        "that asks for a tenth of the loss before; full training does not reach 0 either. What it "
        "takes off is before - full.": _fewest(losses, 0.1 * before),
        "that asks for a loss at most a tenth above full training's; asked is what is taken off.": (
            _fewest(losses, 1.1 * full)
        ),
        "a tenth taken off is not nine tenths.": _fewest(losses, before - 0.1 * (before - full)),
        "those are the most directions that are enough; asked are the fewest.": (
            max(reached, default=None)
        ),
        "the dictionary is in no order; look at all of its d, not only up to the first that is "
        "enough.": reached[0] if reached else None,
        "that is a place in the list; return d itself.": place,
        "that is a loss; return d.": losses[right] if reached else None,
        "that is the d of the lowest loss; fewer may be enough.": min(losses, key=losses.get),
    }


def check_d90(fn: Callable, judge: Judge) -> None:
    cases, tried = [], np.array([30, 100, 300, 1000, 3000, 10000, 30000])
    for full, middle, before in ((0.3, 100, 3.0), (1.1, 2500, 2.4), (0.02, 60, 5.0), (0.4, 4e6, 3)):
        middle = middle * (1 + 0.2 * judge.rng.random())
        full = full * (1 + 0.2 * judge.rng.random())
        falls = 1 / (1 + (tried / middle) ** 1.2)
        losses = full + (before - full) * falls
        # In the first the first that is enough is neither the fewest nor the most.
        order = judge.rng.permutation(len(tried)) if cases else [4, 6, 0, 5, 3, 1, 2]
        inputs = (before, full, {int(tried[i]): float(losses[i]) for i in order})
        got = judge.call(lambda *given: (fn(*given),), before=before, full=full, losses=inputs[2])
        cases.append((inputs, got[0], _readings(*inputs)))
    nearly, exactly, beyond = (int(x) for x in np.cumsum(judge.rng.integers(5, 500, 3)))
    losses = {beyond: 1.5, exactly: 2.0, nearly: 2.0625}  # of 10 taken off: 9.5, 9 and 8.9
    got = judge.call(lambda *given: (fn(*given),), before=11.0, full=1.0, losses=losses)[0]
    edge = (11.0, 1.0, losses), got, _readings(11.0, 1.0, losses)
    cases.append(edge)
    said = [got for _, got, _ in cases]
    right = [readings[""] for *_, readings in cases]
    for sentence in cases[0][2]:
        if sentence and said != right and said == [readings[sentence] for *_, readings in cases]:
            raise Mistake(sentence)
    judge.true(
        said[:-1] != right[:-1] or got != beyond,
        "at least 90 % is asked: a d that takes off exactly 90 % is enough, <=, not <.",
    )
    for (before, full, losses), got, readings in cases:
        limit = before - 0.9 * (before - full)
        told = f"before {before:.3g}, fully trained {full:.3g}: the limit is {limit:.3g}"
        if readings[""] is None:
            judge.true(got is None, f"{told}, and no d reaches it; return None.")
        else:
            judge.true(
                isinstance(got, (int, np.integer)) and int(got) == readings[""],
                f"{told}, and {readings['']} is the smallest d of {sorted(losses)} that reaches "
                f"it; yours returned {got!r}.",
            )


@exercise(
    "8.5",
    "How few are enough?",
    minutes=8,
    difficulty=1,
    importance=2,
    check=check_d90,
    statement=r"""
    A model has the loss `before` without training, and `full` after all of its weights were
    trained. `losses` is a dictionary: number of directions d -> loss after training along d random
    directions. The dictionary is in no order. Full training takes off `before - full`. Write
    `d90(before, full, losses)`: the smallest d that takes off at least 90 % of that, or None where
    none of them does.
    """,
    hints=(
        "Which loss is just low enough? Start at `before` and take off 90 % of what full training "
        "takes off.",
        "limit = before - 0.9 * (before - full); collect the d whose loss is at most that.",
        "min((d for d, loss in losses.items() if loss <= limit), default=None)",
    ),
    wrong=(
        mistake(
            "tenth of before",
            "a tenth of the loss before",
            change=("before - 0.9 * (before - full)", "0.1 * before"),
        ),
        mistake(
            "near full",
            "a tenth above full",
            change=("before - 0.9 * (before - full)", "1.1 * full"),
        ),
        mistake("strict", "exactly 90 % is enough", change=("loss <= limit", "loss < limit")),
        mistake(
            "first found",
            "in no order",
            change=("min(enough, default=None)", "enough[0] if enough else None"),
        ),
        mistake(
            "most", "asked are the fewest", change=("min(enough", "max(enough")
        ),
        mistake(
            "one tenth",
            "a tenth taken off",
            change=("0.9 * (before", "0.1 * (before"),
        ),
    ),
)  # fmt: skip
def d90(before: float, full: float, losses: dict[int, float]) -> int | None:
    """The fewest directions that take off 90 % of what full training takes off the loss."""
    limit = before - 0.9 * (before - full)
    enough = [d for d, loss in losses.items() if loss <= limit]
    return min(enough, default=None)

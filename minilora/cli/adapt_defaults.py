"""What `minilora adapt` does where it is not told: batch, steps, learning rate, rows to judge.

A token of SmolLM2-135M costs a hundred times a token of ward-base, so what a run may cost is
counted in parameters times tokens. On 2 cores 7e12 of training take about two and a half minutes.
"""

from __future__ import annotations

from collections.abc import Sequence

from minilora.training import Example

PASSES, FEWEST_STEPS, MOST_STEPS = 3, 50, 1000
BATCH, SMALL_BATCH = 16, 4
LR_TIMES_WIDTH, HIGHEST_LR = 1.92, 0.015
TRAINING_COST = 7e12
"""Parameters times tokens that a run trains on at most, unless the fewest steps take more."""
JUDGING_COST = 3e12
"""Parameters times tokens of held-out examples up to which all of them are judged."""
JUDGED = 50
"""Held-out examples that are judged where all would cost more."""
WATCHED = 32
"""Held-out examples whose loss is taken during the run, at most."""
WATCHED_SHARE = 50
"""One watched for this many trained on: ten times in a run, reading costs a third of a step."""


def mean_length(examples: Sequence[Example]) -> float:
    """Tokens of an example."""
    return sum(map(len, examples)) / len(examples)


def default_batch(parameters: int, examples: Sequence[Example]) -> int:
    """16 examples a step, or 4 where the fewest steps of 16 cost more than a run may."""
    cost = parameters * mean_length(examples) * BATCH * FEWEST_STEPS
    return SMALL_BATCH if cost > TRAINING_COST else BATCH


def default_steps(parameters: int, examples: Sequence[Example], batch_size: int) -> int:
    """Three passes within 50 and 1,000 steps, as far as the cost of a run allows."""
    passes = PASSES * -(-len(examples) // batch_size)
    affordable = int(TRAINING_COST / (parameters * mean_length(examples) * batch_size))
    return max(FEWEST_STEPS, min(passes, MOST_STEPS, affordable))


def default_lr(width: int) -> float:
    """1.92 / width, at most 0.015: measured at widths 128 and 576."""
    return min(round(LR_TIMES_WIDTH / width, 5), HIGHEST_LR)


def judged_rows(parameters: int, held_out: Sequence[Example], asked: int | None) -> int:
    """How many of the held-out examples are judged: as asked, else all, or 50 of many.

    Raises ValueError for fewer than one.
    """
    if asked is not None:
        if asked < 1:
            raise ValueError(f"got --eval-rows {asked}, expected at least 1")
        return min(asked, len(held_out))
    cost = parameters * sum(map(len, held_out))
    return len(held_out) if cost <= JUDGING_COST else min(JUDGED, len(held_out))


def watched_rows(steps: int, batch_size: int) -> int:
    """How many of the judged examples are watched during the run."""
    return max(1, min(WATCHED, steps * batch_size // WATCHED_SHARE))

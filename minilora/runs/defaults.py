"""What a plan leaves open: targets, batch, steps, rate, rows to judge.

A token of SmolLM2-135M costs a hundred times a token of ward-base, so what a run may cost is
counted in parameters times tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from minilora.lora import ALL_LINEAR
from minilora.text import Example
from minilora.text.packed import lengths

PASSES, FEWEST_STEPS, MOST_STEPS = 3, 50, 1000
BATCH, SMALL_BATCH = 16, 2
"""Few tokens teach more in many small steps. SmolLM2, r 8 on all-linear, rate 0.002: 105 steps of 2
notes made 94 of 100 validation notes exact; 50 steps of 4 made 38 of 50 held-out ones exact. Fewer
steps of 2, and 100 other notes: 90 at 0.002 88 exact, 90 at 0.0025 91, 95 at 0.003 91, 106 at 0.002
94; and of 100 more notes 98 at 0.0025 made 87 exact, and 106 at 0.002 96."""
BIG_WIDTH = 512
"""From here on a base is big: it takes few steps, so every layer learns in each of them."""
TARGETS, BIG_TARGETS = ("q_proj", "v_proj"), ALL_LINEAR
LR_TIMES_WIDTH, BIG_LR_TIMES_WIDTH, HIGHEST_LR = 1.92, 1.152, 0.015
FROZEN_A_TIMES, VERA_TIMES, PISSA_TIMES = 8, 8, 0.5
"""The rates of LoRA-FA, VeRA and PiSSA in units of LoRA's: the best on a grid of factor 2, at width
128 (data/variants: 0.128, 0.128 to 0.256, and 0.008 beside 0.016)."""
TRAINING_COST = 5.97e12
"""Parameters times tokens that a run trains on at most, unless the fewest steps take more."""
JUDGING_COST = 1e12
"""Parameters times tokens of held-out examples up to which all of them are judged: more would take
minutes, before and after together."""
JUDGED = 24
"""Held-out examples that are judged where all would cost more."""
LEAST_WATCHED, WATCHED = 2, 32
"""Held-out examples whose loss is taken during the run, at least and at most."""
WATCHED_SHARE = 100
"""One watched for this many trained on."""
FEWEST_WATCHINGS, WATCHINGS, EXAMPLES_A_WATCHING = 3, 10, 60
"""How often they are read in a run: ten times, or less often in a run on few examples."""
LOSS_COST, LOSS_ROWS = 1e12, 4
"""As JUDGING_COST and JUDGED, for the loss before and after, where answers are scored as well."""


def mean_length(examples: Sequence[Example]) -> float:
    """Tokens of an example."""
    return float(lengths(examples).mean())


def default_batch(parameters: int, examples: Sequence[Example]) -> int:
    """16 examples a step, or 2 where the fewest steps of 16 cost more than a run may."""
    cost = parameters * mean_length(examples) * BATCH * FEWEST_STEPS
    return SMALL_BATCH if cost > TRAINING_COST else BATCH


def default_steps(parameters: int, examples: Sequence[Example], batch_size: int) -> int:
    """Three passes within 50 and 1,000 steps, as far as the cost of a run allows."""
    passes = PASSES * -(-len(examples) // batch_size)
    affordable = int(TRAINING_COST / (parameters * mean_length(examples) * batch_size))
    return max(FEWEST_STEPS, min(passes, MOST_STEPS, affordable))


def default_targets(width: int) -> tuple[str, ...] | str:
    """q_proj and v_proj, the paper's, or all-linear on a big base."""
    return BIG_TARGETS if width >= BIG_WIDTH else TARGETS


def default_lr(
    width: int, *, freeze_a: bool = False, vera: bool = False, pissa: bool = False
) -> float:
    """LoRA's rate is 1.92 / width, at most 0.015, and 1.152 / width on a big base.

    LoRA-FA's, VeRA's and PiSSA's are FROZEN_A_TIMES, VERA_TIMES and PISSA_TIMES of it.

    The first was measured at width 128 on q and v (0.015); the second at width 576 on all-linear
    (0.002: 55 steps of 4 notes made 19 of 20 validation notes exact; 0.0033, 58 steps, 36 of 50).
    """
    times = BIG_LR_TIMES_WIDTH if width >= BIG_WIDTH else LR_TIMES_WIDTH
    way = VERA_TIMES if vera else FROZEN_A_TIMES if freeze_a else PISSA_TIMES if pissa else 1
    return min(round(times / width, 5), HIGHEST_LR) * way


def judged_rows(parameters: int, held_out: Sequence[Example], asked: int | None) -> int:
    """How many of the held-out examples are judged: as asked, else all, or JUDGED of many.

    Raises ValueError for fewer than one.
    """
    if asked is not None:
        if asked < 1:
            raise ValueError(f"got --eval-rows {asked}, expected at least 1")
        return min(asked, len(held_out))
    cost = parameters * int(lengths(held_out).sum())
    return len(held_out) if cost <= JUDGING_COST else min(JUDGED, len(held_out))


def suite_rows(parameters: int, tokens: int, rows: int, by_default: bool) -> int:
    """How many of a suite's rows a gate asks after a run: all of a user's, half of the ward's.

    tokens: of all prompts with their answers. JUDGED of many where all would take minutes.
    """
    if parameters * tokens > JUDGING_COST:
        return min(rows, JUDGED)
    return -(-rows // 2) if by_default else rows


def watched_rows(steps: int, batch_size: int) -> int:
    """How many of the judged examples are watched during the run."""
    return max(LEAST_WATCHED, min(WATCHED, steps * batch_size // WATCHED_SHARE))


def watchings(steps: int, batch_size: int) -> int:
    """How often in a run the watched examples are read."""
    times = steps * batch_size // EXAMPLES_A_WATCHING
    return max(FEWEST_WATCHINGS, min(WATCHINGS, times))


def loss_rows(parameters: int, judged: Sequence[Example]) -> int:
    """How many of the judged examples have their loss taken: all, or LOSS_ROWS of many."""
    cost = parameters * int(lengths(judged).sum())
    return len(judged) if cost <= LOSS_COST else min(LOSS_ROWS, len(judged))

"""Deciding: what is trained on and judged, and every number that a plan left open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from minilora.nn import Transformer, bytes_by_format
from minilora.runs import defaults
from minilora.runs.data import SMALLEST_TO_SPLIT, File, split
from minilora.runs.plan import Plan
from minilora.runs.replay import Replay
from minilora.text.packed import PackedExamples
from minilora.text.rows import row_number
from minilora.training import TrainingConfig

CHECKPOINTS = 10
"""How many a run writes."""


@dataclass(frozen=True)
class Decided:
    """The data of a run, and every number that was left to be chosen.

    held_out: those that are judged, the first of `held_out_of`. size: the base's parameters.
    train: with `replayed` rows of the replay among them.
    """

    training: TrainingConfig
    batch_size: int
    train: PackedExamples
    held_out: PackedExamples
    held_out_of: int
    size: int
    data: File
    eval_data: File | None
    replay: Replay | None = None
    replayed: int = 0

    def replay_about(self) -> dict:
        """What settings and provenance say of the replay."""
        replay = self.replay
        about = {"share": replay.share, "rows": self.replayed, "of": replay.source}
        return {**about, "sha256": replay.sha256}

    @property
    def lines(self) -> float:
        """Lines of the eval file that are judged, from its first on; infinite for all of them."""
        if len(self.held_out) == self.held_out_of:
            return math.inf
        return row_number(self.held_out[-1].source)

    @property
    def judged_on(self) -> str:
        """In words, what the evaluation is taken on."""
        judged, of = len(self.held_out), self.held_out_of
        if self.eval_data:
            name = self.eval_data.path.name
            return name if judged == of else f"the first {judged} of {of} examples of {name}"
        if judged:
            count = f"{judged}" if judged == of else f"{judged} of {of}"
            return f"{count} examples of {self.data.path.name} held out (a tenth)"
        return f"nothing: fewer than {SMALLEST_TO_SPLIT} examples, too few to hold some out"


def decide(
    plan: Plan,
    model: Transformer,
    data: File,
    eval_data: File | None = None,
    eval_rows: int | None = None,
    replay: Replay | None = None,
    loraplus_lr_ratio: float = 1.0,
    way: Mapping[str, bool] | None = None,
) -> Decided:
    """Split the data where nothing else is judged on, and choose what the plan leaves open.

    eval_rows: how many examples are judged, None for what `defaults` says. replay: what is
    trained on beside the examples that are not held out. loraplus_lr_ratio: as in TrainingConfig.
    way: of `defaults.default_lr`, what else is trained than A and B as they are drawn.
    """
    if eval_data is None:
        train, held_out = split(data.examples, plan.seed)
    else:
        train, held_out = data.examples, eval_data.examples
    own = len(train)
    if replay is not None:
        train = replay.mixed(train, plan.seed)
    size = sum(count for count, _ in bytes_by_format(model).values())
    batch_size, steps, lr = plan.batch_size, plan.steps, plan.lr
    if batch_size is None:
        batch_size = defaults.default_batch(size, train)
    if steps is None:
        steps = defaults.default_steps(size, train, batch_size)
    if lr is None:
        lr = defaults.default_lr(model.config.hidden_size, **(way or {}))
    watchings = defaults.watchings(steps, batch_size)
    training = TrainingConfig(
        steps=steps,
        lr=lr,
        warmup=min(20, steps // 10),
        workers=plan.workers,
        seed=plan.seed,
        eval_every=max(1, steps // watchings) if held_out else 0,
        checkpoint_every=max(1, steps // CHECKPOINTS),
        loraplus_lr_ratio=loraplus_lr_ratio,
    )
    judged = defaults.judged_rows(size, held_out, eval_rows)
    return Decided(
        training, batch_size, train, held_out[:judged], len(held_out), size, data, eval_data,
        replay, len(train) - own,
    )  # fmt: skip

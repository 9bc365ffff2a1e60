"""One run of a sweep, in whatever process: it trains an adapter and says how it answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from minilora.backend import blas_threads
from minilora.evaluation.cases import read_cases
from minilora.evaluation.variants import Variant, score_variant, with_room
from minilora.hub.bases import open_base
from minilora.lora import Adapter, attach
from minilora.nn import Transformer
from minilora.runs.adapt import AdaptPlan, AdaptResult
from minilora.runs.driver import run
from minilora.runs.folder import RunHeldError
from minilora.runs.sweep.file import Point
from minilora.text import Tokenizer
from minilora.training.checkpoint import checkpoints

HELD_SECONDS = 600
"""How long a run waits for another process that is at it."""
JUDGED = ("choose", "report", "suite")


def run_point(point: Point) -> dict:
    """Train and judge; JSON-ready: by file, whether each row is right, and what it cost.

    One BLAS thread: the sweep has a process for each core. A run that was killed goes on from its
    last checkpoint, to the same adapter. Raises what `runs.run` raises.
    """
    plan = point.plan()
    with blas_threads(1):
        result = _run_when_free(plan)
        model, tokenizer = open_base(point.base, plan.base_dtype, plan.device)
        attach(model, Adapter.read(point.out))
        return {
            "right": judged(model, tokenizer, point.files),
            "trained": result.sizes.trained,
            "seconds": round(result.seconds["training"], 3),
            "loss": result.history[-1]["loss"],
        }


def _run_when_free(plan: AdaptPlan) -> AdaptResult:
    """Run, or go on from a checkpoint; a process of a killed sweep may still be at this run."""
    until = time.monotonic() + HELD_SECONDS
    while True:
        left = plan.folder.is_running() and checkpoints(plan.folder.checkpoints)
        try:
            return run(replace(plan, resume=bool(left)))
        except RunHeldError:
            if time.monotonic() > until:
                raise
        time.sleep(0.5)


def judged(
    model: Transformer, tokenizer: Tokenizer, files: Mapping[str, Path]
) -> dict[str, list[bool]]:
    """File's name -> whether the answer to each of its rows is exact."""
    limit = model.config.max_position_embeddings
    right = {}
    for name in JUDGED:
        if name in files:
            asked = Variant(name)
            cases, room, problems = with_room(
                read_cases(files[name]).cases, [asked], tokenizer, limit
            )
            if problems:
                raise ValueError(f"{problems[0]}")
            outputs = score_variant(model, tokenizer, cases, asked, room).outputs
            pairs = zip(cases, outputs, strict=True)
            right[name] = [case.expected.strip() == output for case, output in pairs]
    return right

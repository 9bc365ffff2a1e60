"""fit_several: activated adapters trained side by side, over one reading of each batch's prompts.

What comes before the invocation is the base's for all of them. So a sweep of ranks, rates, targets
or seeds costs one reading of the prompts and one pass over the answers for each adapter.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from tqdm import tqdm

from minilora.backend import blas_threads, to_floats
from minilora.lora.activated import ActivatedLinear
from minilora.lora.adapter import Adapter
from minilora.lora.base import BaseMark, mark_base
from minilora.lora.config import LoRAConfig
from minilora.lora.fitting import attachable
from minilora.nn import NotFiniteError, Transformer, quiet_overflow
from minilora.nn.freeze import Freeze
from minilora.training.adamw import adamw_for
from minilora.training.batches import Batches
from minilora.training.config import TrainingConfig
from minilora.training.history import History
from minilora.training.made_by import thread_count, worker_count
from minilora.training.parallel import Piece, Workers, piece_loss, read_prompts, seed_dropout
from minilora.training.prompts import kept_prompts
from minilora.training.step import DivergedError, Steps

OWN = (
    "lr", "final_lr", "schedule", "warmup", "betas", "weight_decay", "clip_norm",
    "loraplus_lr_ratio",
)  # fmt: skip
"""What each adapter may have for itself; the other settings say which pieces are read when."""


@dataclass(frozen=True)
class Candidate:
    """An adapter to be trained. seed: of its A and of nothing else."""

    lora: LoRAConfig
    training: TrainingConfig
    seed: int = 0


@dataclass(frozen=True)
class Fitted:
    """What became of a candidate."""

    adapter: Adapter
    history: History


class _Worn:
    """The layers of several adapters, of which the model wears one at a time."""

    def __init__(self, model: Transformer, candidates: Mapping[str, Candidate]) -> None:
        self.model, self.layers = model, {}
        self.linears: dict = {}
        for name, one in candidates.items():
            rng, chosen = np.random.default_rng(one.seed), attachable(model, one.lora)
            self.linears |= chosen
            self.layers[name] = {
                module: ActivatedLinear(linear, one.lora.at(module), rng)
                for module, linear in chosen.items()
            }
        self.freeze = Freeze(model)

    def wear(self, name: str | None) -> None:
        """Put this adapter's layers on the model, None for the base's own."""
        own = {} if name is None else self.layers[name]
        for module, linear in self.linears.items():
            self.model.set_submodule(module, own.get(module, linear))

    def take_off(self) -> None:
        """Give the base back as it was."""
        self.wear(None)
        self.freeze.release()
        self.freeze.restore_modes()


def fit_several(
    model: Transformer,
    batches: Batches,
    candidates: Mapping[str, Candidate],
    *,
    base: BaseMark | None = None,
    progress: bool = True,
    label: str = "training",
) -> dict[str, Fitted]:
    """Train an activated adapter for each candidate; name -> the adapter and its history.

    Each is what `attach` and `fit` make of it alone, bit for bit. The model is a plain one, and
    plain again afterwards. base: its mark where that is known. Raises ValueError for no candidate,
    a plain adapter, other invocations or other settings than OWN that differ, and what `attach` and
    `fit` raise; DivergedError names the adapter.
    """
    _check(candidates)
    config, lora = (getattr(next(iter(candidates.values())), n) for n in ("training", "lora"))
    worn, steps = _Worn(model, candidates), {}
    try:
        for name, one in candidates.items():
            worn.wear(name)
            model.train()
            optimizer = adamw_for(model, one.training)
            steps[name] = Steps(batches, one.training, optimizer, lora.invocation)
        histories = _train(worn, steps, config, lora.invocation, progress, label)
    finally:
        worn.take_off()
    base = mark_base(model, "") if base is None else base
    return {
        name: Fitted(
            Adapter(
                one.lora,
                {m: (x.lora_A.data, x.lora_B.data) for m, x in worn.layers[name].items()},
                base=base,
            ),
            histories[name],
        )
        for name, one in candidates.items()
    }


def _train(
    worn: _Worn,
    steps: Mapping[str, Steps],
    config: TrainingConfig,
    invocation: tuple[int, ...],
    progress: bool,
    label: str,
) -> dict[str, History]:
    model, batches = worn.model, next(iter(steps.values())).batches
    workers = worker_count(model, config)
    kept = kept_prompts(model, batches, config.steps, invocation, config.prompt_bytes)
    read = read_prompts if kept is None else kept.read
    histories = {name: History() for name in steps}

    def accumulate(pieces: Sequence[Piece], normalizer: float) -> np.ndarray:
        losses = []
        for piece in pieces:
            past = read(model, piece)
            for name in steps:
                worn.wear(name)
                seed_dropout(model, piece.seed)
                loss = piece_loss(model, piece, normalizer, past)
                loss.backward()
                losses.append(loss.data)
        rows = to_floats(losses)  # a device is waited for once
        return np.array([sum(rows[i :: len(steps)]) for i in range(len(steps))])

    parameters = [p for one in steps.values() for p in one.optimizer.parameters.values()]
    first = next(iter(steps.values()))
    bar = tqdm(total=config.steps, desc=label, unit="step", disable=not progress)
    pool = Workers(model, workers, accumulate, parameters)
    with quiet_overflow(), blas_threads(thread_count(model, workers)), pool, bar:
        for step in range(config.steps):
            began = time.perf_counter()
            batch, pieces = first.cut(step, workers)
            losses = pool.gradients(pieces, float(batch.tokens))
            for (name, one), loss in zip(steps.items(), losses, strict=True):
                try:
                    record = one.update(step, batch, pieces, float(loss), began)
                    if step + 1 == config.steps:
                        one.require_finite_state(step)
                except NotFiniteError as error:
                    raise DivergedError(f"{name}: {error}") from error
                histories[name].add(record)
            bar.update()
    return histories


def _check(candidates: Mapping[str, Candidate]) -> None:
    if not candidates:
        raise ValueError("fit_several got no candidate, expected at least one")
    shared = [f.name for f in fields(TrainingConfig) if f.name not in OWN]
    first_name, first = next(iter(candidates.items()))
    for name, one in candidates.items():
        if one.lora.invocation is None or one.lora.invocation != first.lora.invocation:
            raise ValueError(
                f"{name}: got invocation {one.lora.invocation}, expected activated adapters with "
                f"one invocation ({first_name} has {first.lora.invocation}): they share what comes "
                "before it"
            )
        for key in shared:
            got, expected = getattr(one.training, key), getattr(first.training, key)
            if got != expected:
                raise ValueError(f"{name}: got {key} {got}, expected {expected} as {first_name}")
        if one.training.eval_every or one.training.checkpoint_every:
            raise ValueError(
                f"{name}: got eval_every {one.training.eval_every} and checkpoint_every "
                f"{one.training.checkpoint_every}, expected 0: fit_several writes no run"
            )

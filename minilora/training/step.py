"""One step of training: the gradient of a batch, clipped, and the update made from it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from minilora.autograd import IGNORE
from minilora.backend import get_array_module, to_floats
from minilora.nn import NotFiniteError
from minilora.nn.rows import rows_of
from minilora.training.batches import Batch, Batches
from minilora.training.config import TrainingConfig
from minilora.training.optim import Optimizer, clip_grad_norm_, schedule
from minilora.training.parallel import PIECE_TOKENS, Piece, Workers
from minilora.training.prompts import answer_spans, cut_pieces_a_worker, split_at_invocation


class DivergedError(NotFiniteError):
    """In training the loss, the gradient or a weight stopped being a finite number."""


def pieces_a_worker(positions: int, workers: int) -> int:
    """How many pieces each process makes of its share of a batch, to stay near PIECE_TOKENS."""
    return math.ceil(positions / (workers * PIECE_TOKENS))


def split_batch(batch: Batch, pieces: int, seed: tuple[int, ...]) -> list[Piece]:
    """Cut a batch into pieces of nearly equal rows, each without columns of nothing but padding."""
    result, whole = [], rows_of(len(batch.ids))
    for i, rows in enumerate(np.array_split(np.arange(len(batch.ids)), pieces)):
        if len(rows) == 0:
            continue
        ids, labels = batch.ids[rows], batch.labels[rows]
        labelled_columns = np.flatnonzero((labels != IGNORE).any(axis=0))
        # Attention is causal, so nothing after the last label has a part in the loss.
        stop = int(labelled_columns[-1]) + 1 if len(labelled_columns) else 1
        result.append(Piece(ids[:, :stop], labels[:, :stop], (*seed, i), whole.cut(rows)))
    return result


class Steps:
    """The steps of a run: each takes the next batch and updates the optimizer's parameters."""

    def __init__(
        self,
        batches: Batches,
        config: TrainingConfig,
        optimizer: Optimizer,
        invocation: tuple[int, ...] | None = None,
    ) -> None:
        """invocation: where rows are cut, for an activated adapter."""
        self.batches, self.config, self.optimizer = batches, config, optimizer
        self.invocation = invocation
        self.rate = schedule(
            config.schedule, config.lr, config.steps, config.warmup, config.final_lr
        )

    def take(self, step: int, pool: Workers) -> dict:
        """Step number `step`, from 0, in the pool's processes; its record for the history.

        Raises DivergedError, before the update, for a loss or gradient that is not finite.
        """
        began = time.perf_counter()
        batch, pieces = self.cut(step, pool.count)
        loss = pool.gradients(pieces, float(batch.tokens))
        return self.update(step, batch, pieces, loss, began)

    def cut(self, step: int, workers: int) -> tuple[Batch, list[Piece]]:
        """The batch of a step, and its pieces. Raises ValueError for a batch without labels."""
        batch, config = self.batches.batch(step), self.config
        if batch.tokens == 0:
            raise ValueError(f"step {step}: the batch {batch.indices.tolist()} has no label")
        each, seed = config.micro_batches, (config.seed, step)
        if self.invocation is None:
            each = each or pieces_a_worker(batch.ids.size, workers)
            return batch, split_batch(batch, workers * each, seed)
        spans = answer_spans(batch, self.invocation)
        each = each or cut_pieces_a_worker(spans, workers)
        return batch, split_at_invocation(batch, workers * each, seed, spans)

    def update(
        self, step: int, batch: Batch, pieces: Sequence[Piece], loss: float, began: float
    ) -> dict:
        """Clip the gradients and change the parameters by them; the step's record, as in `take`."""
        config = self.config
        norm = clip_grad_norm_(self.optimizer.parameters.values(), config.clip_norm or math.inf)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"step {step}: loss {loss}, gradient norm {norm}, expected finite numbers; batch "
                f"of examples {batch.indices.tolist()}"
            )
        lr = self.rate(step)
        self.optimizer.step(lr)
        return {
            "step": step + 1,
            "loss": loss,
            "lr": lr,
            "grad_norm": norm,
            "tokens": sum(piece.positions for piece in pieces),
            "seconds": round(time.perf_counter() - began, 4),
        }

    def require_finite_state(self, step: int) -> None:
        """Raise DivergedError where the update of `step` left a number that is not finite.

        The next step's loss would tell of a weight as well, but a checkpoint, or the end, may come
        first; and a moment that overflowed keeps its weight where it is, without any other sign.
        """
        arrays = {name: p.data for name, p in self.optimizer.parameters.items()}
        for slot, moments in self.optimizer.state.items():
            arrays |= {f"{slot} of {name}": array for name, array in moments.items()}
        finite = to_floats([get_array_module(a).isfinite(a).all() for a in arrays.values()])
        broken = [name for name, ok in zip(arrays, finite, strict=True) if not ok]
        if broken:
            raise DivergedError(
                f"step {step}: its update left NaN or infinity in {broken[0]}, expected finite "
                "numbers"
            )

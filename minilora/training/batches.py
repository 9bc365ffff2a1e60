"""Batches: padded examples, shuffled as a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minilora.autograd import IGNORE
from minilora.limits import require_count
from minilora.text.examples import Example
from minilora.text.packed import lengths


@dataclass(frozen=True)
class Batch:
    """Padded ids and labels (B, T), and which examples they are."""

    ids: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    @property
    def tokens(self) -> int:
        """Labelled positions, the ones that a loss is taken at."""
        return int((self.labels != IGNORE).sum())


def pad_examples(examples: Sequence[Example], indices: np.ndarray, pad_id: int = 0) -> Batch:
    """Examples padded on the right (attention is causal: padding there changes nothing)."""
    time = max(len(e) for e in examples)
    ids = np.full((len(examples), time), pad_id, dtype=np.int32)
    labels = np.full((len(examples), time), IGNORE, dtype=np.int32)
    for i, example in enumerate(examples):
        ids[i, : len(example)] = example.ids
        labels[i, : len(example)] = example.labels
    return Batch(ids, labels, np.asarray(indices))


class Batches:
    """Shuffled batches of examples; `batch(step)` depends on (seed, step) and nothing else.

    That is what makes a resumed run equal an unbroken one. Each epoch is a permutation from
    `default_rng([seed, epoch])`; runs of `bucket` batches are sorted by length, so that examples
    of one length meet and little is padded, and the batches are shuffled again.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        seed: int,
        pad_id: int = 0,
        bucket: int = 16,
    ) -> None:
        if not examples:
            raise ValueError("got 0 examples, expected at least 1")
        require_count("batch_size", batch_size, 1)
        require_count("seed", seed, 0)
        require_count("bucket", bucket, 1)
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.pad_id, self.bucket = pad_id, bucket
        self.lengths = lengths(examples)
        self._plan: tuple[int, list[np.ndarray]] = (-1, [])

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.examples) // self.batch_size)

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        if self._plan[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            order = rng.permutation(len(self.examples))
            size = self.batch_size * self.bucket
            runs = [order[i : i + size] for i in range(0, len(order), size)]
            runs = [run[np.argsort(self.lengths[run], kind="stable")] for run in runs]
            order = np.concatenate(runs)
            cuts = range(0, len(order), self.batch_size)
            batches = [order[i : i + self.batch_size] for i in cuts]
            self._plan = (epoch, [batches[i] for i in rng.permutation(len(batches))])
        return self._plan[1]

    def indices(self, step: int) -> np.ndarray:
        """Which examples the batch of a step has."""
        epoch, i = divmod(step, len(self))
        return self._epoch(epoch)[i]

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all epochs."""
        indices = self.indices(step)
        return pad_examples([self.examples[int(j)] for j in indices], indices, self.pad_id)

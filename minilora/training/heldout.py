"""evaluate: the loss on examples that nothing is learned from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from minilora.autograd import no_grad
from minilora.nn import NotFiniteError, Transformer, quiet_overflow
from minilora.nn.rows import rows_of, seeing
from minilora.text.examples import Example
from minilora.training.batches import pad_examples


def evaluate(
    model: Transformer,
    examples: Sequence[Example],
    batch_size: int = 32,
    pad_id: int = 0,
    progress: str = "",
) -> float:
    """Mean cross-entropy in nats a label over all examples, without gradients.

    progress: the name of a bar over the examples, "" for none. Raises ValueError for no examples
    or none with a label, NotFiniteError for a loss that is NaN or infinite.
    """
    if not examples:
        raise ValueError("evaluate got no examples, expected at least one")
    total, count, was_training = 0.0, 0, model.training
    rows = rows_of(len(examples))
    model.eval()
    bar = tqdm(total=len(examples), desc=progress, unit="example", disable=not progress)
    try:
        with no_grad(), quiet_overflow(), bar:
            for i in range(0, len(examples), batch_size):
                batch = pad_examples(examples[i : i + batch_size], np.arange(0), pad_id)
                if batch.tokens:
                    with seeing(rows.cut(slice(i, i + batch_size))):
                        total += model.loss(batch.ids, batch.labels, normalizer=1.0).item()
                    count += batch.tokens
                bar.update(len(batch.ids))
    finally:
        model.train(was_training)
    if count == 0:
        raise ValueError("evaluate got examples without any label")
    if not math.isfinite(total):
        raise NotFiniteError(
            f"got a loss of {total} on {len(examples)} examples, expected a finite number; the "
            "weights of the model or of its adapter are broken"
        )
    return total / count

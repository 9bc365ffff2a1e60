"""Merged equals adapted: the same logits from W + ΔW as from W and the adapter beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minilora.autograd import no_grad
from minilora.backend import to_numpy
from minilora.lora import Attachment
from minilora.nn import Transformer, quiet_overflow, require_finite_logits

TOLERANCE = 1e-4
"""Largest difference from rounding, as a share of the largest adapted logit."""


@dataclass(frozen=True)
class MergeCheck:
    """Largest differences of merged logits, in logits, and the largest adapted logit.

    from_base: None where the base's logits were not given.
    """

    from_adapted: float
    from_base: float | None
    largest: float


def probe(model: Transformer) -> np.ndarray:
    """Token ids (3, T) that depend on nothing but the model's sizes."""
    config = model.config
    length = min(32, config.max_position_embeddings)
    return np.random.default_rng(0).integers(0, config.vocab_size, (3, length))


def logits(model: Transformer, ids: np.ndarray) -> np.ndarray:
    """The model's logits as a host array, without gradients.

    Raises NotFiniteError where one of them is not a finite number.
    """
    with no_grad(), quiet_overflow():
        return require_finite_logits(to_numpy(model(ids).data))


def check_merge(
    attachment: Attachment, ids: np.ndarray, plain: np.ndarray | None = None
) -> MergeCheck:
    """Merge the adapter and unmerge it again, and compare the logits of `ids` (B, T) on the way.

    plain: the base's logits of `ids`, taken before the adapter was attached. Raises ValueError as
    `compare_logits`, or where unmerging does not give the adapted logits back bit for bit;
    MergeError as `Attachment.merge`.
    """
    model = attachment.model
    adapted = logits(model, ids)
    attachment.merge()
    try:
        merged = logits(model, ids)
    finally:
        attachment.unmerge()
    check = compare_logits(merged, adapted, plain)
    restored = logits(model, ids)
    if not np.array_equal(restored, adapted):
        raise ValueError(
            f"unmerged logits differ from the adapted ones by {_difference(restored, adapted):.2e},"
            " expected the same bits"
        )
    return check


def checked_unload(attachment: Attachment, ids: np.ndarray, plain: np.ndarray) -> MergeCheck:
    """`merge_and_unload`, after which the plain model must give `ids` the adapted logits.

    plain: the base's logits. Raises ValueError as `compare_logits`; the model is merged then.
    """
    adapted = logits(attachment.model, ids)
    return compare_logits(logits(attachment.merge_and_unload(), ids), adapted, plain)


def compare_logits(
    merged: np.ndarray, adapted: np.ndarray, plain: np.ndarray | None = None
) -> MergeCheck:
    """How far merged logits are from the adapted ones, and from the base's where these are given.

    Raises ValueError where merged and adapted differ by more than rounding, or merged and plain by
    no more than it.
    """
    largest = float(np.abs(adapted).max())
    gap, allowed = _difference(merged, adapted), TOLERANCE * max(1.0, largest)
    if not gap <= allowed:
        raise ValueError(
            f"merged logits differ from the adapted ones by {gap:.2e}, expected at most "
            f"{allowed:.2e}; nothing was written"
        )
    if plain is None:
        return MergeCheck(gap, None, largest)
    change = _difference(merged, plain)
    if not change > gap:
        raise ValueError(
            f"merged logits differ from the base's by {change:.2e}, no more than rounding "
            f"({gap:.2e}): the adapter changes nothing; nothing was written"
        )
    return MergeCheck(gap, change, largest)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())

"""NF4: 4-bit codes whose 16 numbers are quantiles of a normal distribution, as QLoRA stores a base.

Trained weights are spread roughly like a normal distribution, so numbers that lie close together
near 0 and far apart at the ends are each used about equally often (Dettmers et al. 2023, Sec. 3).
A block of 64 weights shares one scale, its largest magnitude. These scales would cost half a bit a
weight; double quantization keeps them in 8 bits themselves, which leaves an eighth of a bit.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

NF4_BLOCK = 64
"""Weights that share a scale."""
SCALES_A_GROUP = 256
"""Scales that share a scale of their own."""


def nf4_codebook() -> np.ndarray:
    """The 16 numbers of NF4, float32 (16,), rising from -1 to 1 with an exact 0.

    Quantiles of N(0, 1) at evenly spaced probabilities from p to 1/2, 8 of them above 0 and 7
    mirrored below, with 0 between, divided by the largest. p = 1 - (1/30 + 1/32) / 2 leaves out
    half a step's probability at the ends, where the quantile is infinite: the mean of what 15 and
    16 numbers would leave out (Dettmers et al. 2023, Sec. 3 and App. E; the values of
    bitsandbytes).
    """
    quantile, p = NormalDist().inv_cdf, 1 - (1 / 30 + 1 / 32) / 2
    above = [quantile(q) for q in np.linspace(p, 0.5, 9)[:-1]]
    below = [-quantile(q) for q in np.linspace(p, 0.5, 8)[:-1]]
    numbers = np.array(sorted([*below, 0.0, *above]))
    return (numbers / numbers[-1]).astype(np.float32)


def dynamic_codebook() -> np.ndarray:
    """The 256 numbers of the dynamic 8-bit format, float32, rising, between -1 and 1.

    Seven decades from 10^-6 to 1, each with twice as many evenly spaced numbers as the one below:
    1, 2, 4, …, 64, and their negatives; with 0 and 1 (Dettmers et al. 2022, "8-bit Optimizers via
    Block-wise Quantization", Sec. 2).
    """
    numbers = [0.0, 1.0]
    for decade in range(7):
        edges = np.linspace(0.1, 1.0, 2**decade + 1, dtype=np.float32).astype(np.float64)
        middles = 10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2
        numbers += [*middles, *-middles]
    return np.sort(np.array(numbers)).astype(np.float32)


def nearest(numbers: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """uint8 codes of the codebook's numbers that are nearest, shaped like `numbers`."""
    middles = (codebook[:-1] + codebook[1:]) / 2
    return np.searchsorted(middles, numbers).astype(np.uint8)


class DoubleQuantized:
    """The scales of all blocks, (blocks, out) positive floats, in about 8.1 bits each.

    Less their mean, each is a number of `dynamic_codebook` times its group's largest magnitude.
    Groups are of 256 scales in the file's order: all blocks of output 0, then of output 1. An index
    or `take` along the last axis gives those outputs' scales as float32, as an array would.
    """

    def __init__(self, scales: np.ndarray) -> None:
        self.blocks, outputs = scales.shape
        in_order = scales.T.reshape(-1)
        self.mean = np.float32(in_order.mean(dtype=np.float32)) if in_order.size else np.float32(0)
        centred = in_order - self.mean
        padded = np.zeros(-(-centred.size // SCALES_A_GROUP) * SCALES_A_GROUP, np.float32)
        padded[: centred.size] = centred
        groups = padded.reshape(-1, SCALES_A_GROUP)
        self.group_scales = np.abs(groups).max(axis=1)
        divisor = np.where(self.group_scales == 0, np.float32(1), self.group_scales)
        codes = nearest(groups / divisor[:, None], dynamic_codebook()).reshape(-1)
        self.codes = np.ascontiguousarray(codes[: centred.size].reshape(outputs, self.blocks).T)
        self.codebook = dynamic_codebook()
        for array in (self.codes, self.group_scales, self.codebook):
            array.flags.writeable = False

    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """(blocks, out)."""
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, the groups' scales and the mean; the codebook is everybody's."""
        return self.codes.nbytes + self.group_scales.nbytes + self.mean.nbytes

    def _of(self, outputs: np.ndarray) -> np.ndarray:
        """Scales of these outputs, float32 (blocks, len(outputs))."""
        place = outputs * self.blocks + np.arange(self.blocks)[:, None]
        scales = self.codebook[self.codes[:, outputs]]
        scales *= self.group_scales[place // SCALES_A_GROUP]
        scales += self.mean
        return scales

    def __getitem__(self, index: tuple) -> np.ndarray:
        _, outputs = index
        return self._of(np.arange(self.shape[1])[outputs])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self[..., :].astype(self.dtype if dtype is None else dtype, copy=False)

    def take(self, outputs: np.ndarray, axis: int = -1) -> np.ndarray:
        """Scales of these outputs, float32 (blocks, len(outputs)); axis is the last."""
        return self._of(outputs)

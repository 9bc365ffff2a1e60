"""Numbers to stored blocks: every format of a float matrix, and a GGUF file's own blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.autograd.normal_float import NF4_BLOCK, DoubleQuantized, nearest, nf4_codebook
from minilora.autograd.stored_array import BLOCK, BLOCKS, Fields, StoredArray

LARGEST = float(np.finfo(np.float16).max)
Q4_1_BYTES, Q8_0_BYTES = 4 + BLOCK // 2, 2 + BLOCK
"""Bytes of a block of 32 numbers in a GGUF file: d, m and 16 bytes of codes; d and 32 codes."""


def quantize(weight: np.ndarray, format: str) -> StoredArray:
    """W (out, in) float, stored in a format: each number rounded to the nearest it can be.

    Largest errors, apart from float32 rounding: float16, 2^-11 of the number (2^-25 below 2^-14).
    q8, d/2, with 127 d at or just above the block's largest magnitude. q4, d/2, with m at or just
    below the block's least number and m + 15 d at or just above its largest: 1/30 of its range.
    nf4, with d the block's largest magnitude kept in 8 bits: half the gap between two numbers of
    the codebook, at most 0.152 d, and what d itself was rounded by.
    Raises ValueError for numbers that are not finite or beyond float16, and where `in` is not a
    multiple of a block: 32, for nf4 64.
    """
    if weight.ndim != 2:
        raise ValueError(f"got a weight of shape {weight.shape}, expected (out, in)")
    if format not in _FIELDS:
        raise ValueError(f"got storage format {format!r}, expected one of {list(_FIELDS)}")
    largest = float(np.abs(weight).max()) if weight.size else 0.0
    if not largest <= LARGEST:
        raise ValueError(f"got weights up to {largest}, expected finite ones up to {LARGEST:g}")
    if weight.shape[1] % BLOCKS[format]:
        raise ValueError(
            f"got a weight of shape {weight.shape} for {format}, expected inputs in blocks of "
            f"{BLOCKS[format]}"
        )
    transposed = np.ascontiguousarray(weight.T, dtype=np.float32)
    return StoredArray(format, _FIELDS[format](transposed), weight.shape)


def _in_blocks(transposed: np.ndarray, size: int = BLOCK) -> np.ndarray:
    """W^T (in, out) as (blocks, size, out)."""
    return transposed.reshape(-1, size, transposed.shape[1])


def _to_float16(transposed: np.ndarray) -> Fields:
    return (transposed.astype(np.float16),)


def _to_q8(transposed: np.ndarray) -> Fields:
    blocks = _in_blocks(transposed)
    largest = np.abs(blocks).max(axis=1)
    d = _scale_that_reaches(largest, np.float32(127), np.float32(0))
    codes = np.rint(blocks * _inverse(d)[:, None])
    return np.clip(codes, -127, 127).astype(np.int8), d


def _to_q4(transposed: np.ndarray) -> Fields:
    blocks = _in_blocks(transposed)
    least, largest = blocks.min(axis=1), blocks.max(axis=1)
    m = least.astype(np.float16)
    # Codes start at 0, so no number may lie below m: where rounding went up, take the half below.
    m = np.where(m > least, np.nextafter(m, np.float16(-np.inf)), m)
    minimum = m.astype(np.float32)
    d = _scale_that_reaches(largest, np.float32(15), minimum)
    codes = np.rint((blocks - minimum[:, None]) * _inverse(d)[:, None])
    codes = np.clip(codes, 0, 15).astype(np.uint8)
    return _two_a_byte(codes), d, m


def _to_nf4(transposed: np.ndarray) -> Fields:
    blocks = _in_blocks(transposed, NF4_BLOCK)
    largest = np.abs(blocks).max(axis=1)
    divisor = np.where(largest == 0, np.float32(1), largest)
    return _two_a_byte(nearest(blocks / divisor[:, None], nf4_codebook())), DoubleQuantized(largest)


def _two_a_byte(codes: np.ndarray) -> np.ndarray:
    """Codes below 16, (blocks, n, out) -> (blocks, n / 2, out): the first half of each block low,
    the second high, as `stored_array` reads them."""
    half = codes.shape[1] // 2
    return codes[:, :half] | (codes[:, half:] << 4)


def _scale_that_reaches(
    largest: np.ndarray, top_code: np.float32, minimum: np.ndarray
) -> np.ndarray:
    """d in float16: the nearest to (largest - minimum) / top_code, or the next above it.

    The next above is taken only where the nearest would leave the largest number out of reach, so
    that a matrix which was stored once and read keeps its d when it is stored again.
    """
    d = ((largest - minimum) / top_code).astype(np.float16)
    reach = d.astype(np.float32) * top_code + minimum
    return np.where(reach < largest, np.nextafter(d, np.float16(np.inf)), d)


def _inverse(d: np.ndarray) -> np.ndarray:
    """1/d in float32, 0 where d is 0: all numbers of such a block are the same."""
    wide = d.astype(np.float32)
    return (wide != 0) / np.where(wide == 0, np.float32(1), wide)


_FIELDS: dict[str, Callable[[np.ndarray], Fields]] = {
    "float16": _to_float16,
    "q8": _to_q8,
    "q4": _to_q4,
    "nf4": _to_nf4,
}
"""Format -> its fields, from W^T (in, out) in float32."""


# -- a GGUF file's blocks --------------------------------------------------------------------------


def from_q4_1_blocks(blocks: np.ndarray, shape: tuple[int, int]) -> StoredArray:
    """A GGUF tensor of type Q4_1 as it is: no number is rounded again.

    blocks uint8 (out, in / 32 * 20), each block d and m in float16 and 16 bytes of codes.
    Raises ValueError for another dtype or shape, and for scales that are not finite.
    """
    block = _block_bytes(blocks, shape, Q4_1_BYTES, "Q4_1")
    d, m = _read_halves(block[..., 0:2], "Q4_1"), _read_halves(block[..., 2:4], "Q4_1")
    return StoredArray("q4", (_outputs_last(block[..., 4:]), d, m), shape)


def from_q8_0_blocks(blocks: np.ndarray, shape: tuple[int, int]) -> StoredArray:
    """A GGUF tensor of type Q8_0 as it is: blocks uint8 (out, in / 32 * 34), d and 32 int8 codes.

    Raises ValueError as `from_q4_1_blocks` does.
    """
    block = _block_bytes(blocks, shape, Q8_0_BYTES, "Q8_0")
    codes = _outputs_last(block[..., 2:]).view(np.int8)
    return StoredArray("q8", (codes, _read_halves(block[..., 0:2], "Q8_0")), shape)


def _block_bytes(blocks: np.ndarray, shape: tuple[int, int], size: int, kind: str) -> np.ndarray:
    """The file's bytes as (out, blocks a row, bytes a block), checked."""
    expected = (shape[0], shape[1] // BLOCK * size)
    if blocks.dtype != np.uint8 or blocks.shape != expected or shape[1] % BLOCK:
        raise ValueError(
            f"got {kind} blocks {blocks.dtype} {blocks.shape} for a weight of shape "
            f"{tuple(shape)}, expected uint8 {expected} and inputs in blocks of {BLOCK}"
        )
    return blocks.reshape(shape[0], -1, size)


def _outputs_last(block: np.ndarray) -> np.ndarray:
    """(out, blocks, bytes) -> (blocks, bytes, out), contiguous."""
    return np.ascontiguousarray(block.transpose(1, 2, 0))


def _read_halves(pairs: np.ndarray, kind: str) -> np.ndarray:
    """Two bytes a block, little-endian, (out, blocks, 2) -> float16 (blocks, out)."""
    halves = np.ascontiguousarray(pairs).view("<f2")[..., 0]
    if not np.isfinite(halves).all():
        raise ValueError(f"got {kind} blocks with NaN or Inf scales, expected finite ones")
    return np.ascontiguousarray(halves.T, dtype=np.float16)

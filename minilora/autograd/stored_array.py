"""StoredArray: a frozen matrix kept in 16, 8 or 4 bits a number, read as float32 part by part.

The idea of QLoRA (Dettmers et al. 2023): the base stays small in memory, and each product
(`products.py`) makes the numbers of the layer it needs, forward and backward, and forgets them.
The adapter beside it is float32. Formats, with c one of the codes of a block along the inputs (32,
of nf4 64):

    float16  w                       2 bytes a number
    q8       w = d c                 c int8,    d float16              8.5 bits a number (GGUF Q8_0)
    q4       w = d c + m             c 0 to 15, d and m float16        5 bits a number (GGUF Q4_1)
    nf4      w = d NF4[c]            c 0 to 15, d in 8 bits itself     4.13 bits a number (QLoRA)

Everything is kept as W^T, outputs along the last axis, because NumPy is fast on long rows only: in
the file's order a row would be the 32 codes of one block, here it is one code of all outputs.
Stored arrays live on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from minilora.autograd.normal_float import NF4_BLOCK, DoubleQuantized, nf4_codebook

BLOCK = 32
"""Numbers that share a scale, as in GGUF."""
BLOCKS = {"float16": 1, "q8": BLOCK, "q4": BLOCK, "nf4": NF4_BLOCK}
"""Format -> numbers that share a scale: `in` must be a multiple."""
PART_BYTES = 4 << 20
"""Most float32 numbers of a matrix that are made at a time: a layer of SmolLM2, not its head."""
CACHE_BYTES = 1 << 18
"""Most float32 numbers over which several passes go before the next are begun."""

Fields = tuple[np.ndarray | DoubleQuantized, ...]
"""A format's arrays, each with the outputs along its last axis: (codes,), (codes, d) or
(codes, d, m)."""
NF4_OF_LOW, NF4_OF_HIGH = np.tile(nf4_codebook(), 16), np.repeat(nf4_codebook(), 16)
"""Byte -> the NF4 number of its low and of its high half, (256,) each."""


# -- from the fields of n outputs to float32 numbers: W^T (in, n) ----------------------------------


def _pieces(count: int, bytes_each: int) -> Iterator[slice]:
    """Slices over `count` rows or blocks, each small enough to stay in the cache."""
    step = max(1, CACHE_BYTES // max(1, bytes_each))
    return (slice(start, start + step) for start in range(0, count, step))


def _widen(halves: np.ndarray, out: np.ndarray) -> None:
    """out = halves (float16, finite) as float32, exactly; NumPy's own conversion is far slower.

    s is the sign, e the 5 bits of the exponent, f the 10 of the fraction:

        float16, read as int16                       s eeeee ffffffffff
        as int32, which repeats the sign    sss...ss s eeeee ffffffffff
        moved left by 13                      s  sss eeeee ffffffffff0000000000000
        with three of the signs cleared       s  000 eeeee ffffffffff0000000000000

    The last is a float32 with the same fraction, whose exponent counts from 127 where float16
    counts from 15: it is too small by a factor of 2^(127 - 15).
    """
    bits = out.view(np.int32)
    bits[...] = halves.view(np.int16)
    bits <<= 13
    bits &= np.int32(~0x70000000)
    out *= np.float32(2.0**112)


def _per_block(halves: np.ndarray) -> np.ndarray:
    """One float16 a block and output, (blocks, n), as float32 (blocks, 1, n)."""
    wide = np.empty(halves.shape, np.float32)
    _widen(halves, wide)
    return wide[:, None]


def _read_float16(fields: Fields, out: np.ndarray) -> None:
    (halves,) = fields
    for piece in _pieces(len(out), out[0].nbytes):
        _widen(halves[piece], out[piece])


def _read_q8(fields: Fields, out: np.ndarray) -> None:
    codes, d = fields[0], _per_block(fields[1])
    blocks = out.reshape(codes.shape)
    for piece in _pieces(len(codes), blocks[0].nbytes):
        blocks[piece] = codes[piece]
        blocks[piece] *= d[piece]


def _read_q4(fields: Fields, out: np.ndarray) -> None:
    """A block's 32 codes lie in 16 bytes: code i in the low half of byte i, code 16 + i in the
    high half."""
    pairs, d, m = fields[0], _per_block(fields[1]), _per_block(fields[2])
    blocks = out.reshape(len(pairs), BLOCK, out.shape[-1])
    for piece in _pieces(len(pairs), blocks[0].nbytes):
        numbers = blocks[piece]
        codes = np.bitwise_and(pairs[piece], 0b1111)
        numbers[:, : BLOCK // 2] = codes
        np.right_shift(pairs[piece], 4, out=codes)
        numbers[:, BLOCK // 2 :] = codes
        numbers *= d[piece]
        numbers += m[piece]


def _read_nf4(fields: Fields, out: np.ndarray) -> None:
    """A block's 64 codes lie in 32 bytes, halves as in q4. d comes as float32, (blocks, n)."""
    pairs, d = fields[0], np.asarray(fields[1])
    blocks = out.reshape(len(pairs), NF4_BLOCK, out.shape[-1])
    half = NF4_BLOCK // 2
    for piece in _pieces(len(pairs), blocks[0].nbytes):
        numbers = blocks[piece]
        codes = pairs[piece].astype(np.intp)  # else `take` converts them for each of its calls
        numbers[:, :half] = NF4_OF_LOW.take(codes, mode="clip")  # its faster mode; all fit
        numbers[:, half:] = NF4_OF_HIGH.take(codes, mode="clip")
        numbers *= d[piece][:, None]


FORMATS: dict[str, Callable[[Fields, np.ndarray], None]] = {
    "float16": _read_float16,
    "q8": _read_q8,
    "q4": _read_q4,
    "nf4": _read_nf4,
}
"""Name -> function that writes float32 numbers, (in, n), from the fields of n outputs."""


# -- the array -------------------------------------------------------------------------------------


class StoredArray:
    """A matrix W (out, in) in one of FORMATS; `np.asarray` of it is the float32 numbers it means.

    fields: the format's arrays, each with the outputs along its last axis. They are made
    read-only: a StoredArray never changes. `dtype` is that of the numbers, not of the storage.
    """

    ndim = 2

    def __init__(
        self,
        format: str,
        fields: Fields,
        shape: tuple[int, int],
        dtype: np.dtype | type = np.float32,
    ) -> None:
        if format not in FORMATS:
            raise ValueError(f"got storage format {format!r}, expected one of {list(FORMATS)}")
        self.format, self.fields, self.shape = format, fields, (int(shape[0]), int(shape[1]))
        self.dtype = np.dtype(dtype)
        for field in fields:
            if isinstance(field, np.ndarray):  # DoubleQuantized never changes as it is
                field.flags.writeable = False

    @property
    def size(self) -> int:
        """How many numbers."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(field.nbytes for field in self.fields)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"StoredArray({self.format}, shape={self.shape}, nbytes={self.nbytes})"

    def astype(self, dtype: np.dtype | type) -> StoredArray:
        """The same storage, read as another dtype (float32 numbers, then converted)."""
        return StoredArray(self.format, self.fields, self.shape, dtype)

    def moved_to(self, device: str) -> StoredArray:
        """Itself on "cpu". Raises ValueError for "gpu"."""
        if device != "cpu":
            raise ValueError(
                f"got device {device!r} for weights stored as {self.format}, which live on the "
                "cpu; expected a float32 base"
            )
        return self

    def _read(self, fields: Fields, outputs: int) -> np.ndarray:
        """W^T (in, outputs) in float32, from the fields of so many outputs."""
        out = np.empty((self.shape[1], outputs), np.float32)
        if outputs:
            FORMATS[self.format](fields, out)
        return out

    def dense(self, dtype: np.dtype | type | None = None) -> np.ndarray:
        """W (out, in) as a new array."""
        whole = self._read(self.fields, self.shape[0])
        return whole.astype(self.dtype if dtype is None else dtype, copy=False).T

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("got copy=False, but reading stored numbers makes a new array")
        return self.dense(dtype)

    def take(self, ids: np.ndarray) -> np.ndarray:
        """W[ids], (*ids.shape, in), as a new array: only these rows are read."""
        flat = np.asarray(ids).reshape(-1)
        chosen = self._read(tuple(field.take(flat, axis=-1) for field in self.fields), flat.size).T
        return np.array(chosen, self.dtype, order="C").reshape(*np.shape(ids), self.shape[1])

    def parts(self, dtype: np.dtype | type) -> Iterator[tuple[slice, np.ndarray]]:
        """(outputs, their columns of W^T (in, n)) from the first output to the last.

        Each part is a new array, at most PART_BYTES of float32.
        """
        step = max(1, PART_BYTES // (4 * self.shape[1]))
        for start in range(0, self.shape[0], step):
            outputs = slice(start, min(start + step, self.shape[0]))
            fields = tuple(field[..., outputs] for field in self.fields)
            columns = self._read(fields, outputs.stop - start)
            yield outputs, columns.astype(dtype, copy=False)

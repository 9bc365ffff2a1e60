"""StoredArray: a frozen matrix kept in 16, 8 or 4 bits a number, read as float32 part by part.

The idea of QLoRA (Dettmers et al. 2023): the base stays small in memory, and each product makes
the numbers of the layer it needs, forward and backward, and forgets them. The adapter beside it
is float32. Formats, with c one of 32 codes of a block along the input axis:

    float16  w                       2 bytes a number
    q8       w = d c                 c int8,    d float16              8.5 bits a number (GGUF Q8_0)
    q4       w = d c + m             c 0 to 15, d and m float16        5 bits a number (GGUF Q4_1)

All is kept as W^T, outputs along the last axis, because NumPy is fast on long rows only: blocks
in the file's order are 32 numbers long, and their scales broadcast over these. Times of making
the float32 numbers of a 576 x 1536 matrix, one thread of an AMD EPYC, NumPy 2.4:

    q4       0.80 ms in the file's order, 0.87 by a table of pairs of codes, 0.49 as W^T
    float16  1.44 ms by astype, 0.18 by moving the bits (`_halves`)
    q8       0.28 ms as W^T

where the product of 300 rows with that matrix takes 5.3 ms. Stored arrays live on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

BLOCK = 32
"""Numbers that share a scale, as in GGUF."""
PART_BYTES = 4 << 20
"""Most float32 numbers of a matrix that are made at a time: a layer of SmolLM2, not its head."""
CACHE_BYTES = 1 << 18

Fields = tuple[np.ndarray, ...]


# -- formats: fields (…, n) of n outputs -> W^T (in, n) --------------------------------------------


def _steps(count: int, row_bytes: int) -> Iterator[slice]:
    """Slices of `count` rows that stay in the cache while several passes go over them."""
    step = max(1, CACHE_BYTES // max(1, row_bytes))
    return (slice(start, start + step) for start in range(0, count, step))


def _float16(fields: Fields, out: np.ndarray) -> None:
    for rows in _steps(len(out), out[0].nbytes):
        _halves(fields[0][rows], out[rows])


def _halves(half: np.ndarray, out: np.ndarray) -> None:
    """out = half as float32, exactly, 8 times as fast as NumPy's own conversion.

    Sign, exponent and fraction move to their places in 32 bits (an arithmetic shift copies the
    sign into three bits too many); the exponent's other bias is a factor of 2^112. Finite only.
    """
    bits = out.view(np.int32)
    bits[...] = half.view(np.int16)
    bits <<= 13
    bits &= np.int32(~0x70000000)
    out *= np.float32(2.0**112)


def _scales(half: np.ndarray) -> np.ndarray:
    out = np.empty(half.shape, np.float32)
    _halves(half, out)
    return out[:, None]


def _q8(fields: Fields, out: np.ndarray) -> None:
    codes, scales = fields[0], _scales(fields[1])
    blocks = out.reshape(codes.shape)
    for rows in _steps(len(codes), blocks[0].nbytes):
        blocks[rows] = codes[rows]
        blocks[rows] *= scales[rows]


def _q4(fields: Fields, out: np.ndarray) -> None:
    """Low halves of a block's 16 bytes are its first 16 codes, high halves the others."""
    codes, scales, minima = fields[0], _scales(fields[1]), _scales(fields[2])
    blocks = out.reshape(len(codes), BLOCK, out.shape[-1])
    for rows in _steps(len(codes), blocks[0].nbytes):
        part = blocks[rows]
        half = np.bitwise_and(codes[rows], 15)
        part[:, : BLOCK // 2] = half
        np.right_shift(codes[rows], 4, out=half)
        part[:, BLOCK // 2 :] = half
        part *= scales[rows]
        part += minima[rows]


FORMATS: dict[str, Callable[[Fields, np.ndarray], None]] = {
    "float16": _float16,
    "q8": _q8,
    "q4": _q4,
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
            raise ValueError(f"got device {device!r} for weights stored as {self.format}, which "
                             "live on the cpu; expected a float32 base")  # fmt: skip
        return self

    def _read(self, fields: Fields, count: int) -> np.ndarray:
        out = np.empty((self.shape[1], count), np.float32)
        if count:
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
        rows = self._read(tuple(f.take(flat, axis=-1) for f in self.fields), flat.size).T
        return np.array(rows, self.dtype, order="C").reshape(*np.shape(ids), self.shape[1])

    def parts(self, dtype: np.dtype | type) -> Iterator[tuple[slice, np.ndarray]]:
        """(outputs, their columns of W^T (in, n)) from the first output to the last.

        Each part is a new array, at most PART_BYTES of float32.
        """
        step = max(1, PART_BYTES // (4 * self.shape[1]))
        for start in range(0, self.shape[0], step):
            part = slice(start, min(start + step, self.shape[0]))
            fields = tuple(field[..., part] for field in self.fields)
            yield part, self._read(fields, part.stop - start).astype(dtype, copy=False)


# -- products --------------------------------------------------------------------------------------


Update = tuple[np.ndarray, np.ndarray] | None
"""(b, a) with b (out, r), a (r, in): the product is taken with W + b a."""


def _updated(columns: np.ndarray, part: slice, update: Update) -> np.ndarray:
    if update is not None:
        columns += update[1].T @ update[0][part].T
    return columns


def times_transpose(x: np.ndarray, w: StoredArray, update: Update = None) -> np.ndarray:
    """x (W + b a)^T: x (..., in) -> (..., out), a new array."""
    out = np.empty((*x.shape[:-1], w.shape[0]), dtype=x.dtype)
    rows, result = x.reshape(-1, w.shape[1]), out.reshape(-1, w.shape[0])
    for part, columns in w.parts(x.dtype):
        np.matmul(rows, _updated(columns, part, update), out=result[:, part])
    return out


def times(g: np.ndarray, w: StoredArray, update: Update = None) -> np.ndarray:
    """g (W + b a): g (..., out) -> (..., in), a new array; a sum over parts of the outputs."""
    out = np.empty((*g.shape[:-1], w.shape[1]), dtype=g.dtype)
    rows, result = g.reshape(-1, w.shape[0]), out.reshape(-1, w.shape[1])
    for part, columns in w.parts(g.dtype):
        columns = _updated(columns, part, update)
        if part.start == 0:
            np.matmul(rows[:, part], columns.T, out=result)
        else:
            result += rows[:, part] @ columns.T
    return out

"""StoredArray: what each format keeps, how exactly, and how its numbers are read back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.autograd import stored_array as stored
from minilora.autograd.products import dense, is_stored, plus, take_rows, times, times_transpose
from minilora.autograd.quantize import from_q4_1_blocks, from_q8_0_blocks, quantize
from minilora.autograd.stored_array import StoredArray
from tests.says import refusal

NF4_BITS = 4 + 8 / 64 + 32 / (7 * 192) * 2  # codes, a scale a block, one group and the mean
BITS = {"float16": 16, "q8": 8.5, "q4": 5, "nf4": NF4_BITS}
SHAPE = (7, 192)


def matrix(seed=0, shape=SHAPE, spread=0.02):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * spread


def steps_of(array):
    """d of each number's block, (out, in)."""
    return np.repeat(array.fields[1].astype(np.float64), 32, axis=0).T


def gguf_blocks(kind, shape, seed=0):
    """Blocks as a file has them, and the numbers they mean by llama.cpp's own loop."""
    rng = np.random.default_rng(seed)
    out, count = shape[0], shape[1] // 32
    d = (rng.random((out, count)) * 0.01).astype(np.float16)
    m = (-rng.random((out, count)) * 0.1).astype(np.float16)
    numbers = np.empty((out, count, 32), np.float32)
    if kind == "q4":
        codes = rng.integers(0, 256, (out, count, 16), dtype=np.uint8)
        for j in range(16):
            numbers[..., j] = (codes[..., j] & 15) * d.astype("f4") + m.astype("f4")
            numbers[..., j + 16] = (codes[..., j] >> 4) * d.astype("f4") + m.astype("f4")
        parts = (d[..., None].view(np.uint8), m[..., None].view(np.uint8), codes)
    else:
        codes = rng.integers(-128, 128, (out, count, 32), dtype=np.int8)
        numbers[...] = codes * d.astype("f4")[..., None]
        parts = (d[..., None].view(np.uint8), codes.view(np.uint8))
    return np.concatenate(parts, axis=-1).reshape(out, -1), numbers.reshape(shape)


@pytest.mark.parametrize("format", BITS)
def test_bytes_and_shape_are_those_of_the_format(format):
    array = quantize(matrix(), format)
    assert array.nbytes * 8 == pytest.approx(BITS[format] * 7 * 192)
    assert (array.shape, array.size, array.ndim, len(array)) == ((7, 192), 1344, 2, 7)
    assert array.dtype == np.float32
    assert np.asarray(array).dtype == np.float32
    assert all(not field.flags.writeable for field in array.fields if isinstance(field, np.ndarray))


@pytest.mark.parametrize("spread", [1e-6, 1e-3, 0.02, 30.0])
@pytest.mark.parametrize("offset", [0.0, 0.5, -3.0])
def test_float16_is_the_nearest_half(spread, offset):
    w = matrix(spread=spread) + np.float32(offset)
    assert np.array_equal(quantize(w, "float16").dense(), w.astype(np.float16).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(["q8", "q4"]),
    st.floats(-7, 2),
    st.one_of(st.floats(-2, 2), st.sampled_from([-500.0, 500.0])),  # float16 has no such minimum
)
def test_the_error_is_at_most_half_a_step(seed, format, power, offset):
    spread = 10.0**power
    w = matrix(seed, spread=spread) + np.float32(offset * spread)
    array = quantize(w, format)
    error = np.abs(array.dense().astype(np.float64) - w)
    rounding = np.abs(w).max() * 2.0**-21
    assert (error <= steps_of(array) * 0.5 + rounding).all()
    blocks = w.reshape(7, 6, 32).astype(np.float64)
    least, largest = blocks.min(-1), blocks.max(-1)
    reach = (largest - least) / 15 if format == "q4" else np.abs(blocks).max(-1) / 127
    slack = 2.0**-10 * (np.abs(blocks).max(-1) / 15 + reach) + 2.0**-23
    assert (array.fields[1].T - reach <= slack).all()  # a huge d would satisfy the bound too


@pytest.mark.parametrize("format", ["float16", "q8", "q4"])
def test_storing_what_was_stored_changes_nothing(format):
    first = quantize(matrix(), format)
    again = quantize(first.dense(), format)
    assert all(np.array_equal(a, b) for a, b in zip(first.fields, again.fields, strict=True))


@pytest.mark.parametrize("format", ["q8", "q4"])
@pytest.mark.parametrize("value", [0.0, 0.25, -1.5, 1e-7])
def test_a_block_of_one_number(format, value):
    w = np.full((2, 32), value, np.float32)
    assert np.allclose(quantize(w, format).dense(), w, rtol=2**-8, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "read"), [("q4", from_q4_1_blocks), ("q8", from_q8_0_blocks)], ids=["q4", "q8"]
)
def test_a_files_blocks_mean_the_same_numbers_bit_for_bit(kind, read):
    blocks, numbers = gguf_blocks(kind, (5, 64))
    array = read(blocks, (5, 64))
    assert array.format == kind
    assert np.array_equal(array.dense(), numbers)
    assert array.nbytes == blocks.nbytes


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_a_files_blocks_mean_what_the_gguf_package_says(kind):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    read = {"Q4_1": from_q4_1_blocks, "Q8_0": from_q8_0_blocks}[kind]
    quant = getattr(gguf.GGMLQuantizationType, kind)
    blocks = gguf.quants.quantize(matrix(), quant)
    assert np.array_equal(read(blocks, SHAPE).dense(), gguf.quants.dequantize(blocks, quant))


@pytest.mark.parametrize("format", BITS)
@pytest.mark.parametrize("ids", [[[6, 0, 6], [3, 3, 1]], [2], []])
def test_take_is_the_rows(format, ids):
    array, ids = quantize(matrix(), format), np.array(ids, dtype=np.int64)
    rows = array.take(ids)
    assert rows.flags.c_contiguous
    assert np.array_equal(rows, array.dense()[ids])


@pytest.mark.parametrize("format", BITS)
@pytest.mark.parametrize("part_bytes", [1, 4 * 192 * 3, 4 << 20])
def test_products_are_those_of_the_numbers(format, part_bytes, monkeypatch):
    monkeypatch.setattr(stored, "PART_BYTES", part_bytes)
    rng = np.random.default_rng(1)
    array, x, g = quantize(matrix(), format), rng.random((2, 3, 192)), rng.random((2, 3, 7))
    b, a = rng.random((7, 2)), rng.random((2, 192))
    w = array.dense().astype(np.float64)
    assert np.allclose(times_transpose(x, array), x @ w.T, rtol=1e-12)
    assert np.allclose(times(g, array), g @ w, rtol=1e-12)
    updated = plus(array, b, a)
    assert is_stored(updated) and is_stored(array)
    assert np.allclose(times_transpose(x, updated), x @ (w + b @ a).T, rtol=1e-12)
    assert np.allclose(times(g, updated), g @ (w + b @ a), rtol=1e-12)
    assert np.array_equal(array.dense(), w.astype(np.float32))  # the update stayed outside
    assert times(np.float32(g), array).dtype == np.float32


@pytest.mark.parametrize("cache", [1, 1 << 30])
@pytest.mark.parametrize("format", BITS)
def test_the_size_of_the_pieces_changes_no_bit(format, cache, monkeypatch):
    array = quantize(matrix(shape=(33, 320)), format)
    usual = array.dense()
    monkeypatch.setattr(stored, "CACHE_BYTES", cache)
    assert np.array_equal(array.dense(), usual)


def test_astype_reads_the_same_storage_as_another_dtype():
    array = quantize(matrix(), "q4")
    wide = array.astype(np.float64)
    assert wide.fields is array.fields
    assert wide.take(np.array([1])).dtype == wide.dense().dtype == wide.dtype == np.float64
    assert np.array_equal(wide.dense(), array.dense())


def test_the_array_protocol_never_gives_a_view():
    with pytest.raises(ValueError, match="copy=False"):
        np.array(quantize(matrix(), "q8"), copy=False)


@pytest.mark.parametrize(
    ("weight", "format", "named"),
    [
        (np.zeros(4, np.float32), "q4", ((4,),)),
        (np.zeros((2, 33), np.float32), "q4", (32,)),
        (np.zeros((2, 33), np.float32), "q8", (32,)),
        (np.zeros((2, 96), np.float32), "nf4", (64,)),
        (np.zeros((2, 64), np.float32), "q5", ("q5", "float16", "nf4")),
        (np.full((2, 32), 7e4, np.float32), "float16", (70000,)),
        (np.full((2, 32), np.nan, np.float32), "q4", (float("nan"),)),
        (np.full((2, 32), np.inf, np.float32), "q8", (float("inf"),)),
    ],
)
def test_what_cannot_be_stored_is_refused(weight, format, named):
    with refusal(ValueError, *named):
        quantize(weight, format)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda b: (b.view(np.int8), (5, 64)), ("int8",)),
        (lambda b: (b[:, :-1], (5, 64)), ((5, 39),)),
        (lambda b: (b, (5, 65)), ((5, 65),)),
        (lambda b: (b, (6, 64)), ((6, 40),)),
        (lambda b: (np.full_like(b, 255), (5, 64)), ("NaN",)),
    ],
)
def test_odd_blocks_are_refused(change, named):
    blocks, _ = gguf_blocks("q4", (5, 64))
    with refusal(ValueError, *named):
        from_q4_1_blocks(*change(blocks))


def test_an_unknown_format_is_refused():
    with refusal(ValueError, "q3", "q4"):
        StoredArray("q3", (), (1, 1))


def test_an_array_of_numbers_goes_through_the_same_products():
    rng = np.random.default_rng(2)
    w, x, g = rng.random((5, 3)), rng.random((2, 4, 3)), rng.random((2, 4, 5))
    b, a = rng.random((5, 2)), rng.random((2, 3))
    before = w.copy()
    assert not is_stored(w) and dense(w) is w
    assert np.allclose(times_transpose(x, w), x @ w.T) and np.allclose(times(g, w), g @ w)
    assert np.allclose(times(g, plus(w, b, a)), g @ (w + b @ a))
    ids = np.array([[4, 0], [4, 1]])
    assert np.array_equal(take_rows(w, ids), w[ids])
    stored = quantize(matrix(), "q8")
    assert np.array_equal(take_rows(stored, ids), stored.dense()[ids])
    assert np.array_equal(dense(stored), stored.dense())
    assert np.array_equal(w, before)

"""NF4: the codebook that is published, double quantization, and bitsandbytes where it is."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.autograd.normal_float import (
    DoubleQuantized,
    dynamic_codebook,
    nearest,
    nf4_codebook,
)
from minilora.autograd.quantize import quantize

PUBLISHED = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
"""Dettmers et al. 2023, Appendix E."""


def weights(shape, seed=0, spread=0.05):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * spread


def test_the_codebook_is_the_published_one():
    assert np.allclose(nf4_codebook(), PUBLISHED, atol=3e-7)
    assert nf4_codebook()[7] == 0 and nf4_codebook().dtype == np.float32


def test_the_dynamic_codebook_has_a_number_for_each_byte():
    numbers = dynamic_codebook()
    assert len(numbers) == len(set(numbers.tolist())) == 256
    assert (np.diff(numbers) > 0).all()
    assert numbers[-1] == 1 and 0 in numbers
    assert np.allclose(numbers[:127], -numbers[::-1][1:128])  # all but 0 and 1 have a negative
    assert np.isclose(numbers[numbers > 0][0], 0.55e-6)


def test_each_number_gets_the_nearest_code():
    codebook = nf4_codebook()
    numbers = np.random.default_rng(1).uniform(-1, 1, (50, 3)).astype(np.float32)
    codes = nearest(numbers, codebook)
    assert codes.dtype == np.uint8 and codes.shape == numbers.shape
    errors = np.abs(numbers[..., None] - codebook)
    assert np.allclose(np.abs(codebook[codes] - numbers), errors.min(axis=-1))


@pytest.mark.parametrize("shape", [(7, 64), (130, 192), (3, 64 * 300), (1, 64)])
def test_an_error_is_at_most_half_a_gap(shape):
    w = weights(shape, spread=3.0)
    largest = np.repeat(np.abs(w.reshape(shape[0], -1, 64)).max(-1), 64, axis=1)
    stored = quantize(w, "nf4")
    error = np.abs(stored.dense() - w)
    spread = largest.max() - largest.min()
    # The widest gap of the dynamic codebook is 1/64 of a decade's top, so a scale is off by 1/128.
    assert (error <= 0.5 * np.diff(nf4_codebook()).max() * largest + spread / 100 + 1e-6).all()
    assert np.abs(error).max() > 0.01 * largest.max()


def test_double_quantized_scales_are_near_and_cost_a_byte():
    scales = np.abs(weights((9, 600), spread=1.0)).astype(np.float32) + 0.5
    held = DoubleQuantized(scales)
    assert held.shape == (9, 600) and np.asarray(held).shape == (9, 600)
    assert np.abs(np.asarray(held) - scales).max() < (scales.max() - scales.mean()) / 100
    assert held.nbytes == 5400 + 4 * 22 + 4  # 21.09 groups of 256, and the mean
    some = np.array([599, 0, 3, 3])
    assert np.array_equal(held.take(some), np.asarray(held)[:, some])
    assert np.array_equal(held[..., 10:20], np.asarray(held)[:, 10:20])
    assert all(not a.flags.writeable for a in (held.codes, held.group_scales))


def test_groups_run_in_the_files_order():
    """A large scale spoils the precision of its own 256 alone: outputs 0 to 127 of two blocks."""
    scales = np.full((2, 256), 0.5, np.float32)
    scales += np.random.default_rng(0).random((2, 256), dtype=np.float32) * 0.01
    scales[1, 100] = 80.0
    error = np.abs(np.asarray(DoubleQuantized(scales)) - scales)
    assert error[:, 128:].max() < 2e-3 < error[:, :128].mean()


@pytest.mark.parametrize("value", [0.0, 0.25, -1.5, 1e-7])
def test_a_matrix_of_one_number(value):
    w = np.full((2, 128), value, np.float32)
    assert np.allclose(quantize(w, "nf4").dense(), w, rtol=1e-6, atol=1e-12)


@pytest.mark.interop
@pytest.mark.parametrize("shape", [(96, 128), (64, 576), (5, 64)])
def test_it_is_what_bitsandbytes_computes(shape):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip(
        "bitsandbytes.functional", reason="bitsandbytes is not installed"
    )
    w = weights(shape)
    packed, state = functional.quantize_4bit(
        torch.from_numpy(w), blocksize=64, quant_type="nf4", compress_statistics=True
    )
    theirs = functional.dequantize_4bit(packed, state).numpy()
    assert np.allclose(nf4_codebook(), state.code.numpy(), atol=3e-7)
    assert np.allclose(dynamic_codebook(), state.state2.code.numpy(), atol=1e-7)
    ours = quantize(w, "nf4")
    codes = packed.numpy().reshape(shape[0], -1)
    codes = np.stack([codes >> 4, codes & 15], axis=-1).reshape(shape[0], -1, 64)
    low_and_high = ours.fields[0]
    own = np.concatenate([low_and_high & 15, low_and_high >> 4], axis=1)  # (blocks, 64, out)
    assert np.array_equal(own.transpose(2, 0, 1), codes)
    # Where a scale lies half-way between two of the 256 numbers, rounding decides.
    far = np.abs(ours.dense() - theirs) > 1e-6
    assert far.mean() < 0.02 and np.allclose(ours.dense(), theirs, atol=0.01 * np.abs(w).max())

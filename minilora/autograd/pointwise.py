"""Norm, activations and dropout's mask: fused passes over elements, with hand-derived vjps.

Each op here is the fused twin of the op of the same name in `gradients/twins.py`, which says with
primitives what it computes. Every pass over memory costs, so passes run in place on buffers that
the op has just made, and a derivative that is cheaper to finish in the forward pass is stored
there, if some input needs it.
"""

from __future__ import annotations

import math

import numpy as np

from minilora.autograd.ops import unbroadcast
from minilora.autograd.tensor import Tensor, is_grad_enabled
from minilora.backend import Array, get_array_module, to_device


def row_dot(a: Array, b: Array) -> Array:
    """Sum of a * b over the last axis, kept as an axis of length 1.

    NumPy's vecdot reads each operand once and writes no array of products; CuPy has no vecdot.
    """
    if get_array_module(a) is np:
        return np.vecdot(a, b)[..., None]
    return (a * b).sum(axis=-1, keepdims=True)


def _needs(*tensors: Tensor) -> bool:
    return is_grad_enabled() and any(t.requires_grad for t in tensors)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """y = w * x / sqrt(mean(x^2) + eps) over the last axis (Zhang & Sennrich 2019, Eq. 4).

    With n = x / rms and u = g w:   gx = (u - n mean(u n)) / rms,   gw = sum(g n).
    x (..., C), w (C,).
    """
    data, w = x.data, weight.data
    width = data.shape[-1]
    if w.shape != (width,):
        raise ValueError(f"rms_norm got weight {w.shape} for width {width}, expected ({width},)")
    xp = get_array_module(data)
    inv = row_dot(data, data)
    inv *= 1.0 / width
    inv += eps
    xp.sqrt(inv, out=inv)
    xp.divide(1.0, inv, out=inv)
    y = data * inv
    y *= w

    def grad_x(g: Array) -> Array:
        gx = g * w
        pull = row_dot(gx, data)  # u . x, so that n need not be rebuilt for the mean
        pull *= inv * inv * (1.0 / width)
        gx -= data * pull
        gx *= inv
        return gx

    return Tensor.from_op(
        y, (x, grad_x), (weight, lambda g: unbroadcast(g * (data * inv), w.shape)), fresh=True
    )


def _sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), as (1 + tanh(x/2)) / 2: no overflow, and tanh is NumPy's cheapest curve."""
    xp = get_array_module(x)
    s = x * 0.5
    xp.tanh(s, out=s)
    s += 1.0
    s *= 0.5
    return s


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """y = silu(gate) * up (Shazeer 2020, Eq. 6, with the two linear maps outside).

    With s = sigmoid(gate), silu = gate s and silu' = s + silu (1 - s):
        g_up = g silu,   g_gate = g up silu' = g (y + s (up - y)).
    Both shapes (..., F). Stores silu(gate) and up silu'(gate), two arrays; gate, up and the
    sigmoid are free to die.
    """
    if gate.shape != up.shape:
        raise ValueError(f"swiglu got shapes {gate.shape} and {up.shape}, expected equal ones")
    s = _sigmoid(gate.data)
    act = gate.data * s
    y = act * up.data
    if not _needs(gate, up):
        return Tensor(y)
    slope = up.data - y
    slope *= s
    slope += y
    return Tensor.from_op(y, (gate, lambda g: g * slope), (up, lambda g: g * act), fresh=True)


_GELU_C = math.sqrt(2.0 / math.pi)


def gelu(x: Tensor) -> Tensor:
    """y = x/2 (1 + tanh(c (x + 0.044715 x^3))), c = sqrt(2/pi) (Hendrycks & Gimpel 2016, Sec. 2).

    gx = g [ (1 + t)/2 + x/2 (1 - t^2) c (1 + 3 * 0.044715 x^2) ],  t the tanh.
    """
    data = x.data
    xp = get_array_module(data)
    square = data * data  # never x**3: np.power takes a slow path for negative float32
    t = square * (0.044715 * _GELU_C)
    t += _GELU_C
    t *= data
    xp.tanh(t, out=t)
    y = (t + 1.0) * data
    y *= 0.5
    if not _needs(x):
        return Tensor(y)
    derivative = square * (3 * 0.044715 * _GELU_C)
    derivative += _GELU_C
    derivative *= data * (1.0 - t * t)
    derivative += t
    derivative += 1.0
    derivative *= 0.5
    return Tensor.from_op(y, (x, lambda g: g * derivative), fresh=True)


def dropout_mask(shape: tuple[int, ...], p: float, rng: np.random.Generator, like: Array) -> Array:
    """Zeros with probability p, else 1/(1-p); drawn on the CPU so that every device starts equal.

    Raises ValueError unless 0 <= p < 1.
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"got dropout probability {p}, expected 0 <= p < 1")
    keep = (rng.random(shape, dtype=np.float32) >= p).astype(like.dtype)
    keep *= 1.0 / (1.0 - p)
    return to_device(keep, "cpu" if get_array_module(like) is np else "gpu")

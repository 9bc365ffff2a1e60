"""Rotary positions and causal grouped-query attention, each with its backward by hand.

Layout is (B, T, H, dh), as the projections write it. Heads are reached by strided views, on which
`matmul` calls BLAS slice by slice without a copy.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from minilora.autograd.tensor import Tensor
from minilora.backend import Array, get_array_module

SAFE_EXPONENT = 60.0
"""Scores inside +-60 cannot overflow or vanish under float32's exp, so no row maximum is taken."""


def rope_tables(positions: Array, head_dim: int, theta: float) -> tuple[Array, Array]:
    """cos and sin of position * theta^(-2i/dh), i < dh/2 (Su et al. 2021, Sec. 3.2.2), float32.

    positions (...,) integers -> two arrays (..., dh/2).
    """
    if head_dim % 2:
        raise ValueError(f"got head_dim {head_dim}, expected an even number")
    inverse = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = np.asarray(positions, dtype=np.float32)[..., None] * inverse.astype(np.float32)
    return np.cos(angles), np.sin(angles)


def _rotate(x: Array, cos: Array, sin: Array, sign: float) -> Array:
    xp = get_array_module(x)
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    y = xp.empty_like(x)
    xp.multiply(low, cos, out=y[..., :half])
    xp.multiply(high, cos, out=y[..., half:])
    turned = sin if sign > 0 else -sin
    y[..., :half] -= high * turned
    y[..., half:] += low * turned
    return y


def rope(x: Tensor, cos: Array, sin: Array) -> Tensor:
    """Turn each pair (x_i, x_{i + dh/2}) by its position's angle (the Hugging Face pairing).

    y1 = x1 cos - x2 sin,  y2 = x2 cos + x1 sin;  the vjp is the turn by the opposite angle.
    x (B, T, H, dh); cos, sin (T, dh/2) or (B, T, dh/2).
    """
    if x.ndim != 4 or cos.shape[-2:] != (x.shape[1], x.shape[3] // 2):
        raise ValueError(
            f"rope got x {x.shape} and cos {cos.shape}, expected (B, T, H, dh) and (..., T, dh/2)"
        )
    cos, sin = cos[..., None, :], sin[..., None, :]
    return Tensor.from_op(_rotate(x.data, cos, sin, 1.0), (x, lambda g: _rotate(g, cos, sin, -1.0)))


@functools.lru_cache(maxsize=64)
def _causal_keep(queries: int, keys: int) -> np.ndarray:
    """Boolean (T, S): key s is visible to query t, the queries being the last T of S positions."""
    return np.tri(queries, keys, keys - queries, dtype=bool)


def _visible(queries: int, keys: int, start: Array | None, xp: object) -> Array | None:
    """What may be seen, as 0/1 booleans broadcastable to (B, Hkv, rep, T, S); None for all.

    A row padded on the left hides its first start[b] keys; a padding query still sees itself,
    so that no row of weights is empty.
    """
    if start is None:
        if queries == 1:
            return None
        if xp is np:
            return _causal_keep(queries, keys)
        return xp.tri(queries, keys, keys - queries, dtype=bool)  # cheaper to make than to move
    key = xp.arange(keys)
    query = xp.arange(keys - queries, keys)[:, None]
    keep = (key <= query) & ((key >= xp.asarray(start)[:, None, None]) | (key == query))
    return keep[:, None, None]


def _weights(scores: Array, keep: Array | None) -> tuple[Array, Array]:
    """exp(scores - row shift) with hidden keys at 0, in place, and its row sums (..., T, 1).

    The shift cancels in the division by the row sum, so it is skipped when the whole array is
    inside +-SAFE_EXPONENT (two cheap flat reductions in place of a row maximum and a subtraction).
    """
    xp = get_array_module(scores)
    flat_ok = xp is np and scores.min() > -SAFE_EXPONENT and scores.max() < SAFE_EXPONENT
    if not flat_ok:
        if keep is not None:
            scores += xp.where(keep, 0.0, -math.inf).astype(scores.dtype)
        scores -= scores.max(axis=-1, keepdims=True)
    xp.exp(scores, out=scores)
    if keep is not None and flat_ok:
        scores *= keep
    ones = xp.ones((scores.shape[-1], 1), dtype=scores.dtype)
    return scores, xp.matmul(scores, ones)  # a matrix-vector product beats sum(axis=-1)


def _heads(x: Array, groups: int) -> Array:
    """(B, T, H, dh) as a strided view (B, groups, H/groups, T, dh)."""
    batch, time, heads, dim = x.shape
    return x.reshape(batch, time, groups, heads // groups, dim).transpose(0, 2, 3, 1, 4)


def _check_attention(q: Tensor, k: Tensor, v: Tensor) -> None:
    good = q.ndim == 4 and k.ndim == 4 and k.shape == v.shape
    good = good and q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3]
    if not (good and q.shape[1] <= k.shape[1] and q.shape[2] % k.shape[2] == 0):
        raise ValueError(
            f"causal_attention got q {q.shape}, k {k.shape}, v {v.shape}, expected (B, T, H, dh) "
            "and twice (B, S, Hkv, dh) with T <= S and H a multiple of Hkv"
        )


def causal_attention(q: Tensor, k: Tensor, v: Tensor, start: Array | None = None) -> Tensor:
    """o = softmax(q k^T / sqrt(dh), causal) v per head (Vaswani et al. 2017, Eq. 1).

    Grouped keys and values: H query heads share Hkv of them (Ainslie et al. 2023). With
    E = exp(scores), l its row sums, P = E / l, and g' = g / l:
        gv = E^T g',   dS = E * (g' v^T - rowsum(g' * o)),   gq = dS k / sqrt(dh),
        gk = dS^T q / sqrt(dh);   k and v sum over the query heads that share them.
    E is never divided by l: the division touches T x dh numbers instead of T x S.
    q (B, T, H, dh), k and v (B, S, Hkv, dh), queries the last T of S positions; start (B,): the
    number of padding positions on the left of each row. Returns (B, T, H, dh).
    """
    _check_attention(q, k, v)
    xp, groups = get_array_module(q.data), k.shape[2]
    scale = 1.0 / math.sqrt(q.shape[3])
    queries = _heads(q.data * scale, groups)
    keys, values = _heads(k.data, groups), _heads(v.data, groups)
    keep = _visible(q.shape[1], k.shape[1], start, xp)
    weights, total = _weights(queries @ keys.swapaxes(-1, -2), keep)
    out = xp.empty(q.shape, dtype=q.dtype)
    out_heads = _heads(out, groups)
    xp.matmul(weights, values, out=out_heads)
    out_heads /= total

    def product(a: Array, b: Array, shape: tuple[int, ...]) -> Array:
        """a @ b written in the layout `shape`, summed over the query heads that share a key."""
        ga = xp.empty(shape, dtype=out.dtype)
        heads = _heads(ga, groups)
        if heads.shape[2] == a.shape[2]:
            xp.matmul(a, b, out=heads)
        else:
            heads[...] = xp.matmul(a, b).sum(axis=2, keepdims=True)
        return ga

    def prepare(g: Array) -> tuple[Array, Array]:
        gh = _heads(g, groups) / total
        pull = (gh * out_heads).sum(axis=-1, keepdims=True)
        ds = gh @ values.swapaxes(-1, -2)
        ds -= pull
        ds *= weights
        return gh, ds

    def grad_q(s: tuple[Array, Array]) -> Array:
        gq = product(s[1], keys, q_shape)
        gq *= scale
        return gq

    q_shape, k_shape = q.shape, k.shape
    return Tensor.from_op(
        out,
        (q, grad_q),
        (k, lambda s: product(s[1].swapaxes(-1, -2), queries, k_shape)),
        (v, lambda s: product(weights.swapaxes(-1, -2), s[0], k_shape)),
        prepare=prepare,
    )

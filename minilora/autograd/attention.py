"""Rotary positions and causal grouped-query attention, each with its backward by hand.

Layout is (B, T, H, dh), as the projections write it. Heads are reached by strided views, on which
`matmul` calls BLAS slice by slice without a copy.
"""

from __future__ import annotations

import functools
import math
from itertools import pairwise

import numpy as np

from minilora.autograd.pointwise import row_dot
from minilora.autograd.tensor import Tensor
from minilora.backend import Array, get_array_module

SAFE_EXPONENT = 60.0
"""Scores inside +-60 cannot overflow or vanish under float32's exp, so no row maximum is taken."""


def rope_tables(
    positions: Array, head_dim: int, theta: float, heads: int = 1
) -> tuple[Array, Array]:
    """cos and sin of position * theta^(-2i/dh), i < dh/2 (Su et al. 2021, Sec. 3.2.2), float32.

    positions (...,) integers -> two arrays (..., heads * dh), laid out as `rope` multiplies them:
    every head has [cos, cos] and [-sin, sin].
    """
    if head_dim % 2:
        raise ValueError(f"got head_dim {head_dim}, expected an even number")
    inverse = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = np.asarray(positions, dtype=np.float32)[..., None] * inverse.astype(np.float32)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([cos, cos] * heads, axis=-1), np.concatenate([-sin, sin] * heads, axis=-1)


def _turn(x: Array, cos: Array, sin: Array) -> tuple[Array, Array]:
    """x * cos, and x with the halves of its heads swapped, * sin: both (B, T, H, dh) and fresh.

    The swap is two copies; everything else runs along a row of all heads. Loops over half a head
    (16 numbers in the ward's base) made this 3.4 times slower.
    """
    xp, half = get_array_module(x), x.shape[-1] // 2
    row = (*x.shape[:2], -1)
    width = x.shape[2] * x.shape[3]
    cos, sin = cos[..., :width], sin[..., :width]
    straight, swapped = xp.empty(x.shape, x.dtype), xp.empty(x.shape, x.dtype)
    swapped[..., :half], swapped[..., half:] = x[..., half:], x[..., :half]
    xp.multiply(x.reshape(row), cos, out=straight.reshape(row))
    flat = swapped.reshape(row)
    flat *= sin
    return straight, swapped


def rope(x: Tensor, cos: Array, sin: Array) -> Tensor:
    """Turn each pair (x_i, x_{i + dh/2}) by its position's angle (the Hugging Face pairing).

    y1 = x1 cos - x2 sin,  y2 = x2 cos + x1 sin;  the vjp is the turn by the opposite angle.
    x (B, T, H, dh); cos, sin (T, H dh) or (B, T, H dh) from `rope_tables`, or for more heads.
    """
    size = (x.shape[1], x.shape[2] * x.shape[3]) if x.ndim == 4 else (0, 0)
    if x.ndim != 4 or cos.shape[-2] != size[0] or cos.shape[-1] < size[1] or x.shape[3] % 2:
        raise ValueError(
            f"rope got x {x.shape} and cos {cos.shape}, expected (B, T, H, dh) and (..., T, H dh)"
        )
    y, swapped = _turn(x.data, cos, sin)
    y += swapped

    def vjp(g: Array) -> Array:
        gx, swapped = _turn(g, cos, sin)
        gx -= swapped
        return gx

    return Tensor.from_op(y, (x, vjp), fresh=True)


@functools.lru_cache(maxsize=64)
def _causal_keep(queries: int) -> np.ndarray:
    """Boolean (T, T): the key at s is visible to the query at t."""
    return np.tri(queries, dtype=bool)


QUERY_BLOCK = 64
"""Queries of about this many positions look at the keys up to their own last position only."""


def _blocks(queries: int, keys: int, xp: object) -> list[tuple[slice, slice]]:
    """Runs of queries, each with the keys that any of them may see, the queries being the last.

    Half of all scores lie above the diagonal; with runs of 64 most of them are never computed
    (attention forward and backward: 1.35 times faster at T 256, 1.2 at T 150, none at T 64). A
    device has one run, as each costs it a launch.
    """
    count = max(1, round(queries / QUERY_BLOCK)) if xp is np else 1
    edges = [queries * i // count for i in range(count + 1)]
    return [(slice(a, b), slice(keys - queries + b)) for a, b in pairwise(edges)]


def _visible(queries: int, keys: int, start: Array | None, xp: object) -> Array | None:
    """What may be seen, as 0/1 booleans broadcastable to (B, Hkv, rep, T, S); None for all.

    Where nothing is padded, of the last T keys only: all before them are seen. A row padded on
    the left hides its first start[b] keys; a padding query still sees itself, so that no row of
    weights is empty.
    """
    if start is None:
        if queries == 1:
            return None
        return _causal_keep(queries) if xp is np else xp.tri(queries, dtype=bool)
    key = xp.arange(keys)
    query = xp.arange(keys - queries, keys)[:, None]
    keep = (key <= query) & ((key >= xp.asarray(start)[:, None, None]) | (key == query))
    return keep[:, None, None]


def _weights(scores: Array, keep: Array | None) -> tuple[Array, Array]:
    """exp(scores - row shift) with hidden keys at 0, in place, and its row sums (..., T, 1).

    `keep` is about the last keys, as many as it has columns.
    The shift cancels in the division by the row sum, so it is skipped when the whole array is
    inside +-SAFE_EXPONENT (two cheap flat reductions in place of a row maximum and a subtraction).
    """
    xp = get_array_module(scores)
    flat_ok = xp is np and scores.min() > -SAFE_EXPONENT and scores.max() < SAFE_EXPONENT
    last = None if keep is None else scores[..., -keep.shape[-1] :]
    if not flat_ok:
        if last is not None:
            last += xp.where(keep, 0.0, -math.inf).astype(scores.dtype)
        scores -= scores.max(axis=-1, keepdims=True)
    xp.exp(scores, out=scores)
    if last is not None and flat_ok:
        last *= keep
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


def _attend(
    queries: Array, keys: Array, values: Array, out: Array, blocks: list, start: Array | None
) -> tuple[list[Array], list[Array]]:
    """Write softmax(q k^T) v into out; E and its row sums l of every block."""
    xp = get_array_module(out)
    weights, totals = [], []
    for some, seen in blocks:
        scores = queries[..., some, :] @ keys[..., seen, :].swapaxes(-1, -2)
        e, total = _weights(scores, _visible(*scores.shape[-2:], start, xp))
        rows = out[..., some, :]
        xp.matmul(e, values[..., seen, :], out=rows)
        rows /= total
        weights.append(e)
        totals.append(total)
    return weights, totals


def _grouped(x: Array) -> Array:
    """(B, groups, rep, T, n) as (B, groups, rep * T, n): the heads of a group end to end."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _over_queries(blocks: list, left: list[Array], right: list[Array], shape: tuple) -> Array:
    """Sum over blocks, queries and the heads of a group of left^T right, as (B, S, Hkv, dh).

    The last block sees every key, so it writes where the others add.
    """
    xp = get_array_module(left[0])
    out = xp.empty(shape, dtype=left[0].dtype)
    keys = _heads(out, shape[2])[:, :, 0]
    for i in reversed(range(len(blocks))):
        transposed, factor = _grouped(left[i]).swapaxes(-1, -2), _grouped(right[i])
        if i == len(blocks) - 1:
            xp.matmul(transposed, factor, out=keys)
        else:
            some = keys[..., blocks[i][1], :]
            some += xp.matmul(transposed, factor)
    return out


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
    q_shape, k_shape = q.shape, k.shape
    blocks = _blocks(q.shape[1], k.shape[1], xp)
    out = xp.empty(q.shape, dtype=q.dtype)
    out_heads = _heads(out, groups)
    weights, totals = _attend(queries, keys, values, out_heads, blocks, start)

    def prepare(g: Array) -> tuple[list[Array], list[Array]]:
        g_heads, shares, pulls = _heads(g, groups), [], []
        for (some, seen), e, total in zip(blocks, weights, totals, strict=True):
            gh = g_heads[..., some, :] / total
            ds = gh @ values[..., seen, :].swapaxes(-1, -2)
            ds -= row_dot(gh, out_heads[..., some, :])
            ds *= e
            shares.append(gh)
            pulls.append(ds)
        return shares, pulls

    def grad_q(s: tuple[list[Array], list[Array]]) -> Array:
        gq = xp.empty(q_shape, dtype=out.dtype)
        gq_heads = _heads(gq, groups)
        for (some, seen), ds in zip(blocks, s[1], strict=True):
            xp.matmul(ds, keys[..., seen, :], out=gq_heads[..., some, :])
        gq *= scale
        return gq

    def grad_k(s: tuple[list[Array], list[Array]]) -> Array:
        return _over_queries(blocks, s[1], [queries[..., some, :] for some, _ in blocks], k_shape)

    def grad_v(s: tuple[list[Array], list[Array]]) -> Array:
        return _over_queries(blocks, weights, s[0], k_shape)

    return Tensor.from_op(out, (q, grad_q), (k, grad_k), (v, grad_v), prepare=prepare, fresh=True)

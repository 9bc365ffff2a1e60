"""Rotary positions and causal grouped-query attention, each with its backward by hand.

Both are fused twins of the ops of the same names in `gradients/twins.py`, which say with
primitives what they compute. Layout is (B, T, H, dh), as the projections write it. Heads are
reached by strided views, on which `matmul` calls BLAS slice by slice without a copy.
"""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from types import ModuleType
from typing import NamedTuple

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
    """x * cos, and x with the halves of its heads swapped, * sin: two new arrays (B, T, H, dh).

    The swap is two copies; everything else runs along all heads of a position at once, because
    NumPy is slow where its innermost loop is as short as half a head.
    """
    xp, half = get_array_module(x), x.shape[-1] // 2
    heads_joined = (*x.shape[:2], -1)
    width = x.shape[2] * x.shape[3]
    cos, sin = cos[..., :width], sin[..., :width]
    straight, swapped = xp.empty(x.shape, x.dtype), xp.empty(x.shape, x.dtype)
    swapped[..., :half], swapped[..., half:] = x[..., half:], x[..., :half]
    xp.multiply(x.reshape(heads_joined), cos, out=straight.reshape(heads_joined))
    swapped_joined = swapped.reshape(heads_joined)
    swapped_joined *= sin
    return straight, swapped


def rope(x: Tensor, cos: Array, sin: Array) -> Tensor:
    """Turn each pair (x_i, x_{i + dh/2}) by its position's angle (the Hugging Face pairing).

    y1 = x1 cos - x2 sin,  y2 = x2 cos + x1 sin;  the vjp is the turn by the opposite angle.
    x (B, T, H, dh); cos, sin (T, H dh) or (B, T, H dh) from `rope_tables`, or for more heads.
    """
    positions, width = (x.shape[1], x.shape[2] * x.shape[3]) if x.ndim == 4 else (0, 0)
    if x.ndim != 4 or cos.shape[-2] != positions or cos.shape[-1] < width or x.shape[3] % 2:
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


QUERY_BLOCK = 64
"""Queries of about this many positions look at the keys up to their own last position only."""


class _Block(NamedTuple):
    """A run of queries, and the keys that any of them may see."""

    queries: slice
    keys: slice


def attention_blocks(queries: int, keys: int, xp: ModuleType = np) -> list[_Block]:
    """All queries in runs; they are the last of the positions that have keys.

    Half of all scores lie above the diagonal, and with short runs most of those are never
    computed. On a device all queries are one run, as each run costs it a launch.
    """
    count = max(1, round(queries / QUERY_BLOCK)) if xp is np else 1
    edges = [queries * i // count for i in range(count + 1)]
    return [_Block(slice(a, b), slice(keys - queries + b)) for a, b in pairwise(edges)]


@functools.lru_cache(maxsize=64)
def _causal_mask(queries: int) -> np.ndarray:
    """Boolean (T, T): the key at s is visible to the query at t."""
    return np.tri(queries, dtype=bool)


def _visible(queries: int, keys: int, start: Array | None, xp: ModuleType) -> Array | None:
    """Which keys each query sees: booleans that broadcast to (B, Hkv, rep, T, S), or None for all.

    Without padding the answer is about the last T keys only, since every query sees all before
    them. A row that is padded on the left hides its first start[b] keys; a padding query still
    sees itself, so that no row of weights is empty.
    """
    if start is None:
        if queries == 1:
            return None
        return _causal_mask(queries) if xp is np else xp.tri(queries, dtype=bool)
    key = xp.arange(keys)
    query = xp.arange(keys - queries, keys)[:, None]
    visible = (key <= query) & ((key >= xp.asarray(start)[:, None, None]) | (key == query))
    return visible[:, None, None]


def _exp_(scores: Array, visible: Array | None) -> Array:
    """exp(scores - a shift per row) with hidden keys at 0, in place.

    `visible` is about the last keys, as many as it has columns. The shift is there against
    overflow and cancels in the division by the row sum, so it is left out where no score can
    overflow: looking for the least and the largest score costs less than a maximum per row and a
    subtraction.
    """
    xp = get_array_module(scores)
    last_keys = None if visible is None else scores[..., -visible.shape[-1] :]
    if xp is np and scores.min() > -SAFE_EXPONENT and scores.max() < SAFE_EXPONENT:
        xp.exp(scores, out=scores)
        if last_keys is not None:
            last_keys *= visible
        return scores
    if last_keys is not None:
        last_keys += xp.where(visible, 0.0, -math.inf).astype(scores.dtype)
    scores -= scores.max(axis=-1, keepdims=True)
    return xp.exp(scores, out=scores)


def _row_sums(e: Array) -> Array:
    """(..., T, S) -> (..., T, 1), as a product with ones: faster than a sum over the last axis."""
    xp = get_array_module(e)
    return xp.matmul(e, xp.ones((e.shape[-1], 1), dtype=e.dtype))


def _by_head(x: Array, groups: int) -> Array:
    """(B, T, H, dh) as a strided view (B, groups, H/groups, T, dh)."""
    batch, time, heads, dim = x.shape
    return x.reshape(batch, time, groups, heads // groups, dim).transpose(0, 2, 3, 1, 4)


def _joined(past: tuple[Array, Array] | None, k: Tensor, v: Tensor) -> tuple[Array, Array]:
    """Keys and values with those of the past before them. Raises ValueError for other shapes."""
    if past is None:
        return k.data, v.data
    wanted = [(t.shape[:1], t.shape[2:]) for t in (k, v)]
    if [(x.shape[:1], x.shape[2:]) for x in past] != wanted or past[0].shape != past[1].shape:
        raise ValueError(
            f"causal_attention got past {past[0].shape} and {past[1].shape} for k {k.shape} and v "
            f"{v.shape}, expected twice (B, P, Hkv, dh)"
        )
    xp = get_array_module(k.data)
    return tuple(xp.concatenate(pair, axis=1) for pair in zip(past, (k.data, v.data), strict=True))


def _check_attention(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...]) -> None:
    good = len(q) == 4 and len(k) == 4 and k == v
    good = good and q[0] == k[0] and q[3] == k[3]
    if not (good and q[1] <= k[1] and q[2] % k[2] == 0):
        raise ValueError(
            f"causal_attention got q {q}, k {k}, v {v}, expected (B, T, H, dh) "
            "and twice (B, S, Hkv, dh) with T <= S and H a multiple of Hkv"
        )


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    start: Array | None = None,
    past: tuple[Array, Array] | None = None,
) -> Tensor:
    """o = softmax(q k^T / sqrt(dh), causal) v per head (Vaswani et al. 2017, Eq. 1).

    Grouped keys and values: H query heads share Hkv of them (Ainslie et al. 2023). With
    E = exp(scores), l its row sums, P = E / l, and g' = g / l:
        gv = E^T g',   dS = E * (g' v^T - rowsum(g' * o)),   gq = dS k / sqrt(dh),
        gk = dS^T q / sqrt(dh);   k and v sum over the query heads that share them.
    E is never divided by l: the division touches T x dh numbers instead of T x S.
    q (B, T, H, dh), k and v (B, S, Hkv, dh), queries the last T of S positions; start (B,): the
    number of padding positions on the left of each row. past: keys and values (B, P, Hkv, dh) of
    positions before those of k and v, constants that get no gradient: gk and gv are summed for the
    others alone, and S counts both. Returns (B, T, H, dh).
    """
    k_shape = k.shape
    k_data, v_data = _joined(past, k, v)
    _check_attention(q.shape, k_data.shape, v_data.shape)
    xp, groups = get_array_module(q.data), k_shape[2]
    q_shape, constants = q.shape, k_data.shape[1] - k_shape[1]
    scale = 1.0 / math.sqrt(q.shape[3])
    out = xp.empty(q.shape, dtype=q.dtype)
    # Everything by head: (B, Hkv, H/Hkv, T or S, dh), where H/Hkv is 1 for keys and values.
    queries, outputs = _by_head(q.data * scale, groups), _by_head(out, groups)
    keys, values = _by_head(k_data, groups), _by_head(v_data, groups)

    blocks = attention_blocks(q.shape[1], k_data.shape[1], xp)
    exps, row_sums = [], []  # E and l of each block
    for block in blocks:
        scores = queries[..., block.queries, :] @ keys[..., block.keys, :].swapaxes(-1, -2)
        e = _exp_(scores, _visible(*scores.shape[-2:], start, xp))
        total = _row_sums(e)
        o = outputs[..., block.queries, :]
        xp.matmul(e, values[..., block.keys, :], out=o)
        o /= total
        exps.append(e)
        row_sums.append(total)

    def prepare(g: Array) -> tuple[list[Array], list[Array]]:
        """g' and dS of each block."""
        g_by_head = _by_head(g, groups)
        scaled_gs, score_gs = [], []
        for block, e, total in zip(blocks, exps, row_sums, strict=True):
            scaled_g = g_by_head[..., block.queries, :] / total
            score_g = scaled_g @ values[..., block.keys, :].swapaxes(-1, -2)
            score_g -= row_dot(scaled_g, outputs[..., block.queries, :])
            score_g *= e
            scaled_gs.append(scaled_g)
            score_gs.append(score_g)
        return scaled_gs, score_gs

    def grad_q(prepared: tuple[list[Array], list[Array]]) -> Array:
        _, score_gs = prepared
        gq = xp.empty(q_shape, dtype=out.dtype)
        gq_by_head = _by_head(gq, groups)
        for block, score_g in zip(blocks, score_gs, strict=True):
            gq_block = gq_by_head[..., block.queries, :]
            xp.matmul(score_g, keys[..., block.keys, :], out=gq_block)
        gq *= scale
        return gq

    def grad_k(prepared: tuple[list[Array], list[Array]]) -> Array:
        _, score_gs = prepared
        query_rows = [queries[..., block.queries, :] for block in blocks]
        return _sum_over_queries(blocks, score_gs, query_rows, k_shape, constants)

    def grad_v(prepared: tuple[list[Array], list[Array]]) -> Array:
        scaled_gs, _ = prepared
        return _sum_over_queries(blocks, exps, scaled_gs, k_shape, constants)

    return Tensor.from_op(out, (q, grad_q), (k, grad_k), (v, grad_v), prepare=prepare, fresh=True)


def _sum_over_queries(
    blocks: list[_Block],
    factors: list[Array],
    rows: list[Array],
    shape: tuple[int, ...],
    constants: int = 0,
) -> Array:
    """For every key, the sum over all queries t of factor[t, key] * rows[t]: (B, S, Hkv, dh).

    factors: per block, one number per query and key; rows: per block, dh numbers per query.
    Queries of all heads that share a key are summed as well. The first `constants` keys are left
    out: nobody asks for their gradients, and S counts the others.
    """
    xp = get_array_module(factors[0])
    out = xp.empty(shape, dtype=factors[0].dtype)
    by_head = _by_head(out, shape[2])[:, :, 0]  # (B, Hkv, S, dh), a view of out
    last = len(blocks) - 1
    for i in range(last, -1, -1):  # the last block sees every key: it writes, the others add
        factor = factors[i][..., constants:]
        transposed, right = _heads_joined(factor).swapaxes(-1, -2), _heads_joined(rows[i])
        if i == last:
            xp.matmul(transposed, right, out=by_head)
        else:
            seen = by_head[..., : factor.shape[-1], :]
            seen += xp.matmul(transposed, right)
    return out


def _heads_joined(x: Array) -> Array:
    """(B, Hkv, rep, T, n) as (B, Hkv, rep * T, n): the query heads of a group end to end."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])

"""Fused ops with hand-derived vjps: linear maps, LoRA, embedding and the loss.

A fused op does in a few passes, with one vjp per input, what several primitives of `ops.py` do
with one each. Its specification is its twin in `gradients/twins.py`, the same formula written
with primitives: value and gradients must agree. The model runs the fused ops.

This module is also the one to import from: it lists every fused op of the engine
(`from minilora.autograd import functional as F`). Arrays run (..., C). A frozen weight may be a
`StoredArray`, whose numbers are made for each product and never kept from the forward to the
backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np

from minilora.autograd.attention import causal_attention, rope, rope_tables
from minilora.autograd.dora import dora_linear
from minilora.autograd.pointwise import dropout_mask, gelu, rms_norm, swiglu
from minilora.autograd.products import (
    Matrix,
    as_rows,
    plus,
    take_rows,
    times,
    times_transpose,
)
from minilora.autograd.tensor import Tensor
from minilora.autograd.vera import vera_linear
from minilora.backend import Array, get_array_module

__all__ = [
    "IGNORE",
    "causal_attention",
    "dora_linear",
    "dropout_mask",
    "embedding",
    "gelu",
    "labelled_positions",
    "linear",
    "linear_cross_entropy",
    "lora_linear",
    "put_rows",
    "rms_norm",
    "rope",
    "rope_tables",
    "swiglu",
    "vera_linear",
]

IGNORE = -100
"""The label that means: no loss here (the value that PyTorch and Hugging Face use)."""


def _check_linear(name: str, x: Tensor, weight: Tensor) -> None:
    if weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{name} got x {x.shape} and weight {weight.shape}, expected (..., in) and (out, in)"
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b.   gx = g W,   gW = g^T x,   gb = sum of g's rows

    x (..., in), W (out, in), b (out,) -> (..., out).
    """
    _check_linear("linear", x, weight)
    data, w = x.data, weight.data
    y = times_transpose(data, w)
    inputs = [(x, lambda g: times(g, w)), (weight, lambda g: as_rows(g).T @ as_rows(data))]
    if bias is not None:
        if bias.shape != (w.shape[0],):
            raise ValueError(f"linear got bias {bias.shape}, expected ({w.shape[0]},)")
        y += bias.data
        inputs.append((bias, lambda g: as_rows(g).sum(axis=0)))
    return Tensor.from_op(y, *inputs, fresh=True)


def _check_factors(a: Array, b: Array, w: Matrix) -> None:
    if a.shape != (a.shape[0], w.shape[1]) or b.shape != (w.shape[0], a.shape[0]):
        raise ValueError(
            f"lora_linear got A {a.shape} and B {b.shape} for W {w.shape}, "
            f"expected (r, {w.shape[1]}) and ({w.shape[0]}, r)"
        )


def lora_linear(
    x: Tensor,
    weight: Tensor,
    lora_A: Tensor,
    lora_B: Tensor,
    scaling: float,
    bias: Tensor | None = None,
    keep: Array | None = None,
) -> Tensor:
    """y = x W^T + b + s (x' A^T) B^T, with x' = x * keep   (Hu et al. 2021, Eq. 3)

    With h = x' A^T and u = s g B:   gA = u^T x',   gB = s g^T h,   gx = g W + keep * (u A),
    gW = g^T x where W is trained too. h is made in the backward pass, so x alone is kept for it.
    x (..., in), W (out, in), A (r, in), B (out, r); keep: a dropout mask like x, or None.
    """
    _check_linear("lora_linear", x, weight)
    data, w, a, b = x.data, weight.data, lora_A.data, lora_B.data
    _check_factors(a, b, w)
    dropped = data if keep is None else data * keep
    scaled_b = b * scaling  # s is in the small matrix, which is cheaper than in the activations
    if keep is None and folding_pays(data.size // data.shape[-1], w.shape[1], w.shape[0]):
        y, grad_x = _lora_folded(data, w, a, scaled_b)
    else:
        y, grad_x = _lora_beside(data, dropped, w, a, scaled_b, keep)

    def prepare(g: Array) -> tuple[Array, Array]:
        return g, times(g, scaled_b)

    def grad_a(gu: tuple[Array, Array]) -> Array:
        _, u = gu
        return as_rows(u).T @ as_rows(dropped)

    def grad_b(gu: tuple[Array, Array]) -> Array:
        g, _ = gu
        h = times_transpose(as_rows(dropped), a)
        return (as_rows(g).T @ h) * scaling

    inputs = [
        (x, grad_x),
        (weight, lambda gu: as_rows(gu[0]).T @ as_rows(data)),
        (lora_A, grad_a),
        (lora_B, grad_b),
    ]
    if bias is not None:
        y += bias.data
        inputs.append((bias, lambda gu: as_rows(gu[0]).sum(axis=0)))
    return Tensor.from_op(y, *inputs, prepare=prepare, fresh=True)


LoraPasses = tuple[Array, Callable[[tuple[Array, Array]], Array]]
"""y without the bias, and the vjp (g, u) -> gx."""


def _lora_beside(
    x: Array, dropped: Array, w: Matrix, a: Array, scaled_b: Array, keep: Array | None
) -> LoraPasses:
    """As the formula reads: the thin products (x' A^T) B^T beside x W^T."""
    y = times_transpose(x, w)
    y += times_transpose(times_transpose(dropped, a), scaled_b)

    def grad_x(gu: tuple[Array, Array]) -> Array:
        g, u = gu
        gx = times(g, w)
        through_adapter = times(u, a)
        if keep is not None:
            through_adapter *= keep
        gx += through_adapter
        return gx

    return y, grad_x


def _lora_folded(x: Array, w: Matrix, a: Array, scaled_b: Array) -> LoraPasses:
    """One product with W + s B A, forward and backward. Only without dropout, where x' = x."""
    total = plus(w, scaled_b, a)
    return times_transpose(x, total), lambda gu: times(gu[0], total)


def folding_pays(rows: int, inputs: int, outputs: int) -> bool:
    """Whether building W + s B A costs less than the thin products that it spares.

    It takes r * in * out multiplications once; the thin products take r * (in + out) for each row
    of x, in the forward and again in the backward pass.
    """
    return rows * (inputs + outputs) > inputs * outputs


def _check_ids(ids: Array, count: int) -> None:
    """Bounds of ids on the host; a device would wrap a wrong index instead of raising."""
    if ids.dtype.kind not in "iu":
        raise ValueError(f"embedding got ids of dtype {ids.dtype}, expected integers")
    if isinstance(ids, np.ndarray) and ids.size and not 0 <= ids.min() <= ids.max() < count:
        raise ValueError(
            f"embedding got ids from {ids.min()} to {ids.max()}, expected 0 to {count - 1}"
        )


def embedding(weight: Tensor, ids: Array) -> Tensor:
    """y[...] = W[ids[...]].   gW[v] = sum of g where ids == v

    weight (V, C), ids any integer shape, on the host (then checked and moved to W's device) or
    with W -> (*ids.shape, C). An id may repeat, so the cotangents of equal ids are added up: on
    the host by sorting the ids and summing each run of equal ones, which has a fixed order and is
    faster than `np.add.at`.
    """
    w = weight.data
    _check_ids(ids, w.shape[0])
    xp = get_array_module(w)
    ids = xp.asarray(ids)

    def vjp(g: Array) -> Array:
        gw = xp.zeros_like(w)
        flat_ids, g_rows = ids.reshape(-1), as_rows(g)
        if flat_ids.size == 0:
            return gw
        if xp is not np:  # CuPy has no reduceat
            xp.add.at(gw, flat_ids, g_rows)
            return gw
        order = np.argsort(flat_ids, kind="stable")
        sorted_ids = flat_ids[order]
        run_starts = np.flatnonzero(np.diff(sorted_ids, prepend=-1))
        gw[sorted_ids[run_starts]] = np.add.reduceat(g_rows[order], run_starts, axis=0)
        return gw

    return Tensor.from_op(take_rows(w, ids), (weight, vjp), fresh=True)


def put_rows(weight: Tensor, rows: Tensor, ids: Array) -> Tensor:
    """W with `rows` (k, C) in place of W[ids].   grows = g[ids],   gW = g, and 0 at ids

    weight (V, C), ids (k,), no two of them equal. The result is a new array, as large as W.
    """
    w = weight.data
    _check_ids(ids, w.shape[0])
    if rows.shape != (ids.size, w.shape[1]):
        raise ValueError(f"put_rows got {rows.shape} rows for {ids.size} ids of W {w.shape}")
    xp = get_array_module(w)
    ids = xp.asarray(ids)
    out = w.copy()
    out[ids] = rows.data

    def grad_weight(g: Array) -> Array:
        gw = g.copy()
        gw[ids] = 0
        return gw

    return Tensor.from_op(out, (weight, grad_weight), (rows, lambda g: g[ids]), fresh=True)


def _check_labels(labels: Array, shape: tuple[int, ...], vocab: int) -> None:
    if labels.shape != shape:
        raise ValueError(f"got labels of shape {labels.shape}, expected {shape}")
    if isinstance(labels, np.ndarray) and labels.size:
        known = labels[labels != IGNORE]
        if known.size and not 0 <= known.min() <= known.max() < vocab:
            raise ValueError(
                f"got labels from {known.min()} to {known.max()}, "
                f"expected 0 to {vocab - 1} or {IGNORE} for none"
            )


def labelled_positions(labels: Array) -> Array:
    """Numbers (n,) of the positions, counted through all axes, whose label is not IGNORE.

    They are found where the labels are. A device would make the caller wait for how many there
    are, so a training step hands its labels over on the host.
    """
    return get_array_module(labels).flatnonzero(labels.reshape(-1) != IGNORE)


def _labelled(labels: Array, xp: ModuleType) -> tuple[Array, Array]:
    """Positions (n,) of the labels that are not IGNORE, and these labels, as arrays of `xp`."""
    positions = labelled_positions(labels)
    return xp.asarray(positions), xp.asarray(labels.reshape(-1)[positions])


def _softmax_loss_(logits: Array, labels: Array, normalizer: float) -> tuple[Array, Array]:
    """The loss, and (softmax - onehot) / normalizer, written over `logits` (n, V).

    labels (n,), none of them IGNORE.
    """
    xp = get_array_module(logits)
    label_of_each = (xp.arange(labels.shape[0]), labels)
    logits -= logits.max(axis=-1, keepdims=True)
    picked = logits[label_of_each]
    exps = xp.exp(logits, out=logits)
    total = exps.sum(axis=-1, keepdims=True)
    loss = (xp.log(total[:, 0]) - picked).sum() * (1.0 / normalizer)
    exps /= total * normalizer
    exps[label_of_each] -= 1.0 / normalizer
    return xp.asarray(loss, dtype=logits.dtype), exps


def linear_cross_entropy(
    h: Tensor, weight: Tensor, labels: Array, normalizer: float | None = None
) -> Tensor:
    """-sum(log softmax(h W^T)[label]) / normalizer over positions whose label is not IGNORE.

    With p = (softmax - onehot) / normalizer at the labelled positions:  gh = g p W there and 0
    elsewhere,  gW = g p^T h.   h (..., C), W (V, C), labels (...); the normalizer is the number
    of labels unless given. Logits are computed only where there is a label: in fine-tuning the
    prompt has none, and this layer is the widest of the model.
    Raises ValueError where there is no label at all.
    """
    _check_linear("linear_cross_entropy", h, weight)
    _check_labels(labels, h.shape[:-1], weight.shape[0])
    w, xp, shape = weight.data, get_array_module(h.data), h.shape
    positions, targets = _labelled(labels, xp)
    count = _loss_normalizer(positions, normalizer)
    picked = as_rows(h.data)[positions]
    loss, p = _softmax_loss_(times_transpose(picked, w), targets, count)

    def grad_h(g: Array) -> Array:
        gh = xp.zeros(shape, dtype=picked.dtype)
        as_rows(gh)[positions] = times(p, w) * g
        return gh

    return Tensor.from_op(loss, (h, grad_h), (weight, lambda g: (p.T @ picked) * g), fresh=True)


def _loss_normalizer(positions: Array, normalizer: float | None) -> float:
    if normalizer is None and positions.size == 0:
        raise ValueError(f"cross entropy got only {IGNORE} labels, expected at least one target")
    if normalizer is not None and not normalizer > 0:
        raise ValueError(f"cross entropy got normalizer {normalizer}, expected a number above 0")
    return float(positions.size if normalizer is None else normalizer)

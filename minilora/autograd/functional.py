"""Fused ops with hand-derived vjps: linear maps, LoRA, embedding and the losses.

This module is also the one to import from: it lists every fused op of the engine
(`from minilora.autograd import functional as F`). Arrays run (..., C); a linear map flattens the
leading axes into rows, so that BLAS sees one tall matrix instead of a loop over the batch. A
frozen weight may be a `StoredArray`: its numbers are then made for each product, and never kept
from the forward to the backward pass.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from minilora.autograd.attention import causal_attention, rope, rope_tables
from minilora.autograd.pointwise import (
    dropout,
    dropout_mask,
    gelu,
    layer_norm,
    rms_norm,
    silu,
    softmax,
    swiglu,
)
from minilora.autograd.stored_array import StoredArray, Update, times, times_transpose
from minilora.autograd.tensor import Tensor
from minilora.backend import Array, get_array_module

__all__ = [
    "IGNORE",
    "causal_attention",
    "cross_entropy",
    "dropout",
    "dropout_mask",
    "embedding",
    "gelu",
    "labelled_positions",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "lora_linear",
    "rms_norm",
    "rope",
    "rope_tables",
    "silu",
    "softmax",
    "swiglu",
]

IGNORE = -100
"""The label that means: no loss here (the value that PyTorch and Hugging Face use)."""


def _rows(x: Array) -> Array:
    """x (..., C) as a matrix (N, C): a view where x is contiguous."""
    return x.reshape(-1, x.shape[-1])


def _times(x: Array, m: Array) -> Array:
    """x (..., K) @ m (K, N) -> (..., N), fresh and owned by the caller.

    The product is written through a flat view of the result, so that it is one BLAS call.
    """
    xp = get_array_module(x)
    out = xp.empty((*x.shape[:-1], m.shape[1]), dtype=x.dtype)
    xp.matmul(_rows(x), m, out=_rows(out))
    return out


def _through(x: Array, w: Array | StoredArray, update: Update = None) -> Array:
    """x (..., in) W^T -> (..., out), or x (W + b a)^T with a stored W and its update (b, a)."""
    if isinstance(w, StoredArray):
        return times_transpose(x, w, update)
    return _times(x, w.T)


def _back(g: Array, w: Array | StoredArray, update: Update = None) -> Array:
    """g (..., out) W -> (..., in): the vjp of `_through` for x."""
    return times(g, w, update) if isinstance(w, StoredArray) else _times(g, w)


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
    y = _through(data, w)
    inputs = [(x, lambda g: _back(g, w)), (weight, lambda g: _rows(g).T @ _rows(data))]
    if bias is not None:
        if bias.shape != (w.shape[0],):
            raise ValueError(f"linear got bias {bias.shape}, expected ({w.shape[0]},)")
        y += bias.data
        inputs.append((bias, lambda g: _rows(g).sum(axis=0)))
    return Tensor.from_op(y, *inputs, fresh=True)


def _check_factors(a: Array, b: Array, w: Array) -> None:
    if a.shape != (a.shape[0], w.shape[1]) or b.shape != (w.shape[0], a.shape[0]):
        raise ValueError(
            f"lora_linear got A {a.shape} and B {b.shape} for W {w.shape}, "
            f"expected (r, {w.shape[1]}) and ({w.shape[0]}, r)"
        )


def _fold(w: Array | StoredArray, b: Array, a: Array) -> tuple[Array | StoredArray, Update]:
    """W + b a for both passes; a stored W gets it in each, in the numbers just made."""
    return (w, (b, a)) if isinstance(w, StoredArray) else (w + b @ a, None)


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
    Without dropout x' = x and y = x (W + s B A)^T: building W + s B A takes r * in * out
    multiplications, spares N rows of thin products and a pass over y and gx, and is done where
    that is less.
    x (..., in), W (out, in), A (r, in), B (out, r); keep: a dropout mask like x, or None.
    """
    _check_linear("lora_linear", x, weight)
    data, w, a, b = x.data, weight.data, lora_A.data, lora_B.data
    _check_factors(a, b, w)
    dropped = data if keep is None else data * keep
    scaled_b = b * scaling  # scaling the small matrix, not the activations
    rows = data.size // data.shape[-1]
    folded = keep is None and rows * (w.shape[0] + w.shape[1]) > w.size
    w, update = _fold(w, scaled_b, a) if folded else (w, None)
    y = _through(data, w, update)
    if not folded:
        y += _times(_times(dropped, a.T), scaled_b.T)

    def prepare(g: Array) -> tuple[Array, Array]:
        return g, _times(g, scaled_b)

    def grad_x(gu: tuple[Array, Array]) -> Array:
        g, u = gu
        gx = _back(g, w, update)
        if not folded:
            through = _times(u, a)
            if keep is not None:
                through *= keep
            gx += through
        return gx

    inputs = [
        (x, grad_x),
        (weight, lambda gu: _rows(gu[0]).T @ _rows(data)),
        (lora_A, lambda gu: _rows(gu[1]).T @ _rows(dropped)),
        (lora_B, lambda gu: (_rows(gu[0]).T @ _times(_rows(dropped), a.T)) * scaling),
    ]
    if bias is not None:
        y += bias.data
        inputs.append((bias, lambda gu: _rows(gu[0]).sum(axis=0)))
    return Tensor.from_op(y, *inputs, prepare=prepare, fresh=True)


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
    with W -> (*ids.shape, C). Sorting the ids and adding up runs (`reduceat`) has a fixed order
    and takes half the time of `np.add.at`.
    """
    w = weight.data
    _check_ids(ids, w.shape[0])
    xp = get_array_module(w)
    ids = xp.asarray(ids)

    def vjp(g: Array) -> Array:
        gw = xp.zeros_like(w)
        flat, rows = ids.reshape(-1), _rows(g)
        if flat.size == 0:
            return gw
        if xp is not np:  # CuPy has no reduceat
            xp.add.at(gw, flat, rows)
            return gw
        order = np.argsort(flat, kind="stable")
        ordered = flat[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        gw[ordered[starts]] = np.add.reduceat(rows[order], starts, axis=0)
        return gw

    if isinstance(w, StoredArray):
        return Tensor(w.take(ids))
    return Tensor.from_op(w[ids], (weight, vjp), fresh=True)


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
    where = labelled_positions(labels)
    return xp.asarray(where), xp.asarray(labels.reshape(-1)[where])


def _softmax_loss_(logits: Array, labels: Array, normalizer: float) -> tuple[Array, Array]:
    """Loss, and d(loss)/d(logits) left in `logits`' own buffer; labels all valid, rows (N, V)."""
    xp = get_array_module(logits)
    rows = xp.arange(labels.shape[0])
    logits -= logits.max(axis=-1, keepdims=True)
    picked = logits[rows, labels]
    xp.exp(logits, out=logits)
    total = logits.sum(axis=-1, keepdims=True)
    loss = (xp.log(total[:, 0]) - picked).sum() * (1.0 / normalizer)
    logits /= total * normalizer
    logits[rows, labels] -= 1.0 / normalizer
    return xp.asarray(loss, dtype=logits.dtype), logits


def cross_entropy(logits: Tensor, labels: Array, normalizer: float | None = None) -> Tensor:
    """-sum(log softmax(logits)[label]) / normalizer over positions whose label is not IGNORE.

    g_logits = g (softmax - onehot) / normalizer.   logits (..., V), labels (...); the normalizer
    is the number of labels unless given. Raises ValueError where there is no label at all.
    """
    _check_labels(labels, logits.shape[:-1], logits.shape[-1])
    xp = get_array_module(logits.data)
    where, targets = _labelled(labels, xp)
    count = _count(where, normalizer)
    loss, p = _softmax_loss_(_rows(logits.data)[where], targets, count)
    shape = logits.shape

    def vjp(g: Array) -> Array:
        out = xp.zeros(shape, dtype=p.dtype)
        _rows(out)[where] = p * g
        return out

    return Tensor.from_op(loss, (logits, vjp), fresh=True)


def linear_cross_entropy(
    h: Tensor, weight: Tensor, labels: Array, normalizer: float | None = None
) -> Tensor:
    """cross_entropy(h W^T, labels), with logits computed only where there is a label.

    With p = (softmax - onehot) / normalizer at the labelled rows:  gh = g p W there and 0
    elsewhere,  gW = g p^T h.   h (..., C), W (V, C), labels (...). In fine-tuning the prompt has
    no labels, and this layer is the widest of the model.
    """
    _check_linear("linear_cross_entropy", h, weight)
    _check_labels(labels, h.shape[:-1], weight.shape[0])
    w, xp, shape = weight.data, get_array_module(h.data), h.shape
    where, targets = _labelled(labels, xp)
    count = _count(where, normalizer)
    picked = _rows(h.data)[where]
    loss, p = _softmax_loss_(_through(picked, w), targets, count)

    def grad_h(g: Array) -> Array:
        gh = xp.zeros(shape, dtype=picked.dtype)
        _rows(gh)[where] = _back(p, w) * g
        return gh

    return Tensor.from_op(loss, (h, grad_h), (weight, lambda g: (p.T @ picked) * g), fresh=True)


def _count(where: Array, normalizer: float | None) -> float:
    if normalizer is None and where.size == 0:
        raise ValueError(f"cross entropy got only {IGNORE} labels, expected at least one target")
    if normalizer is not None and not normalizer > 0:
        raise ValueError(f"cross entropy got normalizer {normalizer}, expected a number above 0")
    return float(where.size if normalizer is None else normalizer)

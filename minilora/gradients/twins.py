"""Slow twins: every fused op written again with primitives only, so that no vjp is by hand twice.

They are what the fused ops are tested against, and what their speed is compared with. Each has
the signature of its fused op.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from minilora.autograd import functional as F
from minilora.autograd import ops
from minilora.autograd.tensor import Tensor
from minilora.backend import Array, get_array_module


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b with a transpose, a matmul and an add."""
    y = ops.matmul(x, ops.swapaxes(weight, 0, 1))
    return y if bias is None else y + bias


def lora_linear(
    x: Tensor,
    weight: Tensor,
    lora_A: Tensor,
    lora_B: Tensor,
    scaling: float,
    bias: Tensor | None = None,
    keep: Array | None = None,
) -> Tensor:
    """x W^T + b + s (x' A^T) B^T as three linear maps and an add."""
    dropped = x if keep is None else x * Tensor(keep)
    return linear(x, weight, bias) + linear(linear(dropped, lora_A), lora_B) * scaling


def dora_linear(
    x: Tensor,
    weight: Tensor,
    lora_A: Tensor,
    lora_B: Tensor,
    magnitude: Tensor,
    norm: Array,
    scaling: float,
    bias: Tensor | None = None,
    keep: Array | None = None,
) -> Tensor:
    """m / n times the product with W + s B A, which is formed, and W for what dropout left out."""
    dropped = x if keep is None else x * Tensor(keep)
    total = weight + ops.matmul(lora_B, lora_A) * scaling
    return linear(dropped, total) * (magnitude / Tensor(norm)) + linear(x - dropped, weight, bias)


def vera_linear(
    x: Tensor,
    weight: Tensor,
    lambda_b: Tensor,
    lambda_d: Tensor,
    vera_A: Array,
    vera_B: Array,
    bias: Tensor | None = None,
    keep: Array | None = None,
) -> Tensor:
    """The linear maps of A and B, each followed by a product with its vector."""
    dropped = x if keep is None else x * Tensor(keep)
    turned = linear(dropped, Tensor(vera_A)) * lambda_d
    return linear(x, weight, bias) + linear(turned, Tensor(vera_B)) * lambda_b


def embedding(weight: Tensor, ids: Array) -> Tensor:
    """One-hot rows times W."""
    return ops.matmul(_one_hot(ids, weight.shape[0], weight), weight)


def put_rows(weight: Tensor, rows: Tensor, ids: Array) -> Tensor:
    """W where no id points, and one-hot columns times the rows."""
    hot = _one_hot(ids, weight.shape[0], weight)
    kept = Tensor(1 - hot.data.sum(axis=0)[:, None])
    return weight * kept + ops.matmul(ops.swapaxes(hot, 0, 1), rows)


def _one_hot(ids: Array, count: int, like: Tensor) -> Tensor:
    xp = get_array_module(like.data)
    hot = xp.asarray(ids)[..., None] == xp.arange(count)
    return Tensor(hot.astype(like.dtype))


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """w x / sqrt(mean(x^2) + eps)."""
    return x / ops.sqrt((x * x).mean(-1, True) + eps) * weight


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x), a part of silu."""
    return 1.0 / (ops.exp(-x) + 1.0)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), a part of swiglu."""
    return x * sigmoid(x)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) up."""
    return silu(gate) * up


def gelu(x: Tensor) -> Tensor:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    inner = (x + x * x * x * 0.044715) * math.sqrt(2.0 / math.pi)
    return x * 0.5 * (ops.tanh(inner) + 1.0)


def softmax(x: Tensor) -> Tensor:
    """e^x / sum(e^x), with the row maximum subtracted as a constant: a part of attention."""
    e = ops.exp(x - Tensor(x.data.max(axis=-1, keepdims=True)))
    return e / e.sum(-1, True)


def rope(x: Tensor, cos: Array, sin: Array) -> Tensor:
    """Two halves, turned and joined again."""
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    c, s = Tensor(cos[..., None, :half]), Tensor(sin[..., None, half : 2 * half])
    return ops.concatenate([low * c - high * s, high * c + low * s], axis=-1)


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    start: Array | None = None,
    past: tuple[Array, Array] | None = None,
    softmax: Callable[[Tensor], Tensor] = softmax,
) -> Tensor:
    """softmax(q k^T / sqrt(dh), causal) v with every score written out and keys repeated."""
    if past is not None:
        k, v = (
            ops.concatenate([Tensor(before), x], axis=1)
            for before, x in zip(past, (k, v), strict=True)
        )
    queries, keys, repeats = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    q, k, v = (t.transpose(0, 2, 1, 3) for t in (q, _repeat(k, repeats), _repeat(v, repeats)))
    scores = q @ k.swapaxes(-1, -2) * (1.0 / math.sqrt(q.shape[-1]))
    xp = get_array_module(q.data)
    key, query = xp.arange(keys), xp.arange(keys - queries, keys)[:, None]
    keep = xp.broadcast_to(key <= query, (q.shape[0], queries, keys))
    if start is not None:
        keep = keep & ((key >= xp.asarray(start)[:, None, None]) | (key == query))
    weights = softmax(ops.where(keep[:, None], scores, -1e30))
    return (weights @ v).transpose(0, 2, 1, 3)


def _repeat(x: Tensor, times: int) -> Tensor:
    """(B, S, Hkv, dh) with each head `times` times in a row."""
    heads = [x[:, :, h : h + 1] for h in range(x.shape[2]) for _ in range(times)]
    return ops.concatenate(heads, axis=2)


def cross_entropy(logits: Tensor, labels: Array, normalizer: float | None = None) -> Tensor:
    """-sum(log softmax(logits)[label]) / normalizer, with one-hot rows for the labels."""
    known = labels != F.IGNORE
    count = float(known.sum() if normalizer is None else normalizer)
    hot = _one_hot(labels, logits.shape[-1], logits)  # IGNORE matches no column
    top = Tensor(logits.data.max(axis=-1, keepdims=True))
    log_total = ops.log(ops.exp(logits - top).sum(-1, True)) + top
    losses = (log_total - logits) * hot
    return losses.sum() * (1.0 / count)


def linear_cross_entropy(
    h: Tensor, weight: Tensor, labels: Array, normalizer: float | None = None
) -> Tensor:
    """cross_entropy of all logits, labelled or not."""
    return cross_entropy(linear(h, weight), labels, normalizer)


TWINS: dict[str, Callable[..., Tensor]] = {
    f.__name__: f
    for f in (
        linear,
        lora_linear,
        dora_linear,
        vera_linear,
        embedding,
        put_rows,
        rms_norm,
        swiglu,
        gelu,
        rope,
        causal_attention,
        linear_cross_entropy,
    )
}
"""Fused op by name -> its twin."""

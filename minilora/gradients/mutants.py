"""Planted mistakes: wrong vjps that the gradient check must reject, or it proves nothing.

Two kinds. Any recorded vjp can be spoilt after the fact (sign, scale, zeros, elements moved), and
fused ops can forget a term of their formula. The second kind is written with `detach()`: the value
stays right and one path of the gradient is cut, which is what a forgotten term is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minilora.autograd import functional as F
from minilora.autograd import ops
from minilora.autograd.tensor import Node, Tensor, topological_order
from minilora.backend import Array, get_array_module
from minilora.gradients import twins
from minilora.gradients.case import Case
from minilora.gradients.gradcheck import Probe, Recorded


@dataclass(frozen=True)
class Mutant:
    """One planted mistake in the gradient of one input, and whether the check rejected it."""

    op: str
    input: str
    mistake: str
    caught: bool


# -- spoiling a recorded vjp -----------------------------------------------------------------


def _one_element(ga: np.ndarray) -> np.ndarray:
    """One per cent off in a single element, the largest."""
    wrong = ga.copy()
    wrong.flat[np.abs(wrong).argmax()] *= 1.01
    return wrong


def _transposed(ga: np.ndarray) -> np.ndarray:
    """Last two axes exchanged where they are equal, all elements moved by one place elsewhere."""
    square = ga.ndim > 1 and ga.shape[-1] == ga.shape[-2]
    return ga.swapaxes(-1, -2) if square else np.roll(ga, 1)


SPOILS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sign": lambda ga: -ga,
    "scale 1.01": lambda ga: ga * 1.01,
    "zeros": np.zeros_like,
    "transposed or rolled": _transposed,
    "one element 1.01": _one_element,
}
"""Name -> what is done to the array that a vjp returns."""


def spoilt(
    fn: Callable[..., Tensor], key: str, leaf: Tensor, change: Callable[[Array], Array]
) -> Callable[..., Tensor]:
    """`fn`, with `change` applied to the first recorded cotangent of one input."""

    def wrong(*args: Tensor, **tensors: Tensor) -> Tensor:
        out = fn(*args, **tensors)
        for node in topological_order(out.node):
            if any(parent is leaf for parent in node.parents):
                _spoil(node, leaf, change)
                return out
        raise ValueError(f"got input {key!r}, which no recorded op uses; expected one that is used")

    return wrong


def _spoil(node: Node, leaf: Tensor, change: Callable[[Array], Array]) -> None:
    i = next(i for i, parent in enumerate(node.parents) if parent is leaf)
    right = node.vjps[i]
    vjps = list(node.vjps)
    vjps[i] = lambda g: change(np.asarray(right(g)))
    node.vjps = tuple(vjps)


# -- formulas with a term missing ------------------------------------------------------------


def _rms_norm_without_pull(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    return x / ops.sqrt((x * x).mean(-1, True) + eps).detach() * weight


def _softmax_without_row_sum(x: Tensor) -> Tensor:
    e = ops.exp(x - Tensor(x.data.max(axis=-1, keepdims=True)))
    return e / e.sum(-1, True).detach()


def _silu_without_second_term(x: Tensor) -> Tensor:
    return x * twins.sigmoid(x).detach()


def _swiglu_without_second_term(gate: Tensor, up: Tensor) -> Tensor:
    return _silu_without_second_term(gate) * up


def _gelu_without_second_term(x: Tensor) -> Tensor:
    inner = (x + x * x * x * 0.044715) * math.sqrt(2.0 / math.pi)
    return x * 0.5 * (ops.tanh(inner).detach() + 1.0)


def _gelu_without_cube(x: Tensor) -> Tensor:
    inner = (x + (x * x * x * 0.044715).detach()) * math.sqrt(2.0 / math.pi)
    return x * 0.5 * (ops.tanh(inner) + 1.0)


Past = tuple[Array, Array] | None


def _attention_without_row_sum(
    q: Tensor, k: Tensor, v: Tensor, start: Array | None = None, past: Past = None
) -> Tensor:
    return twins.causal_attention(q, k, v, start, past, softmax=_softmax_without_row_sum)


def _attention_without_scale(
    q: Tensor, k: Tensor, v: Tensor, start: Array | None = None, past: Past = None
) -> Tensor:
    """Gradients of q and k that forget the factor 1 / sqrt(dh)."""
    factor = math.sqrt(q.shape[-1])
    return F.causal_attention(_amplified(q, factor), _amplified(k, factor), v, start, past)


def _amplified(x: Tensor, factor: float) -> Tensor:
    """x, with a cotangent that is `factor` too large."""
    return Tensor.from_op(x.data.copy(), (x, lambda g: g * factor))


def _lora_gA_without_scaling(
    x: Tensor, weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float, **rest: object
) -> Tensor:
    return F.lora_linear(x, weight, _amplified(lora_A, 1.0 / scaling), lora_B, scaling, **rest)


def _lora_gB_without_scaling(
    x: Tensor, weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float, **rest: object
) -> Tensor:
    return F.lora_linear(x, weight, lora_A, _amplified(lora_B, 1.0 / scaling), scaling, **rest)


def _lora_gx_of_base_only(
    x: Tensor, weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float, **rest: object
) -> Tensor:
    full = F.lora_linear(x.detach(), weight, lora_A, lora_B, scaling, **rest)
    through_base = F.linear(x, weight.detach())
    return full + (through_base - through_base.detach())


def _dora_gA_without_scaling(
    x: Tensor, weight: Tensor, lora_A: Tensor, *rest: object, scaling: float, **more: object
) -> Tensor:
    wrong = _amplified(lora_A, 1.0 / scaling)
    return F.dora_linear(x, weight, wrong, *rest, scaling=scaling, **more)


def _dora_through_the_norm(
    x: Tensor, weight: Tensor, lora_A: Tensor, lora_B: Tensor, *rest: object, **more: object
) -> Tensor:
    """Differentiates the length of a row too, which the definition holds fixed."""
    full = F.dora_linear(x, weight, lora_A, lora_B, *rest, **more)
    total = weight.detach() + ops.matmul(lora_B, lora_A) * more["scaling"]
    share = 1.0 / ops.sqrt((total * total).sum(-1))
    return full + full.detach() * (share - share.detach())


def _vera_gd_without_b(
    x: Tensor, weight: Tensor, lambda_b: Tensor, lambda_d: Tensor, *rest: Array, **more: object
) -> Tensor:
    """d's gradient as if b were ones."""
    full = F.vera_linear(x, weight, lambda_b, lambda_d.detach(), *rest, **more)
    ones = Tensor(get_array_module(lambda_b.data).ones_like(lambda_b.data))
    shared = {name: more[name] for name in ("vera_A", "vera_B") if name in more}
    of_d = F.vera_linear(x.detach(), weight.detach(), ones, lambda_d, *rest, **shared)
    return full + (of_d - of_d.detach())


def _vera_gx_of_base_only(
    x: Tensor, weight: Tensor, lambda_b: Tensor, lambda_d: Tensor, *rest: Array, **more: object
) -> Tensor:
    full = F.vera_linear(x.detach(), weight, lambda_b, lambda_d, *rest, **more)
    through_base = F.linear(x, weight.detach())
    return full + (through_base - through_base.detach())


def _put_rows_beside_w(weight: Tensor, rows: Tensor, ids: Array) -> Tensor:
    """W's gradient also where rows stand in its place."""
    full = F.put_rows(weight.detach(), rows, ids)
    return full + (weight - weight.detach())


def _embedding_without_repeats(weight: Tensor, ids: Array) -> Tensor:
    def vjp(g: Array) -> Array:
        gw = np.zeros_like(weight.data)
        gw[ids] = g  # the last of several equal ids wins
        return gw

    return Tensor.from_op(weight.data[ids], (weight, vjp))


def _rope_turned_forward(x: Tensor, cos: Array, sin: Array) -> Tensor:
    out = F.rope(x, cos, sin).data
    return Tensor.from_op(out, (x, lambda g: F.rope(Tensor(g), cos, sin).data))


def _cross_entropy_without_one_hot(
    logits: Tensor, labels: Array, normalizer: float | None = None
) -> Tensor:
    """Keeps the softmax of the gradient and forgets the label's -1."""
    full = twins.cross_entropy(logits, labels, normalizer)
    known = labels != F.IGNORE
    count = float(known.sum() if normalizer is None else normalizer)
    hot = (labels[..., None] == np.arange(logits.shape[-1])).astype(logits.dtype)
    picked = (logits * Tensor(hot)).sum() * (1.0 / count)
    return full + (picked - picked.detach())


def _cross_entropy_without_normalizer(
    logits: Tensor, labels: Array, normalizer: float | None = None
) -> Tensor:
    count = float((labels != F.IGNORE).sum() if normalizer is None else normalizer)
    return twins.cross_entropy(_amplified(logits, count), labels, normalizer)


def _after_linear(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def wrong(h: Tensor, weight: Tensor, labels: Array, normalizer: float | None = None) -> Tensor:
        return loss(twins.linear(h, weight), labels, normalizer)

    return wrong


FORGETFUL: dict[str, dict[str, Callable[..., Tensor]]] = {
    "rms_norm": {"no pull term": _rms_norm_without_pull},
    "swiglu": {"no second term": _swiglu_without_second_term},
    "gelu": {
        "no second term": _gelu_without_second_term,
        "no cubic term": _gelu_without_cube,
    },
    "causal_attention": {
        "no row sum": _attention_without_row_sum,
        "no 1/sqrt(dh)": _attention_without_scale,
    },
    "lora_linear": {
        "gA without scaling": _lora_gA_without_scaling,
        "gB without scaling": _lora_gB_without_scaling,
        "gx of W only": _lora_gx_of_base_only,
    },
    "dora_linear": {
        "gA without scaling": _dora_gA_without_scaling,
        "through the norm": _dora_through_the_norm,
    },
    "vera_linear": {
        "gd without b": _vera_gd_without_b,
        "gx of W only": _vera_gx_of_base_only,
    },
    "embedding": {"repeats not summed": _embedding_without_repeats},
    "put_rows": {"rows of W still there": _put_rows_beside_w},
    "rope": {"turned the wrong way": _rope_turned_forward},
    "linear_cross_entropy": {
        "no one-hot": _after_linear(_cross_entropy_without_one_hot),
        "no normalizer": _after_linear(_cross_entropy_without_normalizer),
    },
}
"""Fused op -> mistake -> the op with that mistake."""


# -- judging ---------------------------------------------------------------------------------


def run_mutants(case: Case, rng: np.random.Generator, tolerance: float = 1e-6) -> list[Mutant]:
    """Plant every mistake that fits `case` and say which the check rejects.

    The slopes are measured once. A spoilt gradient that comes out equal to the right one (rolling
    the gradient of a sum) is no mistake, and is left out.
    """
    fn = case.fn()
    probe = Probe(fn, case.checked, rng, elementwise=case.elementwise)
    right = probe.record(fn)
    mutants = []
    for key, leaf in probe.leaves.items():
        for mistake, change in SPOILS.items():
            recorded = probe.record(spoilt(fn, key, leaf, change))
            if not _same(recorded, right):
                caught = _rejects(probe, recorded, tolerance)
                mutants.append(Mutant(case.op, key, mistake, caught))
    for mistake, target in FORGETFUL.get(case.op, {}).items():
        caught = _rejects(probe, probe.record(case.fn(target)), tolerance)
        mutants.append(Mutant(case.op, "", f"{mistake} ({case.variant})", caught))
    return mutants


def _same(recorded: Recorded, right: Recorded) -> bool:
    return all(np.array_equal(recorded.gradients[key], ga) for key, ga in right.gradients.items())


def _rejects(probe: Probe, recorded: Recorded, tolerance: float) -> bool:
    """Whether the numbers of the gradients are rejected, and not something else about them.

    Raises ValueError for a mutant with other values, which would be found for that reason.
    """
    if not recorded.same_value:
        raise ValueError("got a mutant with other values than its op's, expected a wrong vjp only")
    return any(row.error >= tolerance for row in probe.compare(recorded).rows)

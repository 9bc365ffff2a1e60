"""The fused op of DoRA: a LoRA update whose rows are brought to trained lengths."""

from __future__ import annotations

from minilora.autograd.products import Matrix, as_rows, plus, times, times_transpose
from minilora.autograd.tensor import Tensor
from minilora.backend import Array


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
    """y = c * (x' V^T) + (x - x') W^T + b, V = W + s B A, c = m / n, x' = x * keep

    (Liu et al. 2024, "DoRA", Eq. 5). n (out,) holds the lengths of V's rows and is a constant here,
    also in the gradients of A and B: the paper's Sec. 4.3, and what PEFT does. Dropout reaches the
    part that the adapter changes, as in PEFT; without it the second term is zero.
    With p = g * c:   gm = sum of rows of g * (x' V^T) / n,   gA = s (p B)^T x',
    gB = s p^T (x' A^T),   gx = keep * (p V) + (1 - keep) * (g W),   gW = p^T x' + g^T (x - x').
    x (..., in), W (out, in), A (r, in), B (out, r), m and n (out,); keep: a mask like x, or None.
    """
    data, w, a, b, m = (t.data for t in (x, weight, lora_A, lora_B, magnitude))
    _check(data, w, a, b, m, norm)
    dropped = data if keep is None else data * keep
    scaled_b = b * scaling
    total = plus(w, scaled_b, a)
    turned = times_transpose(dropped, total)
    factor = m / norm
    y = turned * factor
    if keep is not None:
        y += times_transpose(data - dropped, w)

    def prepare(g: Array) -> tuple[Array, Array]:
        return g, g * factor

    def grad_x(gp: tuple[Array, Array]) -> Array:
        g, p = gp
        gx = times(p, total)
        if keep is not None:
            gx *= keep
            gx += times(g, w) * (1 - keep)
        return gx

    def grad_weight(gp: tuple[Array, Array]) -> Array:
        g, p = gp
        gw = as_rows(p).T @ as_rows(dropped)
        if keep is not None:
            gw += as_rows(g).T @ as_rows(data - dropped)
        return gw

    def grad_b(gp: tuple[Array, Array]) -> Array:
        h = times_transpose(as_rows(dropped), a)
        return (as_rows(gp[1]).T @ h) * scaling

    inputs = [
        (x, grad_x),
        (weight, grad_weight),
        (lora_A, lambda gp: as_rows(times(gp[1], scaled_b)).T @ as_rows(dropped)),
        (lora_B, grad_b),
        (magnitude, lambda gp: (as_rows(gp[0]) * as_rows(turned)).sum(axis=0) / norm),
    ]
    if bias is not None:
        y += bias.data
        inputs.append((bias, lambda gp: as_rows(gp[0]).sum(axis=0)))
    return Tensor.from_op(y, *inputs, prepare=prepare, fresh=True)


def _check(x: Array, w: Matrix, a: Array, b: Array, m: Array, norm: Array) -> None:
    out, size = w.shape
    fits = x.shape[-1] == size and a.shape == (a.shape[0], size) and b.shape == (out, a.shape[0])
    if not (fits and m.shape == norm.shape == (out,)):
        raise ValueError(
            f"dora_linear got x {x.shape}, A {a.shape}, B {b.shape}, magnitude {m.shape} and norm "
            f"{norm.shape} for W {(out, size)}, expected (..., {size}), (r, {size}), ({out}, r) "
            f"and twice ({out},)"
        )

"""The fused op of VeRA: two trained vectors around two constant matrices."""

from __future__ import annotations

from minilora.autograd.products import Matrix, as_rows, times, times_transpose
from minilora.autograd.tensor import Tensor
from minilora.backend import Array


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
    """y = x W^T + bias + b * ((d * (x' A^T)) B^T), x' = x * keep

    (Kopiczko et al. 2023, "VeRA", Eq. 2). A and B are constants: no product as large as either is
    made on the way back. With h = x' A^T and p = (g * b) B:
    gd = sum of rows of p * h,   gb = row sums of (g^T (d * h)) * B,
    gx = g W + keep * ((p * d) A),   gW = g^T x.
    x (..., in), W (out, in), b (out,), d (r,), A (r, in), B (out, r); keep: a mask like x, or None.
    """
    data, w, b, d = (t.data for t in (x, weight, lambda_b, lambda_d))
    _check(data, w, b, d, vera_A, vera_B)
    dropped = data if keep is None else data * keep
    h = times_transpose(dropped, vera_A)
    y = times_transpose(h * d, vera_B)
    y *= b
    y += times_transpose(data, w)

    def prepare(g: Array) -> tuple[Array, Array]:
        return g, times(g * b, vera_B)

    def grad_x(gp: tuple[Array, Array]) -> Array:
        gx = times(gp[1] * d, vera_A)
        if keep is not None:
            gx *= keep
        gx += times(gp[0], w)
        return gx

    inputs = [
        (x, grad_x),
        (weight, lambda gp: as_rows(gp[0]).T @ as_rows(data)),
        (lambda_b, lambda gp: ((as_rows(gp[0]).T @ as_rows(h * d)) * vera_B).sum(axis=1)),
        (lambda_d, lambda gp: (as_rows(gp[1]) * as_rows(h)).sum(axis=0)),
    ]
    if bias is not None:
        y += bias.data
        inputs.append((bias, lambda gp: as_rows(gp[0]).sum(axis=0)))
    return Tensor.from_op(y, *inputs, prepare=prepare, fresh=True)


def _check(x: Array, w: Matrix, b: Array, d: Array, vera_A: Array, vera_B: Array) -> None:
    out, size = w.shape
    fits = x.shape[-1] == size and vera_A.shape == (d.size, size)
    if not (fits and vera_B.shape == (out, d.size) and b.shape == (out,) and d.ndim == 1):
        raise ValueError(
            f"vera_linear got x {x.shape}, b {b.shape}, d {d.shape}, A {vera_A.shape} and B "
            f"{vera_B.shape} for W {(out, size)}, expected (..., {size}), ({out},), (r,), "
            f"(r, {size}) and ({out}, r)"
        )

"""Exercises 4.2, 4.3 and 4.5: the forward pass of LoRA, its gradients, and its delta."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.comparing import as_numbers
from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge

CASES = ((7, 5, 4, 2, 3.0), (3, 4, 6, 5, 1.7))
"""n, in, out, r, alpha: all differ, and alpha is never r."""


def _arrays(judge: Judge, n: int, i: int, o: int, r: int) -> dict[str, np.ndarray]:
    shapes = {"x": (n, i), "W": (o, i), "A": (r, i), "B": (o, r)}
    return {name: judge.normal(*shape) for name, shape in shapes.items()}


def check_lora_forward(fn: Callable, judge: Judge) -> None:
    for n, i, o, r, alpha in CASES:
        p = _arrays(judge, n, i, o, r)
        base = np.einsum("ni,oi->no", p["x"], p["W"])
        delta = np.einsum("ni,ki,ok->no", p["x"], p["A"], p["B"])
        judge.close(
            "y",
            judge.call(fn, **p, alpha=alpha),
            base + alpha / r * delta,
            instead={
                "alpha is not divided by r.": base + alpha * delta,
                "alpha and r are the wrong way round.": base + r / alpha * delta,
                "the frozen W is missing.": alpha / r * delta,
                "the scaling went over the whole sum; it belongs to B A alone.": alpha
                / r
                * (base + delta),
                "alpha / r is missing.": base + delta,
                "you divided by out; r is the side that A and B share.": base + alpha / o * delta,
                "you divided by in; r is the side that A and B share.": base + alpha / i * delta,
            },
        )
    p, huge = _arrays(judge, 6, 9, 8, 3), 1e200
    p = {"x": p["x"] / huge, "W": p["W"], "A": p["A"] * huge, "B": p["B"] * huge}
    with np.errstate(all="ignore"):
        got = as_numbers("y", judge.call(fn, **p, alpha=1.9))
    judge.true(
        np.isfinite(got).all(),
        "right numbers, but B A was formed on the way. With entries of about 1e200 in A and B it "
        "overflows, and (x A^T) B^T does not where x is about 1e-200: keep to the brackets.",
    )


@exercise(
    "4.2",
    "The forward pass",
    minutes=6,
    difficulty=1,
    check=check_lora_forward,
    statement=r"""
    Write `lora_forward(x, W, A, B, alpha)` for rows $x$ of shape `(n, in)`, with $W$ `(out, in)`,
    $A$ `(r, in)`, $B$ `(out, r)`:

    $$y = x W^\top + \frac{\alpha}{r}\, (x A^\top)\, B^\top .$$

    Keep to the brackets: $x A^\top$ has only $r$ columns, and the product $BA$ is never built.
    """,
    hints=(
        "r is the number of rows of A.",
        "x @ A.T has shape (n, r), and (x @ A.T) @ B.T has shape (n, out).",
        "return x @ W.T + alpha / r * ((x @ A.T) @ B.T)",
    ),
    wrong=(
        mistake("forgot / r", "is not divided by r", change=("alpha / r", "alpha")),
        mistake("out for r", "divided by out", change=("A.shape[0]", "B.shape[0]")),
        mistake("in for r", "divided by in", change=("A.shape[0]", "A.shape[1]")),
        mistake(
            "forms B A",
            "keep to the brackets",
            change=("((x @ A.T) @ B.T)", "(x @ (B @ A).T)"),
        ),
        mistake("r / alpha", "wrong way round", change=("alpha / r", "r / alpha")),
        mistake("W forgotten", "frozen W is missing", change=("x @ W.T + ", "")),
        mistake(
            "all scaled",
            "went over the whole sum",
            change=(
                "x @ W.T + (alpha / r) * ((x @ A.T) @ B.T)",
                "(alpha / r) * (x @ W.T + (x @ A.T) @ B.T)",
            ),
        ),
        mistake(
            "A and B exchanged", "shapes do not fit", change=("(x @ A.T) @ B.T", "(x @ B.T) @ A.T")
        ),
    ),
)
def lora_forward(
    x: np.ndarray, W: np.ndarray, A: np.ndarray, B: np.ndarray, alpha: float
) -> np.ndarray:
    """x W^T + (alpha / r) (x A^T) B^T."""
    r = A.shape[0]
    return x @ W.T + (alpha / r) * ((x @ A.T) @ B.T)


def _loss(g: np.ndarray, alpha: float, p: dict[str, np.ndarray]) -> float:
    delta = alpha / p["A"].shape[0] * (p["B"] @ p["A"])
    return float((g * (p["x"] @ (p["W"] + delta).T)).sum())


def check_lora_vjps(fn: Callable, judge: Judge) -> None:
    for n, i, o, r, alpha in CASES:
        p, g = _arrays(judge, n, i, o, r), judge.normal(n, o)
        out = judge.parts(
            judge.call(fn, g=g, **p, alpha=alpha),
            3,
            "three gradients, `return gx, gA, gB`; W is frozen and gets none",
        )
        judge.true(
            tuple(map(np.shape, out[1:])) != (p["B"].shape, p["A"].shape),
            "gA and gB are swapped: each has the shape of its own array.",
        )
        size = alpha / r
        sizes = {
            "alpha / r is missing": 1 / size,
            "alpha / r is in it twice": size,
            "alpha is not divided by r": r,
            "divided by the batch size, and that mean belongs to the loss": 1 / n,
        }
        ways = {
            "the way through B and A is missing; x goes through the sheet as well.": g @ p["W"],
            "the way through W is missing. W is frozen, and x still goes through it.": size
            * g
            @ p["B"]
            @ p["A"],
            "alpha / r is missing on the way through the sheet.": g @ (p["W"] + p["B"] @ p["A"]),
        }
        found = dict(zip(("x", "A", "B"), out, strict=True))
        for name in ("A", "B", "x"):  # a size that is wrong shows best in A and B
            judge.gradient(
                f"g{name}",
                found[name],
                lambda v, name=name, g=g, p=p, alpha=alpha: _loss(g, alpha, {**p, name: v}),
                p[name],
                factors={} if name == "x" else sizes,
                instead=ways if name == "x" else {},
            )


@exercise(
    "4.3",
    "Three gradients",
    minutes=15,
    difficulty=3,
    check=check_lora_vjps,
    statement=r"""
    Somebody hands you `g`, the gradient of the loss with respect to $y$, of shape `(n, out)`. Write
    `lora_vjps(g, x, W, A, B, alpha)` and return `gx, gA, gB`. With $s = \alpha / r$ and
    $h = x A^\top$,

    $$y = x W^\top + s\, h B^\top .$$

    There is no `gW`: $W$ is frozen. But $x$ came from the layer below, and that layer has an
    adapter too.
    """,
    hints=(
        "y depends on B as on the weight of a linear map with the input s h: see exercise 1.1.",
        "The cotangent of h is s g B, of shape (n, r). Since h = x A^T, the same rule gives gA "
        "from it, and the part of gx that goes through the sheet.",
        "u = s * (g @ B); gA = u.T @ x; gB = s * (g.T @ (x @ A.T)); gx = g @ W + u @ A.",
    ),
    wrong=(
        mistake(
            "alpha / r missing",
            "it should be: alpha / r is missing.",
            change=("s = alpha / A.shape[0]", "s = 1.0"),
        ),
        mistake(
            "only alpha",
            "it should be: alpha is not divided by r.",
            change=("alpha / A.shape[0]", "alpha"),
        ),
        mistake(
            "x past the sheet",
            "the way through B and A is missing",
            change=("g @ W + u @ A", "g @ W"),
        ),
        mistake("x past W", "the way through W is missing", change=("g @ W + u @ A", "u @ A")),
        mistake("swapped", "gA and gB are swapped", change=(", gA, gB", ", gB, gA")),
        mistake(
            "mean", "mean belongs to the loss", change=("gA = u.T @ x", "gA = u.T @ x / len(x)")
        ),
    ),
)
def lora_vjps(
    g: np.ndarray, x: np.ndarray, W: np.ndarray, A: np.ndarray, B: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of y = x W^T + (alpha / r) (x A^T) B^T for x, A and B."""
    s = alpha / A.shape[0]
    u = s * (g @ B)
    gA = u.T @ x
    gB = s * (g.T @ (x @ A.T))
    return g @ W + u @ A, gA, gB


def check_delta_weight(fn: Callable, judge: Judge) -> None:
    for i, o, r, alpha in ((5, 5, 2, 3.0), (4, 7, 3, 1.3)):
        A, B, x = judge.normal(r, i), judge.normal(o, r), judge.normal(i + 4, i)
        s = alpha / r
        delta = np.einsum("ok,ki->oi", B, A)
        out = judge.call(fn, A=A, B=B, alpha=alpha)
        judge.close(
            "delta",
            out,
            s * delta,
            factors={"alpha / r is missing": 1 / s, "alpha is not divided by r": r},
            instead={
                "right numbers, turned over: W is (out, in) and B is its tall side. With as many "
                "outputs as inputs no shape would tell you.": s * delta.T
            },
        )
        judge.close("x delta^T against (x A^T) B^T", x @ np.asarray(out).T, s * x @ A.T @ B.T)


@exercise(
    "4.5",
    "The delta, the right way up",
    minutes=5,
    difficulty=1,
    check=check_delta_weight,
    statement=r"""
    Write `delta_weight(A, B, alpha)` and return $\Delta W$, such that $x (W + \Delta W)^\top$ is
    what `lora_forward` computes. It has $W$'s shape, `(out, in)`. The check also takes a square
    layer, where a turned one has the right shape too.
    """,
    hints=(
        "Which product of B (out, r) and A (r, in) has the shape (out, in)?",
        "(x A^T) B^T = x (B A)^T.",
        "return alpha / r * (B @ A), with r = A.shape[0]",
    ),
    wrong=(
        mistake("turned", "turned over", change=("B @ A", "A.T @ B.T")),
        mistake(
            "no alpha", "alpha / r is missing", change=("(alpha / A.shape[0]) * (B @ A)", "B @ A")
        ),
        mistake("only alpha", "not divided by r", change=("(alpha / A.shape[0])", "alpha")),
    ),
)
def delta_weight(A: np.ndarray, B: np.ndarray, alpha: float) -> np.ndarray:
    """(alpha / r) B A, in W's orientation."""
    return (alpha / A.shape[0]) * (B @ A)

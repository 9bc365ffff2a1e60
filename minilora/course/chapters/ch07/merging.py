"""Exercises 7.1, 7.2 and 7.4: what can be merged, what was merged, and a bottleneck."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge, Mistake


def check_one_matrix(fn: Callable, judge: Judge) -> None:
    for like, alpha in (((5, 7, 3), 4.5), ((6, 4, 2), 7.1)):
        outside, inside, r = judge.sizes(*like)
        W, A, B = judge.normal(outside, inside), judge.normal(r, inside), judge.normal(outside, r)
        s, bias = alpha / r, judge.normal(outside)
        got = _of_linear(fn, judge, W, A, B, s)
        instead = {
            "the layer does more than W: with its adapter it is W + (alpha / r) B A.": W,
            "that is one number for each output; probe every input by itself.": (W + s * B @ A).sum(
                axis=1
            ),
        }
        judge.close("the matrix of a linear layer", got, W + s * B @ A, instead=instead)
        bent = {
            "a layer with tanh between its strips": lambda x, W=W, A=A, B=B, s=s: (
                x @ W.T + s * np.tanh(x @ A.T) @ B.T
            ),
            "a layer that adds a bias, so that 0 does not go to 0,": lambda x, W=W, bias=bias: (
                x @ W.T + bias
            ),
            "a layer that cuts off below 0, and so doubles where its input doubles,": (
                lambda x, A=A, B=B: np.maximum(x @ A.T, 0) @ B.T
            ),
            "a layer that is linear on each input alone and on rows of equal numbers": (
                lambda x, W=W: x @ W.T + x[..., :1] * x[..., 1:2] * (x[..., :1] - x[..., 1:2])
            ),
        }
        for what, layer in bent.items():
            judge.true(
                judge.refuses(fn, layer, inside),
                f"{what} got a matrix, and no matrix does the same. Try yours on inputs that it "
                "was not made from, such as random rows, and raise ValueError where it differs.",
            )


def _of_linear(
    fn: Callable, judge: Judge, W: np.ndarray, A: np.ndarray, B: np.ndarray, s: float
) -> object:
    """What fn makes of a layer with an adapter; Mistake where it refuses it."""
    try:
        return judge.call(fn, layer=lambda x: x @ W.T + s * (x @ A.T) @ B.T, inside=W.shape[1])
    except ValueError as error:
        raise Mistake(
            f"a layer with an adapter is linear, and yours refused it ({error}). Sums in another "
            "order differ in their last bits: compare with np.allclose."
        ) from error


@exercise(
    "7.1",
    "One matrix for two",
    minutes=10,
    difficulty=2,
    importance=2,
    check=check_one_matrix,
    statement=r"""
    You are handed a `layer` and cannot look inside: you may call `layer(x)` on rows `x`
    (n, inside) as often as you like, and get (n, outside). Perhaps there is an adapter in it.

    Write `one_matrix(layer, inside)`: the matrix $M$ (outside, inside) with
    `layer(x)` $= x M^\top$ for **every** $x$, up to rounding. If there is none, because the layer
    is not linear, raise `ValueError`.
    """,
    hints=(
        "What does x M^T give for a row that is 1 in place i and 0 elsewhere? Row i of M^T.",
        "All of these rows at once are np.eye(inside), so M = layer(np.eye(inside)).T.",
        "Draw random rows x and compare layer(x) with x @ M.T by np.allclose; where they differ, "
        "no matrix does it.",
    ),
    wrong=(
        mistake(
            "transposed",
            "but transposed",
            change=("return M", "return M.T"),
        ),
        mistake(
            "never refuses", "tanh between its strips got", body="return layer(np.eye(inside)).T"
        ),
        mistake(
            "doubles",
            "cuts off below 0",
            body="""
            x = np.random.default_rng(0).standard_normal((9, inside))
            if not np.allclose(layer(2 * x), 2 * layer(x)):
                raise ValueError("not linear")
            return layer(np.eye(inside)).T
            """,
        ),
        mistake(
            "one input at a time",
            "each input alone",
            body="""
            M = layer(np.eye(inside)).T
            x = np.diag(np.linspace(-3, 3, inside))
            if not np.allclose(layer(x), x @ M.T):
                raise ValueError("not linear")
            return M
            """,
        ),
        mistake(
            "same bits",
            "in their last bits",
            change=("not np.allclose(layer(x), x @ M.T)", "(layer(x) != x @ M.T).any()"),
        ),
        mistake(
            "all inputs at once",
            "every input by itself",
            change=("return M", "return layer(np.ones((1, inside)))[0]"),
        ),
    ),
)
def one_matrix(layer, inside: int) -> np.ndarray:
    """M (outside, inside) with layer(x) = x M^T for every x; ValueError where there is none."""
    M = layer(np.eye(inside)).T
    x = np.random.default_rng(0).standard_normal((20, inside))
    if not np.allclose(layer(x), x @ M.T):
        raise ValueError("the layer is not linear, so no matrix does the same")
    return M


def check_bottleneck(fn: Callable, judge: Judge) -> None:
    for n, width, m in (judge.sizes(5, 4, 3), judge.sizes(2, 6, 7)):
        h, D, U = judge.normal(n, width), judge.normal(m, width), judge.normal(width, m)
        g = judge.normal(n, width)
        out = judge.parts(
            judge.call(fn, g=g, h=h, D=D, U=U), 3, "three gradients, `return gh, gD, gU`"
        )

        def loss(h=h, D=D, U=U, g=g):
            return (g * (h + np.tanh(h @ D.T) @ U.T)).sum()

        z = np.tanh(h @ D.T)
        bent = g @ U * (1 - z * z)
        judge.gradient(
            "gh",
            out[0],
            lambda v: loss(h=v),
            h,
            instead={
                "the residual is missing: h also reaches y directly.": bent @ D,
                "the way through D and U is missing; h is used twice.": g,
                "what comes straight through is g; you put h there.": h + bent @ D,
                "the two ways that h takes add up; you subtracted one.": g - bent @ D,
                "that is the slope of a sigmoid, z (1 - z); tanh's is 1 - z^2.": g
                + (g @ U * z * (1 - z)) @ D,
                "1 - tanh^2 holds the tanh, and not what went into it.": g
                + (g @ U * (1 - (h @ D.T) ** 2)) @ D,
                "tanh bends the cotangent by 1 - tanh^2; that is missing.": g + g @ U @ D,
                "the derivative of tanh is 1 - tanh^2.": g + (g @ U * (1 - z)) @ D,
            },
        )
        judge.gradient(
            "gD",
            out[1],
            lambda v: loss(D=v),
            D,
            factors={"divided by the batch size, and that mean belongs to the loss": 1 / n},
            instead={
                "tanh bends the cotangent by 1 - tanh^2; that is missing.": (g @ U).T @ h,
                "that is gU; return gh, gD, gU.": g.T @ z,
            },
        )
        judge.gradient(
            "gU",
            out[2],
            lambda v: loss(U=v),
            U,
            instead={
                "U's input is tanh(h D^T), not h D^T.": g.T @ (h @ D.T),
                "U stands behind the tanh, so 1 - tanh^2 is not in it.": g.T @ (z * (1 - z * z)),
            },
        )


@exercise(
    "7.2",
    "A bottleneck backwards",
    minutes=15,
    difficulty=3,
    importance=1,
    check=check_bottleneck,
    statement=r"""
    A bottleneck adapter stands after a layer and takes its output `h` (n, width) to

    $$y = h + \tanh(h D^\top)\, U^\top ,$$

    with `D` (m, width) and `U` (width, m). Given `g`, the gradient of the loss with respect to $y$,
    write `bottleneck_vjps(g, h, D, U)` and return `gh, gD, gU`.
    """,
    hints=(
        "Name the middle: z = tanh(h D^T), (n, m). Then y = h + z U^T is linear in z and in U.",
        "gz = g U. Through tanh it becomes gz (1 - z^2), entry by entry; call it gu, (n, m).",
        "gU = g^T z and gD = gu^T h. h is used twice: gh = g + gu D.",
    ),
    wrong=(
        mistake("no residual", "the residual is missing", change=("g + gu @ D", "gu @ D")),
        mistake("no tanh", "that is missing", change=("(g @ U) * (1 - z * z)", "g @ U")),
        mistake("1 - tanh", "tanh is 1 - tanh^2", change=("1 - z * z", "1 - z")),
        mistake("one way", "the way through D", change=("g + gu @ D", "g")),
        mistake("h for g", "you put h there", change=("g + gu @ D", "h + gu @ D")),
        mistake("sigmoid", "slope of a sigmoid", change=("(1 - z * z)", "z * (1 - z)")),
        mistake("mean", "divided by the batch size", change=("gu.T @ h", "gu.T @ h / len(h)")),
        mistake("U's input", "U's input is", change=("g.T @ z", "g.T @ (h @ D.T)")),
        mistake("transposed", "transposed", change=("gu.T @ h", "h.T @ gu")),
        mistake("order", "that is gU", change=("gu.T @ h, g.T @ z", "g.T @ z, gu.T @ h")),
    ),
)
def bottleneck_vjps(
    g: np.ndarray, h: np.ndarray, D: np.ndarray, U: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """gh, gD and gU of y = h + tanh(h D^T) U^T, from g (n, width)."""
    z = np.tanh(h @ D.T)
    gu = (g @ U) * (1 - z * z)
    return g + gu @ D, gu.T @ h, g.T @ z


def check_volumes_inside(fn: Callable, judge: Judge) -> None:
    for like, ranks in (((9, 12), (3, 3)), ((8, 11), (4, 1, 2))):
        W = judge.normal(*judge.sizes(*like))
        shared = judge.normal(W.shape[0], 1)  # so that the updates are not at right angles
        adapters = [
            (judge.normal(r, W.shape[1]), judge.normal(W.shape[0], r) + shared, alpha)
            for r, alpha in zip(ranks, (3.5, 1.3, 6.1), strict=False)
        ]
        volumes = judge.rng.permutation((2.0, 0.0, -0.5))[: len(ranks)]
        deltas = np.array([alpha / len(A) * B @ A for A, B, alpha in adapters])
        merged = W + np.einsum("k,koi->oi", volumes, deltas)
        got = judge.call(fn, merged=merged, W=W, adapters=adapters)
        own = [alpha for _, _, alpha in adapters]
        judge.close(
            "the volumes",
            got,
            volumes,
            instead={
                "each adapter was measured by itself, and they overlap: fit all together.": (
                    _one_by_one(merged - W, deltas)
                ),
                "W is still in what you fitted; take it off first.": _fit(merged, deltas),
                "that is for B A without alpha / r; each adapter has its own.": volumes
                * own
                / np.array(ranks),
                "alpha is not divided by r.": volumes / np.array(ranks),
                "alpha is divided by the root of r, and it is r itself.": volumes / np.sqrt(ranks),
                "those compare lengths; a length has no sign, and two updates share theirs.": (
                    np.linalg.norm(merged - W) / np.linalg.norm(deltas, axis=(1, 2))
                ),
            },
        )


def _fit(update: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(deltas.reshape(len(deltas), -1).T, update.ravel(), rcond=None)[0]


def _one_by_one(update: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    return np.array([(update * delta).sum() / (delta * delta).sum() for delta in deltas])


@exercise(
    "7.4",
    "What is in this file?",
    minutes=12,
    difficulty=2,
    importance=2,
    check=check_volumes_inside,
    statement=r"""
    A merged file has forgotten what it was made of. Was an adapter merged once, twice by mistake,
    at half volume, not at all? Whoever has the base $W$ and the adapters that may be in it can
    find out: they know the updates $\Delta_i = \frac{\alpha_i}{r_i} B_i A_i$, and look for the
    volumes $c_i$ with

    $$W_{\text{merged}} = W + \sum_i c_i\, \Delta_i .$$

    `adapters` is a list of `(A, B, alpha)`; ranks may differ, and the updates are not at right
    angles to each other. Write `volumes_inside(merged, W, adapters)`: the $c_i$, in order.
    """,
    hints=(
        "The unknowns are few, one for each adapter, and every weight is an equation: least "
        "squares.",
        "Make each update one long column: np.stack([... .ravel() for A, B, alpha in adapters], "
        "axis=1).",
        "np.linalg.lstsq(columns, (merged - W).ravel(), rcond=None)[0] is the answer.",
    ),
    wrong=(
        mistake(
            "one by one",
            "measured by itself",
            body="""
            update = merged - W
            deltas = [alpha / len(A) * B @ A for A, B, alpha in adapters]
            return [(update * delta).sum() / (delta * delta).sum() for delta in deltas]
            """,
        ),
        mistake("W left in", "W is still in", change=("(merged - W)", "merged")),
        mistake(
            "no scaling", "without alpha / r", change=("(alpha / A.shape[0] * B @ A)", "(B @ A)")
        ),
        mistake("forgot / r", "not divided by r", change=("alpha / A.shape[0]", "alpha")),
        mistake(
            "lengths",
            "compare lengths",
            body="""
            deltas = [alpha / len(A) * B @ A for A, B, alpha in adapters]
            return [np.linalg.norm(merged - W) / np.linalg.norm(delta) for delta in deltas]
            """,
        ),
    ),
)
def volumes_inside(
    merged: np.ndarray, W: np.ndarray, adapters: list[tuple[np.ndarray, np.ndarray, float]]
) -> np.ndarray:
    """How loudly each (A, B, alpha) is in merged = W + sum of c (alpha / r) B A; the c."""
    columns = np.stack([(alpha / A.shape[0] * B @ A).ravel() for A, B, alpha in adapters], axis=1)
    return np.linalg.lstsq(columns, (merged - W).ravel(), rcond=None)[0]

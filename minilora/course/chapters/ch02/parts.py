"""Exercises 2.1 and 2.2: the gradients of RMSNorm and of rotary positions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def require_gradients(judge: Judge, out: object, names: str, *inputs: np.ndarray) -> None:
    """One gradient for each input, of its shape and not in another order."""
    parts = judge.parts(out, len(inputs), f"{len(inputs)} gradients, `return {names}`")
    got, want = [np.shape(part) for part in parts], [x.shape for x in inputs]
    judge.true(
        got == want or sorted(got) != sorted(want),
        f"the gradients are in another order; return {names}. Each has the shape of its own array.",
    )


def _rms_norm(x: np.ndarray, w: np.ndarray, eps: float) -> np.ndarray:
    return w * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


def check_rms_norm_vjps(fn: Callable, judge: Judge) -> None:
    for shape, eps in ((judge.sizes(4, 3), 0.3), (judge.sizes(2, 3, 5), 0.07)):
        x, w, g = judge.normal(*shape), judge.normal(shape[-1]) + 0.5, judge.normal(*shape)
        out = judge.call(fn, g=g, x=x, w=w, eps=eps)
        require_gradients(judge, out, "gx, gw", x, w)
        scale = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
        judge.gradient(
            "gx",
            out[0],
            lambda v, w=w, g=g, eps=eps: (g * _rms_norm(v, w, eps)).sum(),
            x,
            instead=_norm_misses(g, w, x * scale, scale) | _eps_misses(g, x, w, eps),
        )
        n = x * scale
        rows = tuple(range(x.ndim - 1))
        judge.gradient(
            "gw",
            out[1],
            lambda v, x=x, g=g, eps=eps: (g * _rms_norm(x, v, eps)).sum(),
            w,
            factors={"averaged over the rows, where they must be added up": w.size / x.size},
            instead={
                "every row used the same w, so add up over all leading axes.": g * n,
                "the input there is the normalised row n, not x.": (g * x).sum(axis=rows),
                "the cotangent g is not in it.": n.sum(axis=rows),
                "w does not stand in its own gradient; y is linear in it.": (g * n * w).sum(
                    axis=rows
                ),
            },
        )


def _eps_misses(g: np.ndarray, x: np.ndarray, w: np.ndarray, eps: float) -> dict[str, np.ndarray]:
    def gradient(r: np.ndarray) -> np.ndarray:
        return (g * w - x / r * (g * w * x / r).mean(axis=-1, keepdims=True)) / r

    root = np.sqrt((x * x).mean(axis=-1, keepdims=True))
    return {
        "eps is missing under the root.": gradient(root),
        "eps stands under the root, not beside it.": gradient(root + eps),
        "the root is missing: r is the root of the mean of squares.": gradient(root**2 + eps),
    }


def _norm_misses(
    g: np.ndarray, w: np.ndarray, n: np.ndarray, scale: np.ndarray
) -> dict[str, np.ndarray]:
    def pull(v: np.ndarray) -> np.ndarray:
        return n * (v * n).mean(axis=-1, keepdims=True)

    u = g * w
    total = n * (u * n).sum(axis=-1, keepdims=True)
    return {
        "the term with the mean is missing: nudging one entry changes the length that its whole "
        "row is divided by.": scale * u,
        "the pull is a sum over the row; the length holds a mean, so divide by the width.": scale
        * (u - total),
        "w multiplied the row on the way forward, so g must pass through it: u = g w.": scale
        * (g - pull(g)),
        "w comes in before the pull, u = g w, and not behind it.": scale * w * (g - pull(g)),
        "the division by the length is missing.": u - pull(u),
        "a sign is wrong: the pull is subtracted.": scale * (u + pull(u)),
        "that takes each entry alone, as if nudging it changed no other; the pull is one mean a "
        "row, of u n.": scale * u * (1 - n * n),
        "the mean runs over all rows; each row has a length of its own.": scale
        * (u - n * (u * n).mean()),
        "the pull holds x where n belongs; it is n = x / r both times.": scale
        * (u - n / scale * (u * n / scale).mean(axis=-1, keepdims=True)),
        "the mean is taken of u alone; it is the mean of u n.": scale
        * (u - n * u.mean(axis=-1, keepdims=True)),
        "the factor n before the mean is missing.": scale
        * (u - (u * n).mean(axis=-1, keepdims=True)),
    }


@exercise(
    "2.1",
    "The gradient of a norm",
    minutes=15,
    difficulty=2,
    importance=2,
    check=check_rms_norm_vjps,
    statement=r"""
    Write `rms_norm_vjps(g, x, w, eps)` for rows `x` of shape `(..., C)` and `w` of shape `(C,)`;
    `g` has the shape of `x`. Return `gx, gw`. With $r = \sqrt{\mathrm{mean}(x^2) + \epsilon}$ and
    $n = x / r$, one number $r$ a row,

    $$\begin{gathered}
    y_i = w_i\,\frac{x_i}{r}, \\[4pt]
    \frac{\partial r}{\partial x_j} = \frac{x_j}{C\,r}, \\[4pt]
    (g_x)_j = \sum_i g_i\, w_i \left( \frac{\delta_{ij}}{r} - \frac{x_i}{r^2}\,\frac{\partial
    r}{\partial x_j} \right) .
    \end{gathered}$$

    Simplify before you write: with $u = g\,w$ two lines are enough. All rows share `w`.
    """,
    hints=(
        "Put dr/dx_j in and write n for x / r wherever you can. What is left of the sum over i is "
        "one number a row.",
        "gx = (u - n m) / r, where m is the mean of u n over the row, with its axis kept. "
        "For gw, the row that w multiplies is n.",
        "m = (u * n).mean(axis=-1, keepdims=True). And gw is g * n, added up over all axes but the "
        "last: .sum(axis=tuple(range(x.ndim - 1))).",
    ),
    wrong=(
        mistake(
            "no mean term",
            "term with the mean is missing",
            change=("(u - n * (u * n).mean(axis=-1, keepdims=True))", "u"),
        ),
        mistake("sum for mean", "divide by the width", change=("(u * n).mean", "(u * n).sum")),
        mistake("w forgotten", "pass through it", change=("g * w", "g")),
        mistake("not divided", "division by the length", change=(") / r\n", ")\n")),
        mistake("sign", "a sign is wrong", change=("(u - n", "(u + n")),
        mistake(
            "not added up",
            "over all leading axes",
            body="""
            r = np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
            n, u = x / r, g * w
            return (u - n * (u * n).mean(axis=-1, keepdims=True)) / r, g * n
            """,
        ),
        mistake(
            "one mean for all",
            "over all rows",
            change=("mean(axis=-1, keepdims=True)) / r", "mean()) / r"),
        ),
        mistake("w last", "not behind it", change=("(u - n * (u * n)", "w * (g - n * (g * n)")),
        mistake("mean of u", "mean is taken of u", change=("(u * n).mean", "u.mean")),
        mistake("no n", "factor n before", change=("u - n * (u * n)", "u - (u * n)")),
        mistake("x in the pull", "the pull holds x", change=("u - n * (u * n)", "u - x * (u * x)")),
        mistake(
            "no root",
            "the root is missing",
            change=(
                "np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)",
                "(x * x).mean(axis=-1, keepdims=True) + eps",
            ),
        ),
        mistake("w in gw", "in its own gradient", change=("(g * n)", "(g * n * w)")),
        mistake("no eps", "eps is missing", change=(" + eps", "")),
        mistake(
            "eps beside the root",
            "not beside it",
            change=(
                "np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)",
                "np.sqrt((x * x).mean(axis=-1, keepdims=True)) + eps",
            ),
        ),
        mistake("x for n", "not x", change=("gw = (g * n)", "gw = (g * x)")),
    ),
)
def rms_norm_vjps(
    g: np.ndarray, x: np.ndarray, w: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """gx (..., C) and gw (C,) of y = w x / sqrt(mean(x^2) + eps)."""
    r = np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    n, u = x / r, g * w
    gx = (u - n * (u * n).mean(axis=-1, keepdims=True)) / r
    gw = (g * n).sum(axis=tuple(range(x.ndim - 1)))
    return gx, gw


def _turned(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _turned_back_by_neighbours(g: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    out = np.empty_like(g)
    even, odd = g[..., 0::2], g[..., 1::2]
    out[..., 0::2], out[..., 1::2] = even * cos + odd * sin, odd * cos - even * sin
    return out


def _first_half(x: np.ndarray) -> np.ndarray:
    return x[..., : x.shape[-1] // 2]


def _second_half(x: np.ndarray) -> np.ndarray:
    return x[..., x.shape[-1] // 2 :]


def check_rope_vjp(fn: Callable, judge: Judge) -> None:
    for lead, like in (((), (5, 3)), (judge.sizes(2), (3, 2))):
        rows, half = judge.sizes(*like)
        shape = (*lead, rows, 2 * half)
        x, g = judge.normal(*shape), judge.normal(*shape)
        angle = judge.normal(shape[-2], shape[-1] // 2)
        cos, sin = np.cos(angle), np.sin(angle)
        forward = _turned(g, cos, sin)
        back = _turned(g, cos, -sin)
        judge.gradient(
            "gx",
            judge.call(fn, g=g, cos=cos, sin=sin),
            lambda v, g=g, cos=cos, sin=sin: (g * _turned(v, cos, sin)).sum(),
            x,
            instead={
                "that turns g forward once more. The vjp multiplies by the transpose, and the "
                "transpose of a rotation turns back.": forward,
                "these are pairs of neighbours; here entry i is paired with entry i + dh/2.": (
                    _turned_back_by_neighbours(g, cos, sin)
                ),
                "a sign is wrong in the first half: both of its terms are added.": np.concatenate(
                    [_first_half(forward), _second_half(back)], axis=-1
                ),
                "a sign is wrong in the second half: what came through x_1 is subtracted.": (
                    np.concatenate([_first_half(back), _second_half(forward)], axis=-1)
                ),
                "the two halves are exchanged.": np.roll(back, shape[-1] // 2, axis=-1),
                "that only scales by the cosine; each entry of x went into two entries of y.": (
                    g * np.concatenate([cos, cos], axis=-1)
                ),
                "the term with the sine comes from the other half of g.": g
                * np.concatenate([cos + sin, cos - sin], axis=-1),
                "the halves are interleaved; put one behind the other with np.concatenate.": (
                    np.stack([_first_half(back), _second_half(back)], axis=-1).reshape(g.shape)
                ),
            },
        )


@exercise(
    "2.2",
    "Turn back",
    minutes=8,
    difficulty=1,
    importance=1,
    check=check_rope_vjp,
    statement=r"""
    Write `rope_vjp(g, cos, sin)`. On the way forward every vector $x$ of even length $d$ was cut
    into a first half $x_1$ and a second half $x_2$, and turned:

    $$\begin{gathered}
    y_1 = x_1 \cos - x_2 \sin, \\[4pt]
    y_2 = x_2 \cos + x_1 \sin .
    \end{gathered}$$

    `g` has shape `(..., T, d)`, `cos` and `sin` have shape `(T, d/2)`. Return `gx`, of `g`'s shape.
    """,
    hints=(
        "x_1 went into y_1 with the factor cos and into y_2 with the factor sin. Its gradient "
        "collects both.",
        "Written as a matrix, the turn is [[cos, -sin], [sin, cos]]. Which angle gives its "
        "transpose?",
        "gx_1 = g_1 cos + g_2 sin, gx_2 = g_2 cos - g_1 sin; np.concatenate([…, …], axis=-1).",
    ),
    wrong=(
        mistake(
            "forward again",
            "forward once more",
            change=(
                "[g1 * cos + g2 * sin, g2 * cos - g1 * sin]",
                "[g1 * cos - g2 * sin, g2 * cos + g1 * sin]",
            ),
        ),
        mistake("first sign", "in the first half", change=("cos + g2 * sin", "cos - g2 * sin")),
        mistake("second sign", "in the second half", change=("cos - g1 * sin", "cos + g1 * sin")),
        mistake(
            "neighbours",
            "pairs of neighbours",
            body="""
            out = np.empty_like(g)
            g1, g2 = g[..., 0::2], g[..., 1::2]
            out[..., 0::2] = g1 * cos + g2 * sin
            out[..., 1::2] = g2 * cos - g1 * sin
            return out
            """,
        ),
        mistake(
            "halves exchanged",
            "halves are exchanged",
            change=(
                "[g1 * cos + g2 * sin, g2 * cos - g1 * sin]",
                "[g2 * cos - g1 * sin, g1 * cos + g2 * sin]",
            ),
        ),
        mistake(
            "own half",
            "from the other half of g",
            change=(
                "[g1 * cos + g2 * sin, g2 * cos - g1 * sin]",
                "[g1 * cos + g1 * sin, g2 * cos - g2 * sin]",
            ),
        ),
        mistake(
            "interleaved",
            "halves are interleaved",
            change=(
                "np.concatenate([g1 * cos + g2 * sin, g2 * cos - g1 * sin], axis=-1)",
                "np.stack([g1 * cos + g2 * sin, g2 * cos - g1 * sin], axis=-1).reshape(g.shape)",
            ),
        ),
        mistake(
            "cosine only",
            "only scales by the cosine",
            change=("[g1 * cos + g2 * sin, g2 * cos - g1 * sin]", "[g1 * cos, g2 * cos]"),
        ),
    ),
)
def rope_vjp(g: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """gx (..., T, d) of the turn by the angles of cos and sin (T, d/2)."""
    half = g.shape[-1] // 2
    g1, g2 = g[..., :half], g[..., half:]
    return np.concatenate([g1 * cos + g2 * sin, g2 * cos - g1 * sin], axis=-1)

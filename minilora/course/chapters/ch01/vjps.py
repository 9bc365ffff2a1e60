"""Exercises 1.1, 1.2 and 1.5: the vjps of a linear map, of broadcasting, and of softmax."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.autograd import Tensor, no_grad
from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_linear_vjps(fn: Callable, judge: Judge) -> None:
    for n, in_features, out_features in (judge.sizes(5, 3, 4), judge.sizes(2, 7, 6)):
        x, W = judge.normal(n, in_features), judge.normal(out_features, in_features)
        g = judge.normal(n, out_features)
        out = judge.parts(judge.call(fn, g=g, x=x, W=W), 2, "two gradients, `return gx, gW`")
        judge.true(
            tuple(map(np.shape, out)) != (W.shape, x.shape),
            "gx and gW are swapped: each has the shape of its own array.",
        )
        mean = {"divided by the batch size, and that mean belongs to the loss": 1 / n}
        judge.gradient(
            "gx",
            out[0],
            lambda v, W=W, g=g: (g * (v @ W.T)).sum(),
            x,
            factors=mean,
            instead={"the cotangent g is not in it.": np.ones_like(g) @ W},
        )
        judge.gradient(
            "gW",
            out[1],
            lambda v, x=x, g=g: (g * (x @ v.T)).sum(),
            W,
            factors=mean,
            instead={
                "the cotangent g is not in it.": np.ones_like(g).T @ x,
                "g and x were added up over the rows before the product; multiply in each row, and "
                "add up the products.": np.outer(g.sum(axis=0), x.sum(axis=0)),
            },
        )


@exercise(
    "1.1",
    "The vjps of a linear map",
    minutes=12,
    difficulty=2,
    importance=3,
    check=check_linear_vjps,
    statement=r"""
    A linear map takes rows $x$ of shape `(n, in)` to $y = x W^\top$, with $W$ of shape
    `(out, in)`. Somebody has handed you `g`, the gradient of the loss with respect to $y$, of
    shape `(n, out)`. Write `linear_vjps(g, x, W)` and return `gx, gW`. Entry by entry,

    $$\begin{gathered}
    y_{no} = \sum_i x_{ni} W_{oi}, \\[4pt]
    (g_x)_{ni} = \sum_o g_{no}\, \frac{\partial y_{no}}{\partial x_{ni}}, \\[4pt]
    (g_W)_{oi} = \sum_n g_{no}\, \frac{\partial y_{no}}{\partial W_{oi}} .
    \end{gathered}$$
    """,
    hints=(
        "A gradient has the shape of its own array. Which product of g and W has the shape of x?",
        "The derivative of y[n, o] by x[n, i] is W[o, i]: sum g[n, o] * W[o, i] over o. For gW it "
        "is x[n, i]: sum g[n, o] * x[n, i] over n.",
        "gx = g @ W. For gW the sum runs over the rows, so n has to be the inner side of the "
        "product: g.T @ x.",
    ),
    wrong=(
        mistake("transposed", "transposed", change=("g.T @ x", "x.T @ g")),
        mistake("swapped", "gx and gW are swapped", change=("return gx, gW", "return gW, gx")),
        mistake("batch left", "batch axis", change=("g.T @ x", "g[:, :, None] * x[:, None, :]")),
        mistake("mean", "divided by the batch size", change=("g.T @ x", "g.T @ x / len(x)")),
        mistake("no cotangent", "g is not in it", change=("g @ W", "np.ones_like(g) @ W")),
        mistake(
            "rows added first",
            "before the product",
            change=("g.T @ x", "np.outer(g.sum(axis=0), x.sum(axis=0))"),
        ),
    ),
)
def linear_vjps(g: np.ndarray, x: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """gx (n, in) and gW (out, in) of y = x W^T, from g (n, out)."""
    gx = g @ W
    gW = g.T @ x
    return gx, gW


def check_unbroadcast(fn: Callable, judge: Judge) -> None:
    a, b, c, d = judge.sizes(2, 3, 4, 5)
    cases = (((b,), (d, c, b)), ((d, 1, b), (a, d, c, b)), ((1, d), (c, d)), ((), (a, d)))
    # At last lengths that are alike, so that nothing can be told by its length.
    for shape, big in (*cases, ((c, b), (c, b)), ((1, d, 1), (a, b, d, c)), ((b,), (b, b))):
        g = judge.normal(*big)
        out = np.asarray(judge.call(fn, g=g, shape=shape))
        said = f"from {big} back to {shape}"
        judge.true(
            out.ndim <= len(shape),
            f"{said}: your shape is {out.shape}, so there are axes left in front that an array "
            f"of shape {shape} never had; sum them away.",
        )
        judge.true(
            out.ndim >= len(shape),
            f"{said}: your shape is {out.shape}, so an axis is gone that the array had; one of "
            "length 1 stays where you sum with keepdims=True.",
        )
        repeated = [i for i, n in enumerate(shape) if n == 1 and out.shape[i] != 1]
        judge.true(
            not repeated,
            f"{said}: your shape is {out.shape}; axis {', '.join(map(str, repeated))} was repeated "
            "from length 1, so sum over it as well.",
        )
        judge.gradient(
            said,
            out,
            lambda v, g=g, big=big: (g * np.broadcast_to(v, big)).sum(),
            judge.normal(*shape),
            factors={
                "averaged where it must be added up": np.prod(shape) / np.prod(big),
            },
            instead=_other_sums(g, shape),
        )


def _other_sums(g: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What is not the sum over the copies, where it is another array than that."""
    extra = tuple(range(g.ndim - len(shape)))
    ones = tuple(i for i, n in enumerate(shape) if n == 1)
    want = g.sum(axis=extra).sum(axis=ones, keepdims=True)
    others = {
        "that is the first of the copies in front; add up all of them.": g[(0,) * len(extra)].sum(
            axis=ones, keepdims=True
        ),
        "that is one sum over everything; entries that were not repeated stay apart.": (
            np.broadcast_to(g.sum(), shape)
        ),
        "reshape put numbers of other axes together; sum over axes.": g.reshape(-1, *shape).sum(
            axis=0
        ),
    }
    return {text: other for text, other in others.items() if not np.allclose(other, want)}


@exercise(
    "1.2",
    "Undo a broadcast",
    minutes=12,
    difficulty=2,
    importance=2,
    check=check_unbroadcast,
    statement=r"""
    Write `unbroadcast(g, shape)`. An array of shape `shape` was broadcast to `g`'s shape; `g` is
    the gradient of the loss with respect to the repeated entries. Return the gradient of the array
    itself: each entry was used several times, so it collects the sum over its copies.

    NumPy broadcasts in two ways, and both must be undone: it puts new axes in front, and it
    repeats axes of length 1. `shape` may be `()`, and it may be `g.shape`.
    """,
    hints=(
        "First the axes in front: there are g.ndim - len(shape) of them.",
        "Then the axes where shape has a 1. The result must still have them, with length 1.",
        "g.sum(axis=(0, 1)) sums over two axes at once; g.sum(axis=(1,), keepdims=True) keeps the "
        "axis. Both take an empty tuple.",
    ),
    wrong=(
        mistake(
            "front axes only",
            "repeated from length 1",
            change=("return g.sum(axis=ones, keepdims=True)", "return g"),
        ),
        mistake("ones only", "axes left in front", change=("range(extra)", "range(0)")),
        mistake("axis lost", "is gone", change=("keepdims=True", "keepdims=False")),
        mistake(
            "the first copies",
            "copies in front",
            change=("g.sum(axis=tuple(range(extra)))", "g[(0,) * extra]"),
        ),
        mistake(
            "folded",
            "reshape put",
            body="return g.reshape(-1, *shape).sum(axis=0)",
        ),
        mistake(
            "by length",
            "shapes do not fit",
            body="""
            repeated = tuple(i for i, n in enumerate(g.shape) if n not in shape)
            return g.sum(axis=repeated).reshape(shape)
            """,
        ),
        mistake(
            "mean",
            "averaged",
            body="""
            extra = g.ndim - len(shape)
            g = g.mean(axis=tuple(range(extra)))
            ones = tuple(i for i, n in enumerate(shape) if n == 1)
            return g.mean(axis=ones, keepdims=True)
            """,
        ),
    ),
)
def unbroadcast(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum g over the axes along which an array of `shape` was repeated."""
    extra = g.ndim - len(shape)
    g = g.sum(axis=tuple(range(extra)))
    ones = tuple(i for i, n in enumerate(shape) if n == 1)
    return g.sum(axis=ones, keepdims=True)


def check_softmax(fn: Callable, judge: Judge) -> None:
    for shape in (judge.sizes(3, 4), judge.sizes(2, 5, 3)):
        x = judge.normal(*shape)
        e = np.exp(x)
        p = e / e.sum(axis=-1, keepdims=True)
        with no_grad():
            judge.close(
                "the value",
                judge.call(fn, x=Tensor(x)),
                p,
                instead={
                    "the sum runs over the whole array; each row sums to 1.": e / e.sum(),
                    "the sum runs over the first axis; it belongs over the last.": e
                    / e.sum(axis=0),
                },
            )
        judge.recorded_gradients(fn, {"x": x}, instead={"x": lambda g, p=p: _near_misses(g, p)})
    x = judge.normal(3, 4)
    e = np.exp(x)
    with no_grad():
        judge.stable(
            "the value",
            lambda rows: judge.call(fn, x=Tensor(rows)),
            x,
            e / e.sum(axis=-1, keepdims=True),
            steep=np.tile([0.0, 1.0, 0.0, 0.0], (3, 1)),
        )
    leaf = Tensor(x, requires_grad=True)
    parents = fn(leaf).node.parents
    judge.true(
        len(parents) == 1 and parents[0] is leaf,
        "right numbers, recorded in several ops; record softmax as one, with one Tensor.from_op.",
    )


def _near_misses(g: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
    pull = (g * p).sum(axis=-1, keepdims=True)
    return {
        "that is p (1 - p), the slope of an entry along itself; the cotangent g is missing, and so "
        "is what happens to the other entries of the row.": p * (1 - p),
        "that is p (1 - p) g, the diagonal alone; raising one entry also lowers all others of its "
        "row.": p * (1 - p) * g,
        "the cotangent g is only in the sum; it also stands before it.": p * (1 - pull),
        "the factor p in front is missing.": g - pull,
        "what is subtracted is one sum over the whole array; it is one a row.": p
        * (g - (g * p).sum()),
        "the sum that is subtracted is missing.": p * g,
        "a sign is wrong: the sum is subtracted.": p * (g + pull),
        "what is subtracted is a plain sum of g; each term is weighted by p.": p
        * (g - g.sum(axis=-1, keepdims=True)),
        "what is subtracted is a mean; the formula has a sum.": p * (g - pull / p.shape[-1]),
    }


@exercise(
    "1.5",
    "An op of your own",
    minutes=15,
    difficulty=3,
    importance=2,
    check=check_softmax,
    statement=r"""
    Write `softmax(x)` for a Tensor, over the last axis, with its vjp recorded by
    `Tensor.from_op`. With $p = \mathrm{softmax}(x)$ in one row,

    $$\begin{gathered}
    \frac{\partial p_i}{\partial x_j} = p_i\,(\delta_{ij} - p_j), \\[4pt]
    (g_x)_j = \sum_i g_i\, p_i\, (\delta_{ij} - p_j) .
    \end{gathered}$$

    Simplify the sum before you write it. Large entries must not overflow.
    """,
    hints=(
        "Split the sum at the minus sign. The first half is g p; what is left in the second?",
        "gx = p * (g - s), where s is the sum of g * p over the row, one number a row.",
        "Compute p from x.data (minus the row's maximum), then return Tensor.from_op(p, (x, "
        "lambda g: p * (g - (g * p).sum(axis=-1, keepdims=True)))).",
    ),
    wrong=(
        mistake(
            "the diagonal",
            "the diagonal alone",
            change=("p * (g - (g * p).sum(axis=-1, keepdims=True))", "p * (1 - p) * g"),
        ),
        mistake(
            "no cotangent",
            "g is missing",
            change=("p * (g - (g * p).sum(axis=-1, keepdims=True))", "p * (1 - p)"),
        ),
        mistake("g in the sum only", "stands before it", change=("p * (g - (g", "p * (1 - (g")),
        mistake("no p", "factor p in front", change=("lambda g: p * (g - ", "lambda g: (g - ")),
        mistake(
            "one sum for all",
            "sum over the whole array",
            change=("(g * p).sum(axis=-1, keepdims=True)", "(g * p).sum()"),
        ),
        mistake("plus", "the sum is subtracted", change=("p * (g - (g", "p * (g + (g")),
        mistake("plain sum", "a plain sum of g", change=("(g * p).sum", "g.sum")),
        mistake("a mean", "what is subtracted is a mean", change=("(g * p).sum", "(g * p).mean")),
        mistake(
            "first axis",
            "over the first axis",
            body="""
            e = np.exp(x.data - x.data.max(axis=0))
            p = e / e.sum(axis=0)
            return Tensor.from_op(p, (x, lambda g: p * (g - (g * p).sum(axis=0))))
            """,
        ),
        mistake("overflow", "near 800 exp overflows", change=("x.data - top", "x.data")),
        mistake("smallest for largest", "1600 above the others", change=("data.max(", "data.min(")),
        mistake(
            "into g",
            "wrote into the cotangent",
            body="""
            e = np.exp(x.data - x.data.max(axis=-1, keepdims=True))
            p = e / e.sum(axis=-1, keepdims=True)
            def vjp(g):
                g -= (g * p).sum(axis=-1, keepdims=True)
                return p * g
            return Tensor.from_op(p, (x, vjp))
            """,
        ),
        mistake(
            "one maximum for all",
            "not that of the whole array",
            change=("x.data.max(axis=-1, keepdims=True)", "x.data.max()"),
        ),
        mistake(
            "clipped",
            "800 higher and lower",
            change=("np.exp(x.data - top)", "np.exp(np.clip(x.data, -700, 700))"),
        ),
    ),
)
def softmax(x: Tensor) -> Tensor:
    """e^x / sum(e^x) over the last axis, with its vjp."""
    top = x.data.max(axis=-1, keepdims=True)
    e = np.exp(x.data - top)
    p = e / e.sum(axis=-1, keepdims=True)
    return Tensor.from_op(p, (x, lambda g: p * (g - (g * p).sum(axis=-1, keepdims=True))))

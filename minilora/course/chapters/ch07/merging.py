"""Exercises 7.1, 7.2 and 7.4: merging one adapter and several, and a bottleneck."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_merge(fn: Callable, judge: Judge) -> None:
    for like, alpha in (((7, 9, 5), 4.6), ((6, 4, 2), 7.1)):  # at r = 4 its root is half of it
        out_features, in_features, r = judge.sizes(*like)
        W, A, B = (
            judge.normal(out_features, in_features),
            judge.normal(r, in_features),
            judge.normal(out_features, r),
        )
        merged = judge.call(fn, W=W, A=A, B=B, alpha=alpha)
        judge.true(
            np.shape(merged) == W.shape,
            f"the merged weight: your shape is {np.shape(merged)}, W's is {W.shape}.",
        )
        judge.close(
            "the merged weight",
            merged,
            W + alpha / r * B @ A,
            instead={
                "alpha is not divided by r.": W + alpha * B @ A,
                "the update has no alpha / r.": W + B @ A,
                "alpha is divided by the square root of r, as in rsLoRA; here it is r itself.": W
                + alpha / np.sqrt(r) * B @ A,
                "that is the update alone; W is missing.": alpha / r * B @ A,
                "the update is added twice.": W + 2 * alpha / r * B @ A,
            },
        )
        x = judge.normal(3, in_features)
        beside = x @ W.T + alpha / r * (x @ A.T) @ B.T
        judge.close("x times the merged weight, beside what the adapter computes",
                    x @ np.asarray(merged).T, beside)  # fmt: skip


@exercise(
    "7.1",
    "Merge",
    minutes=6,
    difficulty=1,
    importance=3,
    check=check_merge,
    statement=r"""
    Write `merged_weight(W, A, B, alpha)` for a weight `W` (out, in), with `A` (r, in) and `B`
    (out, r). Return the one weight that does for every $x$ what base and adapter do together:

    $$x\, W_{\text{merged}}^\top = x W^\top + \frac{\alpha}{r}\, (x A^\top) B^\top .$$

    Others still hold `W`: make a new array.
    """,
    hints=(
        "Take x out on the left. What is added to W^T is (alpha / r) A^T B^T.",
        "Transpose: A^T B^T is the transpose of B A, which is (out, in), as W is.",
        "r is A.shape[0], and the answer is W + (alpha / r) * (B @ A).",
    ),
    wrong=(
        mistake("forgot / r", "alpha is not divided by r", change=("alpha / r", "alpha")),
        mistake("root of r", "square root of r", change=("alpha / r", "alpha / r**0.5")),
        mistake("no scaling", "has no alpha / r", change=("(alpha / r) * (B @ A)", "B @ A")),
        mistake("in place", "in place", change=("return W +", "W +=")),
        mistake("swapped", "shapes do not fit", change=("B @ A", "A @ B")),
        mistake("update alone", "W is missing", change=("return W +", "return")),
        mistake("twice", "added twice", change=("(alpha / r)", "2 * (alpha / r)")),
    ),
)
def merged_weight(W: np.ndarray, A: np.ndarray, B: np.ndarray, alpha: float) -> np.ndarray:
    """W + (alpha / r) B A, as a new array (out, in)."""
    r = A.shape[0]
    return W + (alpha / r) * (B @ A)


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


def check_merge_several(fn: Callable, judge: Judge) -> None:
    for ranks in ((2, 2), (3, 3, 3), (4, 1)):
        rows, columns = judge.sizes(6, 8)
        W = judge.normal(rows, columns)
        adapters = [
            (judge.normal(r, columns), judge.normal(rows, r), alpha)
            for r, alpha in zip(ranks, (3.5, 1.3, 6.1), strict=False)
        ]
        deltas = [alpha / len(A) * B @ A for A, B, alpha in adapters]
        alike = len(set(ranks)) == 1
        merged = judge.call(fn, W=W, adapters=adapters)
        instead = {
            "that holds the last adapter only; keep adding to what you have.": W + deltas[-1],
            "that holds the first adapter only.": W + deltas[0],
            "that is the updates' mean; each client ordered a whole one.": W
            + sum(deltas) / len(deltas),
            "that is the updates alone; W is missing.": sum(deltas),
            "alpha is not divided by r.": W + sum(alpha * B @ A for A, B, alpha in adapters),
            "W is in it once for every adapter; it is there once.": len(deltas) * W + sum(deltas),
            "every adapter has an alpha and an r of its own.": W
            + sum(adapters[0][2] / ranks[0] * B @ A for A, B, _ in adapters),
        }
        if alike:
            factors = sum(a / len(A) * B for A, B, a in adapters) @ sum(A for A, _, _ in adapters)
            instead["you added A's to A's and B's to B's, and their product has cross terms, "
                    "such as B1 A2, that nobody trained."] = W + factors  # fmt: skip
        judge.close("the merged weight", merged, W + sum(deltas), instead=instead)


@exercise(
    "7.4",
    "Two adapters in one weight",
    minutes=8,
    difficulty=2,
    importance=2,
    check=check_merge_several,
    statement=r"""
    `adapters` is a list of `(A, B, alpha)`, two or more, and their ranks may differ. Write
    `merge_several(W, adapters)` and return, as a new array,

    $$W + \sum_i \frac{\alpha_i}{r_i} B_i A_i .$$

    Whether the sum does both jobs is another question: the updates were trained apart.
    """,
    hints=(
        "The products have the shape of W whatever the ranks are. The factors do not.",
        "Start with merged = W and loop over the adapters: for A, B, alpha in adapters.",
        "merged = merged + (alpha / A.shape[0]) * (B @ A) makes a new array each time.",
    ),
    wrong=(
        mistake(
            "factors added",
            "cross terms",
            body="""
            A = sum(a for a, _, _ in adapters)
            B = sum(alpha / len(a) * b for a, b, alpha in adapters)
            return W + B @ A
            """,
        ),
        mistake("last only", "the last adapter only", change=("merged = merged +", "merged = W +")),
        mistake("in place", "in place", change=("merged = merged +", "merged +=")),
        mistake(
            "one scaling",
            "an alpha and an r of its own",
            body="""
            s = adapters[0][2] / len(adapters[0][0])
            return W + s * sum(B @ A for A, B, _ in adapters)
            """,
        ),
        mistake("no W", "W is missing", change=("merged = W\n", "merged = 0 * W\n")),
        mistake("forgot / r", "not divided by r", change=("alpha / A.shape[0]", "alpha")),
        mistake(
            "mean",
            "that is the updates' mean",
            body="return W + sum(a / len(A) * B @ A for A, B, a in adapters) / len(adapters)",
        ),
    ),
)
def merge_several(
    W: np.ndarray, adapters: list[tuple[np.ndarray, np.ndarray, float]]
) -> np.ndarray:
    """W plus the update of every (A, B, alpha)."""
    merged = W
    for A, B, alpha in adapters:
        merged = merged + (alpha / A.shape[0]) * (B @ A)
    return merged

"""Exercises 4.2, 4.3 and 4.5: the forward pass of LoRA, its gradients, and dropout before A."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.comparing import as_numbers
from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge

CASES = (((7, 5, 4, 2), 2.83), ((3, 4, 6, 5), 0.34))
"""Sizes like n, in, out, r; and alpha / r, in which no mistake looks like another."""


def _arrays(judge: Judge, n: int, i: int, o: int, r: int) -> dict[str, np.ndarray]:
    shapes = {"x": (n, i), "W": (o, i), "A": (r, i), "B": (o, r)}
    return {name: judge.normal(*shape) for name, shape in shapes.items()}


def check_lora_forward(fn: Callable, judge: Judge) -> None:
    for like, loud in CASES:
        n, i, o, r = judge.sizes(*like)
        alpha = loud * r
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
                "that is what W does alone; the adapter's part is missing.": base,
                "// rounds alpha / r down to a whole number; divide with /.": base
                + alpha // r * delta,
                "alpha is divided by the root of r, as in rsLoRA; here it is r itself.": base
                + alpha / r**0.5 * delta,
                "the adapter's part is subtracted; it is added.": base - alpha / r * delta,
                "alpha is missing; that is 1 / r.": base + delta / r,
                "you divided by the number of rows of x; r is the side that A and B share.": base
                + alpha / n * delta,
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
    n, i, o, r = 20, 21, 19, 4
    count = judge.multiplications(fn, **_arrays(judge, n, i, o, r), alpha=1.9)
    needed = n * i * o + n * r * (i + o)
    judge.true(
        count < 2 * needed,
        f"right numbers, with {count:,} multiplications where {needed:,} are enough: x A^T first, "
        "and its r columns times B^T. One sum over all indices at once runs through n * r * in * "
        "out terms.",
    )


@exercise(
    "4.2",
    "The forward pass",
    minutes=6,
    difficulty=1,
    importance=3,
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
        mistake(
            "one sum over all",
            "all indices at once",
            change=("((x @ A.T) @ B.T)", "np.einsum('ni,ri,or->no', x, A, B)"),
        ),
        mistake(
            "adapter missing", "part is missing", change=(" + (alpha / r) * ((x @ A.T) @ B.T)", "")
        ),
        mistake("whole number", "// rounds", change=("alpha / r", "alpha // r")),
        mistake("root of r", "root of r, as", change=("alpha / r", "alpha / r**0.5")),
        mistake("subtracted", "it is added", change=("x @ W.T + ", "x @ W.T - ")),
        mistake("alpha missing", "alpha is missing; that", change=("alpha / r", "1 / r")),
        mistake("rows of x", "number of rows of x", change=("A.shape[0]", "len(x)")),
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
    for like, loud in CASES:
        n, i, o, r = judge.sizes(*like)
        alpha = loud * r
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
            "alpha is divided by the root of r, and it is r itself": r**0.5,
            "alpha is divided by out; r is the side that A and B share": r / o,
        }
        ways = {
            "the way through B and A is missing; x goes through the sheet as well.": g @ p["W"],
            "the way through W is missing. W is frozen, and x still goes through it.": size
            * g
            @ p["B"]
            @ p["A"],
            "alpha / r is missing on the way through the sheet.": g @ (p["W"] + p["B"] @ p["A"]),
            "alpha / r is there twice on the way through the sheet.": g
            @ (p["W"] + size**2 * p["B"] @ p["A"]),
            "alpha / r is on the way through W as well; only the sheet has it.": size
            * g
            @ (p["W"] + p["B"] @ p["A"]),
        }
        ones = np.ones_like(g)
        bare = {"A": size * (ones @ p["B"]).T @ p["x"], "B": size * ones.T @ (p["x"] @ p["A"].T)}
        found = dict(zip(("x", "A", "B"), out, strict=True))
        for name in ("A", "B", "x"):  # a size that is wrong shows best in A and B
            judge.gradient(
                f"g{name}",
                found[name],
                lambda v, name=name, g=g, p=p, alpha=alpha: _loss(g, alpha, {**p, name: v}),
                p[name],
                factors={} if name == "x" else sizes,
                instead=ways if name == "x" else {"the cotangent g is not in it.": bare[name]},
            )
    n, i, o, r = 20, 21, 19, 1
    p, g = _arrays(judge, n, i, o, r), judge.normal(n, o)
    count = judge.multiplications(fn, g=g, **p, alpha=1.7)
    needed = n * i * o + n * r * (2 * o + 3 * i)
    judge.true(
        count < 1.5 * needed,
        f"right numbers, with {count:,} multiplications where {needed:,} are enough. Did you "
        "compute g^T x, the gradient of W, on the way? Nobody needs it, and it costs as much as "
        "the whole layer: go through g B and x A^T.",
    )


@exercise(
    "4.3",
    "Three gradients",
    minutes=15,
    difficulty=3,
    importance=3,
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
        mistake(
            "through W's gradient",
            "the gradient of W, on the way",
            body="""
            s = alpha / A.shape[0]
            gW = g.T @ x
            return g @ (W + s * B @ A), s * B.T @ gW, s * gW @ A.T
            """,
        ),
        mistake("sheet twice scaled", "twice on the way", change=("u @ A, gA", "s * u @ A, gA")),
        mistake("W scaled", "on the way through W as well", change=("g @ W", "s * g @ W")),
        mistake("root of r", "root of r, and", change=("A.shape[0]", "A.shape[0] ** 0.5")),
        mistake("out for r", "divided by out", change=("A.shape[0]", "B.shape[0]")),
        mistake(
            "no cotangent",
            "g is not in it",
            change=("(g.T @ (x @ A.T))", "(np.ones_like(g).T @ (x @ A.T))"),
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


def check_drop(fn: Callable, judge: Judge) -> None:
    for like, alpha, p in (((400, 30, 5, 3), 2.1, 0.3), ((300, 41, 4, 2), 1.3, 0.6)):
        n, i, o, r = judge.sizes(*like)
        a = _arrays(judge, n, i, o, r)
        a["x"] = np.abs(a["x"]) + 0.1  # no entry is zero by itself
        s, rng = alpha / r, np.random.default_rng(int(judge.rng.integers(2**31)))
        a["A"], a["B"] = np.eye(r, i), np.eye(o, r)
        out = as_numbers("y", judge.call(fn, **a, alpha=alpha, p=p, rng=rng))
        plain = a["x"] @ a["W"].T
        judge.true(out.shape == plain.shape, f"your shape is {out.shape}, expected {plain.shape}.")
        part = s * a["x"] @ a["A"].T @ a["B"].T
        with np.errstate(all="ignore"):
            none = judge.call(fn, **a, alpha=alpha, p=0.0, rng=rng)
        for sentence, other in (
            ("the frozen W is missing.", part),
            ("alpha / r is missing.", plain + part / s),
            ("alpha is not divided by r.", plain + r * part),
            ("alpha is divided by the root of r; here it is r itself.", plain + r**0.5 * part),
        ):
            judge.true(not np.allclose(none, other), sentence)
        read = (out - plain)[:, :r] / s  # A and B pass the first r inputs through
        x = a["x"][:, :r]
        judge.true(
            np.isclose(out[:, r:], plain[:, r:]).all(),
            "W must read the input as it is; drop only what A reads.",
        )
        judge.true(not np.isclose(read, x).all(), "nothing was dropped: A reads all of the input.")
        dropped = np.isclose(read, 0)
        share = float(dropped.mean())
        judge.true(
            share > 0, "what A reads is another, and no number of it is zero; set some to 0."
        )
        judge.true(
            not (dropped == dropped[:, :1]).all() and not (dropped == dropped[:1]).all(),
            "whole rows or columns are dropped together; draw for every number of x.",
        )
        judge.true(
            abs(share - (1 - p)) > 0.05 or abs(p - 0.5) < 0.05,
            f"you dropped {100 * share:.0f} % where p is {p}: p is the probability of zero.",
        )
        judge.true(
            abs(share - p) < 0.08,
            f"you dropped {100 * share:.0f} % of what A reads, expected {100 * p:.0f} %: compare "
            "numbers that are uniform between 0 and 1 with p.",
        )
        kept = read[~dropped] / x[~dropped]
        judge.true(
            not np.isclose(kept, 1).all(),
            "what is left must be made larger by 1 / (1 - p), or the sum is smaller on average.",
        )
        judge.true(
            np.isclose(kept, 1 / (1 - p)).all(),
            f"what is left is {kept.mean():.3g} times what it was, expected 1 / (1 - p), which is "
            f"{1 / (1 - p):.3g}.",
        )
        judge.close("y with p = 0", none, plain + part)
        _judge_place(judge, fn, p)
        _judge_draws(judge, fn, a, alpha, p)


def _judge_place(judge: Judge, fn: Callable, p: float) -> None:
    """Dropped in front of A, and not behind it or behind B: there no sum hides a zero."""
    n, i, o, r, alpha = 60, 11, 7, 3, 1.9
    a = _arrays(judge, n, i, o, r)
    out = as_numbers("y", judge.call(fn, **a, alpha=alpha, p=p, rng=np.random.default_rng(3)))
    part = (out - a["x"] @ a["W"].T) * r / alpha
    judge.true(
        (np.abs(part) < 1e-9).mean() < p / 2,
        "you dropped numbers of the adapter's output; drop numbers of x, before A.",
    )
    behind = part @ np.linalg.pinv(a["B"]).T  # what B read
    judge.true(
        (np.abs(behind) < 1e-9).mean() < p / 2,
        "you dropped numbers of x A^T, behind A; drop numbers of x, before A.",
    )


def _judge_draws(judge: Judge, fn: Callable, a: dict, alpha: float, p: float) -> None:
    """Drawn from the generator that was handed over, and anew for each call."""
    rng = np.random.default_rng(5)
    first, second = (judge.call(fn, **a, alpha=alpha, p=p, rng=rng) for _ in range(2))
    judge.true(
        not np.array_equal(first, second),
        "two calls dropped the same numbers: draw from `rng`, and make no generator of your own.",
    )
    again = judge.call(fn, **a, alpha=alpha, p=p, rng=np.random.default_rng(5))
    judge.true(
        np.array_equal(first, again),
        "an `rng` of the same seed dropped other numbers: draw from `rng` alone, or nobody can "
        "make this run again.",
    )


@exercise(
    "4.5",
    "Dropout in front of A",
    minutes=10,
    difficulty=2,
    importance=1,
    check=check_drop,
    statement=r"""
    Write `lora_dropout(x, W, A, B, alpha, p, rng)`: the forward pass of exercise 4.2, in which $A$
    reads a thinned input,

    $$\begin{gathered}
    y = x W^\top + \frac{\alpha}{r}\, (\tilde x A^\top)\, B^\top, \\[4pt]
    \tilde x_{ni} = \begin{cases} 0 & \text{with probability } p \\ x_{ni} / (1 - p) &
    \text{otherwise.} \end{cases}
    \end{gathered}$$

    Draw for every number of $x$ on its own, from `rng`, a `numpy.random.Generator`.
    """,
    hints=(
        "rng.random(x.shape) has one number between 0 and 1 for every entry of x.",
        "keep = rng.random(x.shape) >= p is True with probability 1 - p.",
        "thinned = x * keep / (1 - p), and only A reads it: "
        "x @ W.T + alpha / r * (thinned @ A.T) @ B.T",
    ),
    wrong=(
        mistake("W too", "W must read the input as it is", change=("x @ W.T", "thinned @ W.T")),
        mistake("not larger", "must be made larger", change=(" / (1 - p)", "")),
        mistake("the other way", "p is the probability of zero", change=(">= p", "< p")),
        mistake("divided by p", "expected 1 / (1 - p)", change=("/ (1 - p)", "/ max(p, 1e-9)")),
        mistake(
            "whole rows",
            "draw for every number",
            change=("rng.random(x.shape)", "rng.random((len(x), 1))"),
        ),
        mistake(
            "behind A",
            "behind A; drop",
            body="""
            h = x @ A.T
            h = h * (rng.random(h.shape) >= p) / (1 - p)
            return x @ W.T + (alpha / A.shape[0]) * (h @ B.T)
            """,
        ),
        mistake(
            "behind B",
            "the adapter's output",
            body="""
            out = (alpha / A.shape[0]) * ((x @ A.T) @ B.T)
            return x @ W.T + out * (rng.random(out.shape) >= p) / (1 - p)
            """,
        ),
        mistake(
            "own generator",
            "two calls dropped the same",
            change=("rng.random(x", "np.random.default_rng(0).random(x"),
        ),
        mistake(
            "NumPy's own state",
            "of the same seed dropped",
            change=("rng.random(x", "np.random.random(x"),
        ),
        mistake("no alpha / r", "alpha / r is missing", change=("(alpha / A.shape[0])", "1.0")),
        mistake("W forgotten", "frozen W is missing", change=("x @ W.T + ", "")),
        mistake(
            "uneven numbers",
            "uniform between 0 and 1",
            change=("rng.random(x.shape)", "rng.normal(size=x.shape)"),
        ),
        mistake(
            "noise",
            "no number of it is zero",
            change=("* keep / (1 - p)", "* (1 + p * rng.random(x.shape))"),
        ),
        mistake("nothing dropped", "nothing was dropped", change=("* keep / (1 - p)", "* 1.0")),
    ),
)
def lora_dropout(
    x: np.ndarray,
    W: np.ndarray,
    A: np.ndarray,
    B: np.ndarray,
    alpha: float,
    p: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """x W^T + (alpha / r) (dropout(x) A^T) B^T."""
    keep = rng.random(x.shape) >= p
    thinned = x * keep / (1 - p)
    return x @ W.T + (alpha / A.shape[0]) * ((thinned @ A.T) @ B.T)

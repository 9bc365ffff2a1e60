"""Exercise 4.4: initial values that change nothing, and can learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.comparing import as_numbers
from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_fresh_adapter(fn: Callable, judge: Judge) -> None:
    for o, i, r in (judge.sizes(7, 400, 9), judge.sizes(11, 1600, 5)):
        seed = int(judge.rng.integers(2**31))
        rng = np.random.default_rng(seed)
        out = judge.call(fn, out_features=o, in_features=i, r=r, rng=rng)
        pair = judge.parts(out, 2, "two arrays, `return A, B`")
        A, B = (as_numbers(name, part) for name, part in zip("AB", pair, strict=True))
        judge.true(
            (A.shape, B.shape) != ((o, r), (r, i)),
            "A and B are swapped: A (r, in) comes first, then B (out, r).",
        )
        judge.true(
            (A.shape, B.shape) == ((r, i), (o, r)),
            f"your shapes are A {A.shape}, B {B.shape}; expected A ({r}, {i}) and B ({o}, {r}).",
        )
        judge.true(
            A.any() or B.any(),
            "both are zero. The gradient of A is a product with B and that of B a product with A, "
            "so neither ever moves.",
        )
        judge.true(
            not (B @ A).any(),
            "B A is not zero: the model is changed before it has seen one example.",
        )
        judge.true(
            A.any(), "A is zero and B is not. It would learn; this course starts from B = 0."
        )
        _judge_spread(judge, A, o)
        other = judge.call(fn, out_features=o, in_features=i, r=r, rng=rng)
        judge.true(
            not np.array_equal(np.asarray(other[0]), A),
            "two layers got the same A: draw from `rng`, and make no generator of your own.",
        )
        again = judge.call(fn, out_features=o, in_features=i, r=r, rng=np.random.default_rng(seed))
        judge.true(
            np.array_equal(np.asarray(again[0]), A),
            "an `rng` of the same seed gave another A: draw from `rng` alone, or nobody can make "
            "this run again.",
        )


def _judge_spread(judge: Judge, A: np.ndarray, outs: int) -> None:
    """Uniform within 1 / sqrt(in), and every entry drawn."""
    root = A.shape[1] ** 0.5
    judge.true(
        (A[:, :1] != A).any(),
        "the entries of a row of A are all the same; draw r * in numbers.",
    )
    judge.true(
        np.linalg.matrix_rank(A) == len(A),
        "rows of A repeat one another; draw r * in numbers.",
    )
    width = float(np.abs(A).max()) * root
    inner = float((np.abs(A) < A.std()).mean())
    judge.true(
        width < 2.5 * A.std() * root or not 0.65 < inner < 0.71,
        "A looks Gaussian. The paper draws it so; here it is uniform, as in its own program and "
        "in PEFT: rng.uniform(-bound, bound, size=...).",
    )
    for name, bound in (
        ("1 / in; the root is missing", 1 / root**2),
        ("1 / sqrt(out); it is the width of x that counts, 1 / sqrt(in)", outs**-0.5),
        ("1 / sqrt(r); it is the width of x that counts, 1 / sqrt(in)", len(A) ** -0.5),
        ("sqrt(3 / in); the variance is then 1 / in, and here it is the bound", (3**0.5) / root),
        ("sqrt(6 / in), as for a layer in front of a ReLU; here it is 1 / sqrt(in)", 6**0.5 / root),
        ("1, whatever in is; divide it by the root of in", 1.0),
    ):
        judge.true(not 0.99 < width / root / bound < 1 + 1e-6, f"the bound of A is {name}.")
    judge.true(
        0.99 < width < 1 + 1e-6,
        f"the largest entry of A is {width:.3g} / sqrt(in), expected close to and at most "
        "1 / sqrt(in), whatever in is.",
    )
    judge.true(
        abs(A.mean()) * root < 0.1,
        f"the mean of A is {A.mean() * root:.2g} / sqrt(in), expected about 0: draw on both "
        "sides of zero.",
    )
    middle = float(np.abs(A).mean()) * root
    judge.true(
        abs(middle - 0.5) < 0.05,
        f"the entries of A are on average {middle:.2g} / sqrt(in) from zero, expected 0.5 / "
        "sqrt(in): uniform means that no size is drawn more often than another.",
    )


@exercise(
    "4.4",
    "Values to start from",
    minutes=8,
    difficulty=2,
    importance=3,
    check=check_fresh_adapter,
    statement=r"""
    Write `fresh_adapter(out_features, in_features, r, rng)` and return `A, B` such that

    - the model does not change: $BA = 0$ exactly,
    - something can learn: not all gradients are zero,
    - the random part is $A$, uniform between $-1/\sqrt{\text{in}}$ and $1/\sqrt{\text{in}}$, so
      that $x A^\top$ has entries of one size for every width.

    Draw from `rng`, a `numpy.random.Generator`.
    """,
    hints=(
        "gA = s (g B)^T x and gB = s g^T (x A^T). Which of the two may be zero at the start?",
        "B is zeros of shape (out, r). rng.uniform(low, high, size=...) draws A.",
        "bound = in_features ** -0.5; A = rng.uniform(-bound, bound, size=(r, in_features))",
    ),
    wrong=(
        mistake(
            "both zero",
            "both are zero",
            change=(
                "rng.uniform(-bound, bound, size=(r, in_features))",
                "np.zeros((r, in_features))",
            ),
        ),
        mistake(
            "both random",
            "before it has seen one example",
            change=(
                "np.zeros((out_features, r))",
                "rng.uniform(-bound, bound, size=(out_features, r))",
            ),
        ),
        mistake("wide", "1 / sqrt(r); it", change=("in_features**-0.5", "r**-0.5")),
        mistake(
            "half as wide", "and at most 1 / sqrt(in), whatever", change=("-0.5\n", "-0.5 / 2\n")
        ),
        mistake("no root", "the root is missing", change=("**-0.5", "**-1.0")),
        mistake("root of out", "1 / sqrt(out)", change=("in_features**-0.5", "out_features**-0.5")),
        mistake("bound of 1", "1, whatever in is", change=("in_features**-0.5", "1.0")),
        mistake(
            "Gaussian",
            "looks Gaussian",
            change=("rng.uniform(-bound, bound, size", "rng.normal(0, bound, size"),
        ),
        mistake(
            "swapped",
            "A and B are swapped",
            change=(
                "return A, np.zeros((out_features, r))",
                "return np.zeros((out_features, r)), A",
            ),
        ),
        mistake("one side", "both sides of zero", change=("uniform(-bound,", "uniform(0,")),
        mistake(
            "two values",
            "no size is drawn more often",
            change=("rng.uniform(-bound, bound,", "rng.choice([-bound, bound],"),
        ),
        mistake(
            "one row for all",
            "repeat one another",
            change=("size=(r, in_features))", "size=in_features) * np.ones((r, 1))"),
        ),
        mistake(
            "own generator",
            "two layers got the same A",
            change=("A = rng.", "A = np.random.default_rng(0)."),
        ),
        mistake(
            "NumPy's own state",
            "of the same seed gave another A",
            change=("A = rng.", "A = np.random."),
        ),
    ),
)
def fresh_adapter(
    out_features: int, in_features: int, r: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A uniform within 1 / sqrt(in), B zero."""
    bound = in_features**-0.5
    A = rng.uniform(-bound, bound, size=(r, in_features))
    return A, np.zeros((out_features, r))

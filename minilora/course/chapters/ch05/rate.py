"""Exercises 5.5 and 5.6: Adam's first step, and the run that stays the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.comparing import as_numbers
from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge
from minilora.nn import Parameter
from minilora.training import AdamW

TINY = 1e-30
"""Adam's epsilon, so small that only the sign of a first gradient is left."""


def adam_run(
    x: np.ndarray, y: np.ndarray, sheet: dict, alpha: float, rates: tuple[float, float], steps: int
) -> list[np.ndarray]:
    """ΔW (out, in) after each step of Adam on the squared error of x ΔW^T against y.

    sheet: {"A": (r, in), "B": (out, r)}. rates: of A and of B.
    """
    parts = {name: Parameter(array.copy()) for name, array in sheet.items()}
    a, b = parts["A"], parts["B"]
    optimizer = AdamW(
        parts.items(), eps=TINY, weight_decay=0.0, lr_scales=dict(zip("AB", rates, strict=True))
    )
    scaling, found = alpha / len(a.data), []
    for _ in range(steps):
        g = (scaling * x @ a.data.T @ b.data.T - y).T @ x
        a.grad, b.grad = scaling * b.data.T @ g, scaling * g @ a.data.T
        optimizer.step(1.0)
        found.append(scaling * b.data @ a.data)
    return found


def check_first_step(fn: Callable, judge: Judge) -> None:
    for like, alpha, lr in (((7, 11, 3), 8.6, 0.02), ((9, 5, 4), 0.7, 0.3)):
        outside, inside, r = judge.sizes(*like)
        x, y, a = judge.normal(13, inside), judge.normal(13, outside), judge.normal(r, inside)
        y[:, 1] *= 1e-9  # a row of G that is tiny, and one that is zero
        y[:, 2] = 0.0
        g = -y.T @ x  # the loss's gradient in ΔW, where B = 0
        got = judge.call(fn, G=g, A=a, alpha=alpha, lr=lr)
        sheet = {"A": a, "B": np.zeros((outside, r))}
        want = adam_run(x, y, sheet, alpha, (lr, lr), steps=1)[0]
        _judge_rows(judge, got, want)
        sign, both = np.sign(g @ a.T), alpha / r * g @ a.T
        judge.close(
            "the update after one step",
            got,
            want,
            factors={
                "alpha / r is missing": r / alpha,
                "alpha is not divided by r": r,
                "alpha is divided by the root of r, and it is r itself": r**0.5,
                "alpha is missing": 1 / alpha,
                "lr is missing": 1 / lr,
                "alpha / r is there twice": alpha / r,
            },
            instead={
                "that is plain gradient descent; Adam's first step keeps only the sign.": -lr
                * alpha
                / r
                * both
                @ a,
                "that is plain gradient descent, and without alpha / r in the gradient; Adam's "
                "first step keeps only the sign.": -lr * alpha / r * g @ a.T @ a,
                "you took the sign of G; Adam sees the gradient of B, so the sign of G A^T.": -lr
                * alpha
                / r
                * np.sign(g)
                @ a.T
                @ a,
                "that is Adam on W itself; only B moves.": -lr * np.sign(g),
                "that is Adam on W itself, times alpha / r; only B moves.": -lr
                * alpha
                / r
                * np.sign(g),
                "that is B after the step, not the update B A.": -lr * sign,
                "A moved too, but with B = 0 its gradient is zero.": alpha
                / r
                * (-lr * sign)
                @ (a - lr * np.sign(a)),
            },
        )


def _judge_rows(judge: Judge, got: object, want: np.ndarray) -> None:
    """Where all other rows are right: those of a gradient of about 1e-9, and of zero."""
    found, rest = (
        as_numbers("the update after one step", got),
        np.delete(np.arange(len(want)), [1, 2]),
    )
    if found.shape != want.shape or not np.allclose(found[rest], want[rest]):
        return
    judge.true(
        np.allclose(found[2], 0.0, atol=1e-12),
        "row 2 of G is zero, and the update there is not: an entry with gradient zero stays.",
    )
    judge.true(
        np.allclose(found[1], want[1]),
        "row 1 of G is about 1e-9, and the update there is another: however small a gradient is, "
        "its entry moves by lr.",
    )


@exercise(
    "5.5",
    "The first step",
    minutes=10,
    difficulty=2,
    importance=3,
    check=check_first_step,
    statement=r"""
    Adam's first step moves every entry by `lr` against the *sign* of its gradient, however small
    the gradient is (with a negligible $\varepsilon$). An entry with gradient zero stays.

    An adapter starts with $B = 0$. Let $G = \partial L / \partial \Delta W$, of shape (out, in).
    Write `first_step(G, A, alpha, lr)`: the update $\Delta W = \frac{\alpha}{r} B A$ after one
    step. Which of the two strips moves, and what is its gradient?
    """,
    hints=(
        "The gradient of A is (alpha / r) B^T G, and B is zero. So only B moves.",
        "The gradient of B is (alpha / r) G A^T. What does alpha / r do to its sign?",
        "B = -lr * np.sign(G @ A.T); return (alpha / r) * B @ A.",
    ),
    wrong=(
        mistake("no sign", "keeps only the sign", change=("np.sign(G @ A.T)", "(G @ A.T)")),
        mistake(
            "no zero",
            "with gradient zero stays",
            change=("np.sign(G @ A.T)", "np.where(G @ A.T > 0, 1.0, -1.0)"),
        ),
        mistake(
            "a larger epsilon",
            "however small a gradient",
            change=("np.sign(G @ A.T)", "(G @ A.T) / (abs(G @ A.T) + 1e-8)"),
        ),
        mistake(
            "sign of G", "you took the sign of G", change=("np.sign(G @ A.T)", "np.sign(G) @ A.T")
        ),
        mistake("no alpha / r", "alpha / r is missing", change=("(alpha / r) * B @ A", "B @ A")),
        mistake("not / r", "alpha is not divided by r", change=("(alpha / r)", "alpha")),
        mistake("uphill", "the sign is wrong", change=("-lr", "lr")),
        mistake("B alone", "not the update B A", change=("(alpha / r) * B @ A", "B")),
        mistake("Adam on W", "Adam on W itself", body="return -lr * np.sign(G)"),
    ),
)
def first_step(G: np.ndarray, A: np.ndarray, alpha: float, lr: float) -> np.ndarray:
    """The update (out, in) after Adam's first step from B = 0."""
    r = A.shape[0]
    B = -lr * np.sign(G @ A.T)
    return (alpha / r) * B @ A


def check_same_run(fn: Callable, judge: Judge) -> None:
    cases = (((7, 5, 3), 8.6, 3.1, 0.6), ((9, 11, 4), 0.7, 0.4, 7.2))
    for like, alpha, p, q in cases:
        outside, inside, r = judge.sizes(*like)
        a, b = judge.normal(r, inside), judge.normal(outside, r)
        before = (alpha, a, b, 0.03, 0.05)
        inputs = dict(zip(("alpha", "A", "B", "lr_A", "lr_B"), before, strict=True))
        got = judge.parts(
            judge.call(fn, **inputs, p=p, q=q), 5, "five things, `return alpha, A, B, lr_A, lr_B`"
        )
        _judge_pieces(judge, got, before, p, q)
        x, y = judge.normal(17, inside), judge.normal(17, outside)
        runs = [
            adam_run(x, y, {"A": a_, "B": b_}, alpha_, (rate_a, rate_b), steps=9)
            for alpha_, a_, b_, rate_a, rate_b in (got, before)
        ]
        # Nine steps enlarge the rounding of an answer in float32, and the pieces are checked.
        judge.close(
            "ΔW over nine steps of Adam", np.array(runs[0]), np.array(runs[1]), tolerance=1e-4
        )


def _judge_pieces(judge: Judge, got: tuple, before: tuple, p: float, q: float) -> None:
    _judge_strips(judge, got, before, p, q)
    alpha, _, _, rate_a, rate_b = before
    turned = {
        "lr_A and lr_B are exchanged: A's rate goes with p, B's with q.": np.asarray(rate_a * q),
        "p squared belongs to plain gradient descent, whose gradient grows too; Adam's step does "
        "not, so p once is right.": np.asarray(rate_a * p * p),
        "A's entries are p times as large and Adam's steps are not; make the rate p times as "
        "large too.": np.asarray(rate_a),
        "Adam's step does not grow with its gradient, so a rate goes the same way as its strip; "
        "multiply, don't divide.": np.asarray(rate_a / p),
    }
    judge.number("lr_A", got[3], p * rate_a, instead=turned)
    judge.number(
        "lr_B",
        got[4],
        q * rate_b,
        instead={
            "q squared belongs to plain gradient descent; with Adam q once is right.": np.asarray(
                rate_b * q * q
            ),
            "B's entries are q times as large and Adam's steps are not; make the rate q times "
            "as large too.": np.asarray(rate_b),
            "the step does not grow with its gradient; multiply B's rate by q as well.": (
                np.asarray(rate_b / q)
            ),
        },
    )
    judge.number(
        "alpha",
        got[0],
        alpha / (p * q),
        instead={
            "alpha has to take back what A and B gained; yours did not change.": np.asarray(alpha),
            "alpha went up with A and B; it has to take back what they gained.": np.asarray(
                alpha * p * q
            ),
            "B A gained p times q; you divided by the sum of both.": np.asarray(alpha / (p + q)),
            "alpha takes back p, and B gained q besides.": np.asarray(alpha / p),
            "alpha takes back q, and A gained p besides.": np.asarray(alpha / q),
        },
    )


def _judge_strips(judge: Judge, got: tuple, before: tuple, p: float, q: float) -> None:
    _, a, b, _, _ = before
    judge.close(
        "A",
        got[1],
        p * a,
        instead={
            "A has to start p times as large; yours starts where it did.": a,
            "A has to start p times as large; you divided by p.": a / p,
            "A takes p and B takes q; yours are exchanged.": q * a,
        },
    )
    judge.close(
        "B",
        got[2],
        q * b,
        instead={
            "B has to start q times as large. At B = 0 you would not have noticed.": b,
        },
    )


@exercise(
    "5.6",
    "The same run in other clothes",
    minutes=10,
    difficulty=2,
    importance=3,
    check=check_same_run,
    statement=r"""
    Someone trains with Adam, volume `alpha`, strips that start at `A` and `B`, and a learning rate
    for each. You would like $A$ to be $p$ times and $B$ to be $q$ times as large, from the start
    and after every step, and $\Delta W$ to be *exactly the same* all along.

    Write `same_run(alpha, A, B, lr_A, lr_B, p, q)`: return the new
    `alpha, A, B, lr_A, lr_B`. Remember that Adam's step has the size of its learning rate, whatever
    the size of the gradient (with a negligible $\varepsilon$, as in 5.5).
    """,
    hints=(
        "Begin with the start: p A and q B. Their product is p q times as large. Who takes it "
        "back?",
        "The gradients change in size, and Adam does not care. For A to stay p times as large, "
        "each of its steps must be p times as large.",
        "alpha / (p q), p A, q B, p lr_A, q lr_B.",
    ),
    wrong=(
        mistake("alpha kept", "yours did not change", change=("alpha / (p * q)", "alpha")),
        mistake("alpha up", "alpha went up", change=("alpha / (p * q)", "alpha * (p * q)")),
        mistake("alpha half", "B gained q besides", change=("alpha / (p * q)", "alpha / p")),
        mistake("A kept", "yours starts where it did", change=("p * A", "A")),
        mistake("B kept", "At B = 0 you would not", change=("q * B", "B")),
        mistake("rate of A kept", "A's entries are p times", change=("p * lr_A", "lr_A")),
        mistake("rate of B kept", "B's entries are q times", change=("q * lr_B", "lr_B")),
        mistake("rate divided", "multiply, don't divide", change=("p * lr_A", "lr_A / p")),
        mistake("rate of B divided", "multiply B's rate", change=("q * lr_B", "lr_B / q")),
        mistake(
            "rates exchanged",
            "are exchanged: A's rate",
            change=("p * lr_A, q * lr_B", "q * lr_A, p * lr_B"),
        ),
    ),
)
def same_run(
    alpha: float, A: np.ndarray, B: np.ndarray, lr_A: float, lr_B: float, p: float, q: float
) -> tuple[float, np.ndarray, np.ndarray, float, float]:
    """alpha, A, B, lr_A, lr_B of a run with p A and q B in it and the same ΔW at every step."""
    return alpha / (p * q), p * A, q * B, p * lr_A, q * lr_B

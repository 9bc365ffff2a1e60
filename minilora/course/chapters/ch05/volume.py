"""Exercise 5.1: how loud a random sheet is under two rules for the volume."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_sheet_spread(fn: Callable, judge: Judge) -> None:
    shapes = judge.rng.permutation(((3, 2), (5, 2), (2, 3), (2, 4), (4, 2)))[:3].tolist()
    cases = []
    for inside, r in shapes:
        a, b, alpha = judge.rng.uniform(0.2, 0.8), judge.rng.uniform(1.2, 3), 2.3 * r + 0.7
        for rs in (False, True):
            got = judge.call(fn, inside=inside, r=r, a=a, b=b, alpha=alpha, use_rslora=rs)
            s = alpha / (math.sqrt(r) if rs else r)
            name = f"for {inside} inputs, r {r} and use_rslora {rs}, the spread"
            instead = _other_spreads(inside, r, a, b, alpha, rs)
            cases.append((name, got, s * a * b * _spread_of_signs(inside, r), instead))
    judge.numbers(cases)


def _spread_of_signs(inside: int, r: int) -> float:
    """Spread of an entry of x A^T B^T over all ways to choose the signs in x, A and B."""
    count = inside + r * inside + r
    signs = (np.arange(2**count)[:, None] >> np.arange(count) & 1) * 2.0 - 1.0
    x, b = signs[:, :inside], signs[:, -r:]
    a = signs[:, inside:-r].reshape(-1, r, inside)
    return float(((a @ x[:, :, None])[:, :, 0] * b).sum(axis=1).std())


def _other_spreads(
    inside: int, r: int, a: float, b: float, alpha: float, rs: bool
) -> dict[str, float]:
    """What mistakes give, by what to say about them."""
    s, terms, ab = alpha / (math.sqrt(r) if rs else r), math.sqrt(inside * r), a * b
    return {
        "of independent terms the squares of the spreads add up, not the spreads: take the root of "
        "the number of terms.": s * ab * inside * r,
        "that is the variance; the spread is its root.": (s * ab * terms) ** 2,
        "the sum over the inputs is missing: every row of A adds up `inside` products.": (
            s * ab * math.sqrt(r)
        ),
        "the sum over the rank is missing: every row of B adds up r products.": (
            s * ab * math.sqrt(inside)
        ),
        "inputs and rank were added; every input meets every row of A, so there are inside * r "
        "terms.": s * ab * math.sqrt(inside + r),
        "the spread of a product is the product of the spreads; you added them.": (
            s * terms * (a + b)
        ),
        "the two rules are exchanged.": alpha / (r if rs else math.sqrt(r)) * ab * terms,
        "alpha is not divided by anything.": alpha * ab * terms,
        **(_only_rslora if rs else _only_lora)(ab * terms, alpha, r),
        "the volume s is missing.": ab * terms,
        "the spreads a and b are missing.": s * terms,
    }


def _only_rslora(size: float, alpha: float, r: int) -> dict[str, float]:
    return {
        "that is alpha / r, and rsLoRA divides by the root.": alpha / r * size,
        "rsLoRA divides by the root; alpha is not divided by anything there.": alpha * size,
        "alpha went under the root with r; only r belongs there.": math.sqrt(alpha / r) * size,
    }


def _only_lora(size: float, alpha: float, r: int) -> dict[str, float]:
    return {
        "that is alpha / sqrt(r), and LoRA divides by r itself.": alpha / math.sqrt(r) * size,
        "LoRA divides by r; alpha is not divided by anything there.": alpha * size,
    }


@exercise(
    "5.1",
    "How loud is a random sheet?",
    minutes=10,
    difficulty=2,
    importance=2,
    check=check_sheet_spread,
    statement=r"""
    The numbers in `x`, `A` (r, in) and `B` (out, r) are drawn independently, with mean 0 and with
    spreads (standard deviations) of 1, `a` and `b`. How large is an entry of
    $s\, x A^\top B^\top$, where $s = \alpha / r$ for LoRA and $s = \alpha / \sqrt r$ for rsLoRA?

    Two facts do it. A product of independent numbers with mean 0 has the product of their spreads.
    In a sum of such terms the *squares* of the spreads add up. Write
    `sheet_spread(inside, r, a, b, alpha, use_rslora)`: the spread of one entry, where `inside` is
    the number of inputs. Draw nothing; the answer is a formula.
    """,
    hints=(
        "One entry is the sum of x_i A_ki B_k over all inputs i and all k up to r. How many terms "
        "is that, and what is the spread of one?",
        "There are inside * r terms of spread 1 * a * b, so the sum has a * b * sqrt(inside * r).",
        "Multiply that by s, which is alpha / np.sqrt(r) where use_rslora and else alpha / r.",
    ),
    wrong=(
        mistake("no root", "not the spreads", change=("np.sqrt(inside * r)", "inside * r")),
        mistake("no inputs", "over the inputs", change=("np.sqrt(inside * r)", "np.sqrt(r)")),
        mistake("no rank", "over the rank", change=("np.sqrt(inside * r)", "np.sqrt(inside)")),
        mistake("added", "were added; every", change=("(inside * r)", "(inside + r)")),
        mistake("spreads added", "you added them", change=("a * b *", "(a + b) *")),
        mistake("exchanged", "are exchanged", change=("if use_rslora", "if not use_rslora")),
        mistake("one rule for both", "that is alpha / r, and", change=("np.sqrt(r) if", "r if")),
        mistake("no division", "LoRA divides by r; alpha", change=("else alpha / r", "else alpha")),
        mistake(
            "variance",
            "that is the variance",
            body="""
            s = alpha / np.sqrt(r) if use_rslora else alpha / r
            return (s * a * b) ** 2 * inside * r
            """,
        ),
        mistake(
            "alpha under the root",
            "alpha went under",
            change=("alpha / np.sqrt(r)", "np.sqrt(alpha / r)"),
        ),
        mistake("no volume", "the volume s", change=("return s * a", "return a")),
    ),
)
def sheet_spread(inside: int, r: int, a: float, b: float, alpha: float, use_rslora: bool) -> float:
    """Spread of an entry of s x A^T B^T for random x, A and B of spreads 1, a and b."""
    s = alpha / np.sqrt(r) if use_rslora else alpha / r
    return s * a * b * np.sqrt(inside * r)

"""Exercises 4.1 and 4.6: up to which rank strips save numbers, and the bytes of training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_widest_saving(fn: Callable, judge: Judge) -> None:
    cases = []
    fixed = ((12, 4), (30, 20))  # out in and out + in divide: the strips would be as large as W
    for out, in_ in (judge.sizes(7, 5), *fixed, judge.sizes(64, 511)):
        ranks = range(1, min(out, in_) + 1)
        saving = [r for r in ranks if np.zeros((r, in_)).size + np.zeros((out, r)).size < out * in_]
        exact = out * in_ / (out + in_)
        instead = {
            "at this rank the strips can have as many numbers as W; they must have fewer.": (
                out * in_ // (out + in_)
            ),
            "at this rank the strips are already larger than W: round down.": np.ceil(exact),
            "a rank is a whole number.": exact,
            "half of the longer side is right for square layers alone.": max(out, in_) // 2,
            "half of the shorter side is right for square layers alone.": min(out, in_) // 2,
            "that is the largest rank that a matrix of this shape can have.": min(out, in_),
            "rank 1 saves too; ask for the largest.": 1,
        }
        got = judge.call(fn, out_features=out, in_features=in_)
        cases.append((f"the rank for a layer of {out} x {in_}", got, max(saving), instead))
    judge.numbers(cases)


@exercise(
    "4.1",
    "How thick is too thick?",
    minutes=6,
    difficulty=1,
    importance=2,
    check=check_widest_saving,
    statement=r"""
    Thicker strips hold more, and at some rank they are larger than the $W$ that they spare. Write
    `widest_saving(out_features, in_features)`: the largest rank $r$ at which $A$ of shape
    `(r, in)` and $B$ of shape `(out, r)` have together **fewer** numbers than $W$, `(out, in)`.
    """,
    hints=(
        "A and B have r * (out + in) numbers together.",
        "You want the largest whole r with r * (out + in) < out * in.",
        "(out * in - 1) // (out + in): the 1 takes care of the case where they are equal.",
    ),
    wrong=(
        mistake("equal is no saving", "must have fewer", change=("- 1) //", ") //")),
        mistake(
            "rounded up", "round down", change=("- 1) //", "+ out_features + in_features - 1) //")
        ),
        mistake(
            "half of it",
            "square layers alone",
            body="return min(out_features, in_features) // 2",
        ),
        mistake("a fraction", "a whole number", change=("- 1) //", ") /")),
        mistake("largest rank", "of this shape", body="return min(out_features, in_features)"),
    ),
)
def widest_saving(out_features: int, in_features: int) -> int:
    """Largest r with r (out + in) < out in."""
    return (out_features * in_features - 1) // (out_features + in_features)


def _bytes(**counts: int) -> int:
    """Bytes of float32 arrays of these sizes."""
    return sum(np.zeros(size, dtype=np.float32).nbytes for size in counts.values())


def check_training_bytes(fn: Callable, judge: Judge) -> None:
    for base, adapter in (judge.sizes(1013, 37), judge.sizes(5021, 409)):
        out = judge.parts(
            judge.call(fn, base=base, adapter=adapter), 2, "two numbers, `return full, lora`"
        )
        full = _bytes(weights=base, grads=base, first=base, second=base)
        lora = _bytes(base=base, weights=adapter, grads=adapter, first=adapter, second=adapter)
        judge.true(out != (lora, full), "full and lora are swapped.")
        judge.number(
            "full",
            out[0],
            full,
            instead={
                "12 bytes a number; weight, gradient and two averages are 16.": full - 4 * base,
                "a float32 has 4 bytes; that counts numbers.": full / 4,
                "the whole base is trained without an adapter; leave that out.": full
                + 16 * adapter,
                "8 bytes a number are weight and gradient; Adam keeps two averages besides.": full
                - 8 * base,
                "that is the weights alone; training keeps a gradient and two averages besides.": (
                    4 * base
                ),
            },
        )
        judge.number(
            "lora",
            out[1],
            lora,
            instead={
                "the frozen base is missing; it is not trained, and it is in memory.": 16 * adapter,
                "the frozen base has no optimizer state and no gradient.": 16 * (base + adapter),
                "the frozen base has no gradient.": lora + 4 * base,
                "the frozen base has no averages.": lora + 8 * base,
                "the adapter is trained: gradient and two averages besides the weight.": 4 * base
                + 4 * adapter,
                "the adapter keeps two averages besides weight and gradient.": lora - 8 * adapter,
                "a float32 has 4 bytes; that counts numbers.": lora / 4,
                "every number of the adapter takes what a trained number took in full.": (
                    lora - 4 * adapter
                ),
            },
        )


@exercise(
    "4.6",
    "The bill in bytes",
    minutes=8,
    difficulty=1,
    importance=3,
    check=check_training_bytes,
    statement=r"""
    Everything is float32. Training with Adam keeps, for every **trained** number, the weight, its
    gradient, and two running averages. A frozen number is only kept. Write
    `training_bytes(base, adapter)` for a base of `base` numbers and an adapter of `adapter`
    numbers, and return two counts of bytes, `full, lora`: training the whole base without an
    adapter, and training the adapter over a frozen base. What the forward pass keeps is left out.
    """,
    hints=(
        "How many float32 numbers does one trained weight bring with it, itself included?",
        "A trained number takes 4 + 4 + 8 bytes, a frozen one 4.",
        "full = 16 * base, and lora = 4 * base + 16 * adapter.",
    ),
    wrong=(
        mistake("base forgotten", "it is in memory", change=("4 * base + 16", "16")),
        mistake(
            "base trained",
            "no optimizer state and no gradient",
            change=("4 * base + 16 * adapter", "16 * (base + adapter)"),
        ),
        mistake("gradient of the base", "has no gradient.", change=("4 * base", "8 * base")),
        mistake(
            "gradients of the adapter",
            "what a trained number took in full",
            change=("16 * adapter", "12 * adapter"),
        ),
        mistake(
            "averages forgotten", "keeps two averages besides", change=("16 * base,", "8 * base,")
        ),
        mistake(
            "adapter not trained", "the adapter is trained", change=("16 * adapter", "4 * adapter")
        ),
        mistake(
            "numbers",
            "that counts numbers",
            change=("16 * base, 4 * base + 16 * adapter", "4 * base, base + 4 * adapter"),
        ),
        mistake(
            "adapter in full", "leave that out", change=("16 * base,", "16 * (base + adapter),")
        ),
        mistake("gradients forgotten", "two averages are 16", change=("16 * base,", "12 * base,")),
        mistake(
            "swapped",
            "are swapped",
            change=(
                "return 16 * base, 4 * base + 16 * adapter",
                "return 4 * base + 16 * adapter, 16 * base",
            ),
        ),
    ),
)
def training_bytes(base: int, adapter: int) -> tuple[int, int]:
    """Bytes of weights, gradients and Adam's averages: all trained, and the adapter alone."""
    return 16 * base, 4 * base + 16 * adapter

"""Exercises 4.1 and 4.6: how many numbers are trained, and how many bytes that takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_count_trained(fn: Callable, judge: Judge) -> None:
    cases = []
    for shapes, r in (([(7, 5), (4, 11), (13, 3)], 2), ([(9, 17), (8, 6)], 5)):
        # count the entries of arrays that exist
        A = sum(np.zeros((r, i)).size for _, i in shapes)
        B = sum(np.zeros((o, r)).size for o, _ in shapes)
        W = sum(np.zeros(shape).size for shape in shapes)
        instead = {
            "W was counted as well; it is frozen.": A + B + W,
            "that is A alone; B is trained too.": A,
            "that is B alone; A is trained too.": B,
            "you multiplied by out and by in; a thin strip has r times one of them.": r * W,
            "that is one layer; add up all of them.": r * sum(shapes[0]),
        }
        got = judge.call(fn, shapes=shapes, r=r)
        cases.append((f"the count for {shapes} and rank {r}", got, A + B, instead))
    judge.numbers(cases)


@exercise(
    "4.1",
    "How many numbers are trained",
    minutes=5,
    difficulty=1,
    check=check_count_trained,
    statement=r"""
    Write `count_trained(shapes, r)`. `shapes` is a list with `(out, in)` of every layer that gets
    an adapter of rank `r`. Each keeps its $W$ frozen and trains $A$ of shape `(r, in)` and $B$ of
    shape `(out, r)`. Return how many numbers are trained in all.
    """,
    hints=(
        "Count one layer first. How many entries has A, how many has B?",
        "r * in_features and out_features * r; together r * (out_features + in_features).",
        "return sum(r * (o + i) for o, i in shapes)",
    ),
    wrong=(
        mistake("product", "by out and by in", change=("(o + i)", "o * i")),
        mistake("W too", "it is frozen", change=("r * (o + i)", "r * (o + i) + o * i")),
        mistake("A alone", "that is A alone", change=("(o + i)", "i")),
        mistake(
            "one layer",
            "that is one layer",
            change=("for o, i in shapes", "for o, i in shapes[:1]"),
        ),
    ),
)
def count_trained(shapes: list[tuple[int, int]], r: int) -> int:
    """Entries of all A and B."""
    return sum(r * (o + i) for o, i in shapes)


def _bytes(**counts: int) -> int:
    """Bytes of float32 arrays of these sizes."""
    return sum(np.zeros(size, dtype=np.float32).nbytes for size in counts.values())


def check_training_bytes(fn: Callable, judge: Judge) -> None:
    for base, adapter in ((1013, 37), (5021, 409)):
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

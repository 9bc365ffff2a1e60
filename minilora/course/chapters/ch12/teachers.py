"""Exercise 12.2: which notes taught an answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_taught(fn: Callable, judge: Judge) -> None:
    for like in ((9, 5, 3), (6, 7, 2)):
        notes, numbers, count = judge.sizes(*like[:2], 2)[:2] + (like[2],)
        moments = [
            (float(judge.rng.uniform(0.002, 0.02)), judge.normal(notes, numbers)
             * judge.rng.uniform(0.3, 3, (notes, 1)), judge.normal(numbers))
            for _ in range(count)
        ]  # fmt: skip
        got = judge.call(fn, moments=moments)
        rates = np.array([rate for rate, _, _ in moments])
        dots = np.stack([notes @ query for _, notes, query in moments])
        sizes = np.stack([np.linalg.norm(n, axis=1) * np.linalg.norm(q) for _, n, q in moments])
        want = rates @ dots
        own = rates @ np.stack([(n * n).sum(axis=1) for _, n, _ in moments])
        judge.close(
            "the influence",
            got,
            want,
            instead={
                "the rates are missing: a step moves the numbers by rate times the gradient, so "
                "each moment counts with its own rate.": dots.sum(axis=0),
                "that is the mean over the moments without their rates; multiply each by its own.":
                dots.mean(axis=0),
                "that is the last moment alone; add up all of them.": rates[-1] * dots[-1],
                "that is the first moment alone; add up all of them.": rates[0] * dots[0],
                "the sign: a step goes against the note's gradient, so where the two gradients "
                "point the same way the query's loss falls, and the influence is positive.": -want,
                "those are cosines; a note with a large gradient moves the numbers further, so do "
                "not divide by the sizes.": rates @ (dots / sizes),
                "that is divided by the sizes of the notes' gradients; a note with a large one "
                "moves the numbers further, so take them as they are.": rates @ np.stack(
                    [n @ q / np.linalg.norm(n, axis=1) for _, n, q in moments]
                ),
                "that has lost the signs: a note may also have raised the query's loss, and then "
                "its part is negative.": rates @ np.abs(dots),
                "that is each note on itself; multiply with the query's gradient.": own,
                "you multiply sums of gradients; the product is taken at each moment, and then "
                "summed.": sum(n for _, n, _ in moments) @ sum(r * q for r, _, q in moments),
                "that is the mean over the moments; their rates are in it already, so add up.":
                want / count,
            },
        )  # fmt: skip


@exercise(
    "12.2",
    "Which notes taught it?",
    minutes=12,
    difficulty=2,
    importance=2,
    check=check_taught,
    statement=r"""
    Let $\ell_i$ be the loss of note $i$, $\nabla\ell_i$ its gradient with respect to all $P$
    trained numbers, one long row (P,), and $\eta$ the learning rate. One step of plain gradient
    descent on this note moves the numbers by $-\eta\,\nabla\ell_i$. If the step is small, the loss
    $\ell_q$ of another text $q$, the *query*, then changes by about
    $-\eta\,\nabla\ell_i\cdot\nabla\ell_q$: it falls where both gradients point the same way. What
    note $i$ has done to lower the query's loss over a whole run is therefore about

    $$I_i = \sum_k \eta_k\, \nabla\ell_i^{(k)} \cdot \nabla\ell_q^{(k)} ,$$

    summed over a few moments $k$ at which the run was looked at.

    `moments` is a list of triples `(rate, notes, query)`: the learning rate, the notes' gradients
    (n, P), one row a note, and the query's (P,). Write `taught(moments)`, which returns $I$ (n,).
    """,
    hints=(
        "For one moment, all n dot products are one product of a matrix and a vector.",
        "notes @ query has the shape (n,). Times the rate, it is what this moment adds.",
        "return sum(rate * (notes @ query) for rate, notes, query in moments)",
    ),
    wrong=(
        mistake(
            "no rates", "the rates are missing", change=("rate * (notes @ query)", "notes @ query")
        ),
        mistake("sign", "the sign", change=("rate *", "-rate *")),
        mistake(
            "cosines",
            "those are cosines",
            body="""
            import numpy as np

            return sum(
                rate * (notes @ query) / np.linalg.norm(notes, axis=1) / np.linalg.norm(query)
                for rate, notes, query in moments
            )
            """,
        ),
        mistake("last", "the last moment alone", change=("in moments", "in moments[-1:]")),
        mistake("own", "each note on itself", change=("(notes @ query)", "(notes**2).sum(axis=1)")),
        mistake("mean", "so add up", change=("in moments)", "in moments) / len(moments)")),
    ),
)
def taught(moments: list[tuple[float, np.ndarray, np.ndarray]]) -> np.ndarray:
    """By how much each note lowered the query's loss, to first order, (n,)."""
    return sum(rate * (notes @ query) for rate, notes, query in moments)

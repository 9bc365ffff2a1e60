"""Exercise 6.3: a change of attention, split into where it looks and what it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def weights(judge: Judge, n: int) -> np.ndarray:
    """Attention weights: causal rows that sum to 1."""
    drawn = np.tril(np.exp(judge.normal(n, n)))
    return drawn / drawn.sum(axis=1, keepdims=True)


def check_routing_and_content(fn: Callable, judge: Judge) -> None:
    for n, dim in (judge.sizes(5, 3), judge.sizes(4, 7)):
        before, after = weights(judge, n), weights(judge, n)
        old, new = judge.normal(n, dim), judge.normal(n, dim)
        out = judge.call(fn, P0=before, V0=old, P1=after, V1=new)
        routing, content = judge.parts(
            out, 2, "the two parts of the change, `return routing, content`"
        )
        looked = (after - before) @ old
        spoken = after @ (new - old)
        judge.close(
            "routing",
            routing,
            looked,
            instead={
                "that is what the values do; the two parts are the other way round.": spoken,
                "the new values are in it: where a head looks is judged with the old ones, V0.": (
                    (after - before) @ new
                ),
                "that is what the head says afterwards; take away what it said before.": (
                    after @ old
                ),
                "rows of P are the asking positions, so P stands left and is not transposed.": (
                    (after - before).T @ old
                ),
                "that splits the product of both changes in halves; the formula gives all of it "
                "to content.": (after - before) @ (old + new) / 2,
                "that is the product of both changes; for routing the values stay V0.": (
                    (after - before) @ (new - old)
                ),
                "that is the whole change, and routing is only one part of it.": (
                    after @ new - before @ old
                ),
            },
        )
        judge.close(
            "content",
            content,
            spoken,
            instead={
                "with the old weights P0 the parts do not add up to the whole change; the product "
                "of both changes is left over. Use the new weights, P1.": before @ (new - old),
                "that is the product of both changes; here the new weights P1 stand whole.": (
                    (after - before) @ (new - old)
                ),
                "rows of P are the asking positions, so P stands left and is not transposed.": (
                    after.T @ (new - old)
                ),
                "that is the whole change; take the routing part away.": (
                    after @ new - before @ old
                ),
                "that is the change of the values alone; the weights mix them.": new - old,
                "that is what the head says afterwards; take away what it would say with the old "
                "values.": after @ new,
            },
        )


@exercise(
    "6.3",
    "Where it looks, what it says",
    minutes=10,
    difficulty=2,
    importance=2,
    check=check_routing_and_content,
    statement=r"""
    One head answers $P V$: its weights $P$ (n, n) say from where it takes, and its values $V$
    (n, head_dim) what it takes. An adapter turns $P_0, V_0$ into $P_1, V_1$. The change of the
    answer has two parts,

    $$\begin{gathered}
    P_1 V_1 - P_0 V_0 = \\[4pt]
    \underbrace{(P_1 - P_0)\, V_0}_{\text{routing}} +
    \underbrace{P_1 (V_1 - V_0)}_{\text{content}} .
    \end{gathered}$$

    Write `routing_and_content(P0, V0, P1, V1)` and return both, each of the shape of $V$.
    """,
    hints=(
        "Change the weights first and leave the values. Then change the values.",
        "The first part has the old values V0 and a difference of weights; the second the new "
        "weights P1 and a difference of values.",
        "return (P1 - P0) @ V0, P1 @ (V1 - V0)",
    ),
    wrong=(
        mistake(
            "old weights in both",
            "the product of both changes is left over",
            change=("P1 @ (V1 - V0)", "P0 @ (V1 - V0)"),
        ),
        mistake(
            "new values in both",
            "judged with the old ones",
            change=("(P1 - P0) @ V0", "(P1 - P0) @ V1"),
        ),
        mistake(
            "exchanged",
            "the other way round",
            body="return P1 @ (V1 - V0), (P1 - P0) @ V0",
        ),
        mistake(
            "not a change", "take away what it said before", change=("(P1 - P0) @ V0", "P1 @ V0")
        ),
        mistake("values alone", "the weights mix them", change=("P1 @ (V1 - V0)", "V1 - V0")),
    ),
)
def routing_and_content(P0, V0, P1, V1):
    """The part of a head's change that is where it looks, and the part that is what it says."""
    return (P1 - P0) @ V0, P1 @ (V1 - V0)

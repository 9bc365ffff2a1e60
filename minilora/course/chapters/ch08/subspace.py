"""Exercise 8.4: the gradient along a few random directions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_along(fn: Callable, judge: Judge) -> None:
    for like in ((40, 6), (55, 9)):
        total, d = judge.sizes(*like)
        # In the second no weight follows the last number of z, whose gradient then is 0.
        place = judge.rng.permutation(np.arange(total) % (d if like[1] == 6 else d - 1))
        sign = judge.rng.integers(0, 2, total) * 2.0 - 1
        weight = sign * (0.5 + judge.rng.random(total))
        theta, curve = judge.normal(total), judge.normal(total)

        def loss(z: np.ndarray, place=place, weight=weight, theta=theta, curve=curve) -> float:
            at = theta + weight * z[place]
            return float((curve * at + np.sin(at)).sum())

        z = np.zeros(d)
        g = curve + np.cos(theta)
        got = judge.call(fn, g=g, place=place, weight=weight, d=d)
        sums = np.bincount(place, minlength=d)
        last = np.zeros(d)
        last[place] += weight * g
        judge.gradient(
            "the gradient of z",
            got,
            loss,
            z,
            instead={
                "each weight's part takes the place of the one before: gz[place] += … adds "
                "only once where a place stands there twice. np.bincount adds every time.": (last),
                "`weight` is missing: z reaches weight i through weight[i].": (
                    np.bincount(place, g, d)
                ),
                "only the sign of `weight` is there; its size counts too.": (
                    np.bincount(place, np.sign(weight) * g, d)
                ),
                "those are means; z moves all weights of its place, so their parts add up.": (
                    np.bincount(place, weight * g, d) / np.maximum(sums, 1)
                ),
                "divide by nothing: what a weight moves is in `weight` already.": (
                    np.bincount(place, weight * g, d) / np.sqrt(np.maximum(sums, 1))
                ),
                "`weight` is there twice.": np.bincount(place, weight * weight * g, d),
                "divide by nothing: z times weight is added to theta.": (
                    np.bincount(place, g / weight, d)
                ),
                f"no weight follows the last of the {d} numbers, so its gradient is 0; np.bincount "
                "takes minlength=d.": np.bincount(place, weight * g)
                if not sums.all()
                else np.zeros(0),
            },
        )
    total, d = judge.sizes(4000, 200)
    place = judge.rng.integers(0, d, total)
    got, peak = judge.call_measured(
        fn, g=judge.normal(total), place=place, weight=judge.normal(total), d=d
    )
    judge.true(
        peak < total * d,
        f"the right numbers, but on the way your function held {peak / 1e3:.0f} kB, as a matrix of "
        f"{total} rows and {d} columns does. np.bincount adds up by place without one.",
    )


@exercise(
    "8.4",
    "A gradient for a few",
    minutes=12,
    difficulty=2,
    importance=3,
    check=check_along,
    statement=r"""
    All weights of a model stand in one long row $\theta$ of $D$ numbers, and all of them follow $d$
    numbers $z$: weight $i$ is

    $$\theta_i + w_i\, z_{p_i},$$

    where $w$ is `weight` and $p$ is `place`, both (D,). Many weights have the same place. `g` (D,)
    is the gradient of the loss with respect to the weights. Write
    `along(g, place, weight, d)` and return the gradient with respect to $z$, (d,). A matrix of $D$
    rows and $d$ columns is not needed, and would not fit into memory.
    """,
    hints=(
        "z number j reaches every weight whose place is j. What comes back from each is added up.",
        "From weight i comes back weight[i] * g[i]. Beware: gz[place] += values adds only once "
        "where a place stands there twice.",
        "np.bincount(place, weight * g, minlength=d) adds up values by place.",
    ),
    wrong=(
        mistake(
            "adds only once",
            "adds every time",
            body="""
            gz = np.zeros(d)
            gz[place] += weight * g
            return gz
            """,
        ),
        mistake("no length", "takes minlength=d", change=(", minlength=d", "")),
        mistake(
            "a whole matrix",
            "without one",
            body="""
            M = np.zeros((len(g), d))
            M[np.arange(len(g)), place] = weight
            return g @ M
            """,
        ),
        mistake("without weight", "`weight` is missing", change=("weight * g", "g")),
        mistake(
            "sign alone",
            "only the sign",
            change=("weight * g", "np.sign(weight) * g"),
        ),
        mistake(
            "roots of the counts",
            "in `weight` already",
            change=(
                "np.bincount(place, weight * g, minlength=d)",
                "np.bincount(place, weight * g, minlength=d) / np.maximum("
                "np.bincount(place, minlength=d), 1) ** 0.5",
            ),
        ),
        mistake(
            "means",
            "those are means",
            change=(
                "np.bincount(place, weight * g, minlength=d)",
                "np.bincount(place, weight * g, minlength=d) / np.bincount(place, minlength=d)",
            ),
        ),
    ),
)
def along(g: np.ndarray, place: np.ndarray, weight: np.ndarray, d: int) -> np.ndarray:
    """The gradient of z, of which weight i takes number place[i] times weight[i]."""
    return np.bincount(place, weight * g, minlength=d)

"""Exercise 2.5: the two gradients of SwiGLU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.chapters.ch02.parts import require_gradients
from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_swiglu_vjps(fn: Callable, judge: Judge) -> None:
    for shape in (judge.sizes(3, 5), judge.sizes(2, 4, 3)):
        gate, up, g = judge.normal(*shape), judge.normal(*shape), judge.normal(*shape)
        out = judge.call(fn, g=g, gate=gate, up=up)
        require_gradients(judge, out, "g_gate, g_up", gate, up)
        s = 1 / (1 + np.exp(-gate))
        slope = s + gate * s * (1 - s)
        judge.gradient(
            "g_gate",
            out[0],
            lambda v, up=up, g=g: (g * v / (1 + np.exp(-v)) * up).sum(),
            gate,
            instead={
                "the two gradients are in another order.": g * gate * s,
                "that treats the sigmoid as a constant; the gate is inside it as well.": g * s * up,
                "that treats the gate in front as a constant; it is a product of two factors that "
                "both hold the gate.": g * gate * s * (1 - s) * up,
                "the derivative of the sigmoid alone; the gate is also a factor.": g
                * s
                * (1 - s)
                * up,
                "the factor up is missing.": g * slope,
                "that is the slope of silu alone; the cotangent g and the factor up are missing.": (
                    slope
                ),
                "the cotangent g does not appear in it.": slope * up,
                "a sign is wrong: the product rule adds its two terms.": g
                * (s - gate * s * (1 - s))
                * up,
                "the slope of the sigmoid is s (1 - s), with the sigmoid in both places; you put "
                "the gate there.": g * (s + gate * s * (1 - gate)) * up,
                "the slope of the sigmoid is s (1 - s); the factor 1 - s is missing.": g
                * (s + gate * s)
                * up,
                "silu was passed by: its slope is missing.": g * up,
                "the exponent has the wrong sign: the sigmoid is 1 / (1 + e^-a).": g
                * ((1 - s) + gate * s * (1 - s))
                * up,
            },
        )
        judge.gradient(
            "g_up",
            out[1],
            lambda v, gate=gate, g=g: (g * gate / (1 + np.exp(-gate)) * v).sum(),
            up,
            instead={
                "up was multiplied by silu(gate), and not by the gate itself.": g * gate,
                "up was multiplied by silu(gate), and not by the sigmoid.": g * s,
                "that is silu(gate); the cotangent g is missing.": gate * s,
                "up does not stand in its own gradient; y is linear in it.": g * gate * s * up,
                "up was multiplied by silu(gate), and not by silu's slope.": g * slope,
            },
        )


@exercise(
    "2.5",
    "Two gradients of a gate",
    minutes=10,
    difficulty=1,
    importance=2,
    check=check_swiglu_vjps,
    statement=r"""
    Write `swiglu_vjps(g, gate, up)` and return `g_gate, g_up`. All arrays have one shape, and

    $$\begin{gathered}
    y = \mathrm{silu}(a)\; b, \\[4pt]
    \mathrm{silu}(a) = a\,\sigma(a), \\[4pt]
    \sigma(a) = \frac{1}{1 + e^{-a}}, \\[4pt]
    \sigma' = \sigma\,(1 - \sigma),
    \end{gathered}$$

    with $a$ = `gate` and $b$ = `up`.
    """,
    hints=(
        "For up it is a plain product: what was it multiplied by?",
        "silu is a product of two factors that both depend on the gate: use the product rule.",
        "With s = 1 / (1 + np.exp(-gate)), the slope of silu is s + gate * s * (1 - s).",
    ),
    wrong=(
        mistake(
            "sigmoid constant",
            "sigmoid as a constant",
            change=("(s + gate * s * (1 - s))", "s"),
        ),
        mistake("first factor constant", "gate in front", change=("s + gate", "gate")),
        mistake("no cotangent", "g does not appear", change=("g * (s + gate", "(s + gate")),
        mistake(
            "no cotangent for up", "cotangent g is missing", change=("g * gate * s\n", "gate * s\n")
        ),
        mistake("minus", "product rule adds", change=("s + gate", "s - gate")),
        mistake("no 1 - s", "factor 1 - s", change=(" * (1 - s)", "")),
        mistake("silu passed by", "passed by", change=("(s + gate * s * (1 - s))", "1")),
        mistake(
            "up in g_up", "in its own gradient", change=("g * gate * s\n", "g * gate * s * up\n")
        ),
        mistake("up missing", "factor up is missing", change=(" * up", "")),
        mistake("gate for silu", "not by the gate itself", change=("g * gate * s\n", "g * gate\n")),
        mistake("swapped", "another order", change=("return g_gate, g_up", "return g_up, g_gate")),
    ),
)
def swiglu_vjps(g: np.ndarray, gate: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of y = silu(gate) up for both inputs."""
    s = 1 / (1 + np.exp(-gate))
    g_gate = g * (s + gate * s * (1 - s)) * up
    g_up = g * gate * s
    return g_gate, g_up

"""The parts of chapter 2, recorded as it records them."""

from functools import partial

import numpy as np


def _part(name, *shapes, **constants):
    """A case for the part `name` with standard normal inputs of these shapes."""

    def case(names, rng):
        op = partial(names["recorded"](names[name]), **constants)
        return op, [rng.standard_normal(shape) for shape in shapes]

    return case


LABELS = np.array([[2, -100, 0], [-100, 4, 1]])
CASES = {
    "recorded": _part("rms_norm", (2, 3, 5), (5,), eps=0.1),
    "rope": _part("rope", (2, 5, 6), angle=np.linspace(-2, 3, 15).reshape(5, 3)),
    "attention": _part("attention", (2, 3, 4), (2, 5, 4), (2, 5, 4)),
    "swiglu": _part("swiglu", (3, 5), (3, 5)),
    "cross_entropy": _part("cross_entropy", (2, 3, 7), labels=LABELS),
}

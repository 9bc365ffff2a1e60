"""Exercises 7.5 and 7.6: a layer that knows whether it is merged, and gives its bits back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge, Mistake


def check_merge_once(fn: Callable, judge: Judge) -> None:
    for shape in (judge.sizes(4, 7), judge.sizes(6, 5)):
        W, delta = judge.normal(*shape), judge.normal(*shape)
        other = judge.normal(*shape)
        layer, bits, before = {"weight": W, "kept": None}, W.copy(), delta.copy()
        out = fn(layer, delta)
        if out is not layer:
            raise Mistake("return the layer itself, the same dictionary.")
        judge.true(np.array_equal(delta, before), "you wrote into delta; make a new array.")
        judge.true(
            np.array_equal(W, bits),
            "you wrote into W itself, and then there is nothing to go back to; make a new array.",
        )
        judge.close(
            "layer['weight']",
            layer["weight"],
            W + delta,
            instead={
                "the update was subtracted.": W - delta,
                "W is missing.": delta,
                "it is still W.": W,
            },
        )
        judge.true(
            layer["kept"] is not None,
            "layer['kept'] is still None, so nobody can tell that the layer is merged.",
        )
        judge.true(layer["kept"] is W, "layer['kept'] must be the array W itself.")
        held = layer["weight"]
        refused = judge.refuses(fn, layer, other)
        judge.true(
            layer["weight"] is held and layer["kept"] is W,
            "a second merge was carried out: the layer holds two updates, or has lost W.",
        )
        judge.true(
            refused,
            "a second merge passed in silence; raise ValueError, so that the caller learns of it.",
        )
        _judge_states(fn, judge, W, delta)


def _judge_states(fn: Callable, judge: Judge, W: np.ndarray, delta: np.ndarray) -> None:
    """A layer that arrives merged is refused; one that was merged and unmerged is not."""
    arrived = {"weight": W + delta, "kept": W}
    refused = judge.refuses(fn, arrived, delta)
    judge.true(
        refused and arrived["kept"] is W,
        "a layer that arrived merged was merged again. Ask layer['kept'], which says whether it is "
        "merged, and no mark of your own.",
    )
    layer = {"weight": W, "kept": None}
    fn(layer, delta)
    layer["weight"], layer["kept"] = layer["kept"], None  # as exercise 7.6 does it
    again = True
    try:
        fn(layer, delta)
    except ValueError:
        again = False
    judge.true(
        again and np.allclose(layer["weight"], W + delta),
        "merged, unmerged and merged once more: the last was refused. Ask layer['kept'], which "
        "says whether it is merged now, and no mark of your own.",
    )


@exercise(
    "7.5",
    "Merge once",
    minutes=8,
    difficulty=2,
    importance=3,
    check=check_merge_once,
    statement=r"""
    A layer is a dictionary: `layer["weight"]` is the array that it multiplies by, and
    `layer["kept"]` is `None` as long as nothing is merged.

    Write `merge_once(layer, delta)`: put $W + \Delta W$ into `layer["weight"]` as a new array, keep
    the array $W$ itself in `layer["kept"]`, and return the layer. If it is merged already, raise
    `ValueError` and change nothing.
    """,
    hints=(
        "Look first, change afterwards: the test for a merged layer is the first line.",
        'if layer["kept"] is not None: raise ValueError("...")',
        'Keep W before you replace it: layer["kept"] = layer["weight"], then '
        'layer["weight"] = layer["kept"] + delta.',
    ),
    wrong=(
        mistake(
            "merges twice",
            "was carried out",
            body="""
            layer["kept"] = layer["weight"]
            layer["weight"] = layer["kept"] + delta
            return layer
            """,
        ),
        mistake(
            "in place",
            "wrote into W itself",
            change=('layer["weight"] = layer["kept"] + delta', 'layer["weight"] += delta'),
        ),
        mistake(
            "a mark of its own",
            "arrived merged",
            body="""
            if layer.get("merged"):
                raise ValueError("the layer is merged already")
            layer["merged"] = True
            layer["kept"] = layer["weight"]
            layer["weight"] = layer["kept"] + delta
            return layer
            """,
        ),
        mistake(
            "a mark that stays",
            "merged once more",
            body="""
            if layer["kept"] is not None or layer.get("merged"):
                raise ValueError("the layer is merged already")
            layer["merged"] = True
            layer["kept"] = layer["weight"]
            layer["weight"] = layer["kept"] + delta
            return layer
            """,
        ),
        mistake(
            "into delta",
            "wrote into delta",
            change=(
                'layer["weight"] = layer["kept"] + delta',
                'delta += layer["kept"]\n    layer["weight"] = delta',
            ),
        ),
        mistake(
            "truth of an array",
            "no truth value",
            change=('if layer["kept"] is not None:', 'if layer["kept"]:'),
        ),
        mistake(
            "another error", "raised KeyError", change=("raise ValueError(", "raise KeyError(")
        ),
        mistake(
            "silent",
            "passed in silence",
            change=('raise ValueError("the layer is merged already")', "return layer"),
        ),
        mistake(
            "nothing kept",
            "still None",
            body="""
            layer["weight"] = layer["weight"] + delta
            return layer
            """,
        ),
        mistake(
            "a copy kept",
            "must be the array W itself",
            change=('= layer["weight"]\n', '= layer["weight"].copy()\n'),
        ),
    ),
)
def merge_once(layer: dict, delta: np.ndarray) -> dict:
    """Put W + delta into the layer and keep W; ValueError for a layer that is merged."""
    if layer["kept"] is not None:
        raise ValueError("the layer is merged already")
    layer["kept"] = layer["weight"]
    layer["weight"] = layer["kept"] + delta
    return layer


def check_unmerge(fn: Callable, judge: Judge) -> None:
    for shape, dtype in ((judge.sizes(5, 8), np.float32), (judge.sizes(7, 3), np.float64)):
        W, delta = judge.normal(*shape).astype(dtype), judge.normal(*shape)
        delta = (9 * delta).astype(dtype)
        judge.true(
            not np.array_equal((W + delta) - delta, W), "this check needs numbers that round."
        )
        layer, bits = {"weight": W + delta, "kept": W}, W.copy()
        out = fn(layer, delta)
        if out is not layer:
            raise Mistake("return the layer itself, the same dictionary.")
        judge.true(
            "kept" in layer and layer["kept"] is None,
            "layer['kept'] must be there and be None, or nobody can tell that the layer is not "
            "merged any more.",
        )
        weight = np.asarray(layer["weight"])
        judge.true(
            not np.allclose(weight, bits + delta, rtol=1e-3),
            "the weight is still the merged one.",
        )
        judge.true(
            weight.dtype == bits.dtype,
            f"the weight was {bits.dtype} before the merge, and it is {weight.dtype} now.",
        )
        judge.true(
            np.array_equal(weight, bits),
            f"{(weight != bits).mean():.0%} of the weights have other bits than before the merge: "
            "(W + delta) - delta rounds twice. Do not subtract or round, put back what was kept.",
        )
        judge.true(
            judge.refuses(fn, layer, delta),
            "a layer that was not merged was unmerged in silence; raise ValueError.",
        )
        judge.true(
            layer["weight"] is not None and np.array_equal(layer["weight"], bits),
            "unmerging a layer that is not merged changed its weight.",
        )
        judge.true(layer["kept"] is None, "the refused call put something into layer['kept'].")


@exercise(
    "7.6",
    "Unmerge to the bit",
    minutes=8,
    difficulty=2,
    importance=3,
    check=check_unmerge,
    statement=r"""
    Write `unmerge_once(layer, delta)` for a layer as in 7.5. Afterwards `layer["weight"]` must hold
    the very bits of before the merge, in float32 too, and `layer["kept"]` must be `None`. Return
    the layer. If it is not merged, raise `ValueError` and change nothing.

    `delta` is what was added. You may find that you do not need it.
    """,
    hints=(
        "In float32 (W + delta) - delta is not W: the sum was rounded, and what fell off is gone.",
        "The bits are still there, in layer['kept'].",
        'layer["weight"], layer["kept"] = layer["kept"], None, after a test for None.',
    ),
    wrong=(
        mistake(
            "subtracts",
            "Do not subtract",
            change=(
                'layer["weight"], layer["kept"] = layer["kept"], None',
                'layer["weight"], layer["kept"] = layer["weight"] - delta, None',
            ),
        ),
        mistake(
            "other numbers",
            "it is float64 now",
            change=(
                'layer["weight"], layer["kept"] = layer["kept"], None',
                'layer["weight"], layer["kept"] = layer["kept"].astype(float), None',
            ),
        ),
        mistake(
            "always float32",
            "it is float32 now",
            change=(
                'layer["weight"], layer["kept"] = layer["kept"], None',
                'layer["weight"], layer["kept"] = layer["kept"].astype("float32"), None',
            ),
        ),
        mistake(
            "tested too late",
            "changed its weight",
            body="""
            layer["weight"], layer["kept"] = layer["kept"], None
            if layer["weight"] is None:
                raise ValueError("the layer is not merged")
            return layer
            """,
        ),
        mistake(
            "still marked",
            "must be there and be None",
            change=(
                'layer["weight"], layer["kept"] = layer["kept"], None',
                'layer["weight"] = layer["kept"]',
            ),
        ),
        mistake(
            "silent",
            "in silence",
            change=('raise ValueError("the layer is not merged")', "return layer"),
        ),
        mistake(
            "still merged",
            "still the merged one",
            change=(
                'layer["weight"], layer["kept"] = layer["kept"], None',
                'layer["kept"] = None',
            ),
        ),
    ),
)
def unmerge_once(layer: dict, delta: np.ndarray) -> dict:
    """Put the kept W back, bit for bit; ValueError for a layer that is not merged."""
    if layer["kept"] is None:
        raise ValueError("the layer is not merged")
    layer["weight"], layer["kept"] = layer["kept"], None
    return layer

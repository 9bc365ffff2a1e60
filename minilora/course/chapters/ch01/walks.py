"""Exercises 1.3 and 1.4: the order of a backward walk, and finite differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from minilora.course.comparing import first_of
from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def _random_graph(judge: Judge, count: int) -> tuple[str, dict[str, list[str]]]:
    """Parents by node, with names and an order that say nothing.

    The first name is above all but the last, which is above some of them.
    """
    names = [f"node {i}" for i in judge.rng.permutation(count)]
    graph = {}
    for i, name in enumerate(names):
        below = names[i + 1 : -1]
        chosen = judge.rng.random(len(below)) < 0.4
        graph[name] = [n for n, taken in zip(below, chosen, strict=True) if taken]
        if below and below[0] not in graph[name]:
            graph[name].append(below[0])
    graph[names[-1]] = names[2:4]
    return names[0], {names[i]: graph[names[i]] for i in judge.rng.permutation(count)}


def check_backward_order(fn: Callable, judge: Judge) -> None:
    # c uses b, and a uses both: a walk that takes c's parents as they come meets b too early.
    diamond = {"a": ["c", "b"], "b": ["c"], "c": []}
    mirrored = {"a": ["b", "c"], "b": ["c"], "c": []}
    known = (("a", diamond), ("a", mirrored))
    for root, graph in (*known, *(_random_graph(judge, *judge.sizes(n)) for n in (7, 11))):
        _judge_order(judge, graph, root, judge.call(fn, root=root, parents=graph))


def _judge_order(judge: Judge, graph: dict[str, list[str]], root: str, order: object) -> None:
    judge.true(
        isinstance(order, Iterable) and not isinstance(order, (str, dict, set)),
        "return the nodes in their order, as a list.",
    )
    order = list(order)  # a tuple or a generator says the same
    strange = [node for node in order if not isinstance(node, str)]
    judge.true(not strange, f"the list holds {first_of(strange)}, which is no node.")
    twice = [node for node in order if order.count(node) > 1]
    judge.true(not twice, f"{first_of(twice)} is in the order twice, so its vjps would run twice.")
    judge.true(
        order and order[0] == root,
        f"the order must begin with the root, {root!r}; yours begins with {first_of(order)}. "
        "Backward starts at the loss.",
    )
    reached = {root}
    for _ in graph:  # no way is longer than that
        reached.update(parent for node in list(reached) for parent in graph[node])
    missing, odd = reached - set(order), set(order) - reached
    judge.true(not missing, f"{first_of(sorted(missing))} is missing, and the root depends on it.")
    judge.true(
        not odd, f"{first_of(sorted(odd))} does not belong here; the root does not depend on it."
    )
    place = {node: i for i, node in enumerate(order)}
    early = [(p, n) for n in order for p in graph[n] if place[p] < place[n]]
    judge.true(
        not early,
        f"{first_of([p for p, _ in early])} comes before {first_of([n for _, n in early])}, which "
        "uses it. Its cotangent would be sent on before it is complete.",
    )


@exercise(
    "1.3",
    "The order of the walk",
    minutes=15,
    difficulty=3,
    importance=3,
    check=check_backward_order,
    statement=r"""
    Write `backward_order(root, parents)`. `parents[node]` is the list of nodes that `node` was
    computed from. Return a list of the root and everything it depends on, each node once, such
    that **every node comes after all nodes that use it**. Then its cotangent is complete when its
    turn comes.
    """,
    hints=(
        "Turn it round: an order in which every node comes after its own parents is easy to write "
        "with recursion. Reverse it at the end.",
        "visit(node): do nothing if it was visited; otherwise visit all its parents, and then "
        "append the node itself.",
        "After visit(root) the list ends with the root. return order[::-1].",
    ),
    wrong=(
        mistake("not reversed", "must begin with the root", change=("order[::-1]", "order")),
        mistake(
            "as they come",
            "before it is complete",
            body="""
            order, waiting = [], [root]
            while waiting:
                node = waiting.pop(0)
                if node not in order:
                    order.append(node)
                    waiting.extend(parents[node])
            return order
            """,
        ),
        mistake(
            "not remembered",
            "in the order twice",
            body="""
            order = []
            def visit(node):
                for parent in parents[node]:
                    visit(parent)
                order.append(node)
            visit(root)
            return order[::-1]
            """,
        ),
        mistake(
            "used up",
            "changed its input parents in place",
            body="""
            order, seen = [], set()
            def visit(node):
                seen.add(node)
                while parents[node]:
                    parent = parents[node].pop()
                    if parent not in seen:
                        visit(parent)
                order.append(node)
            visit(root)
            return order[::-1]
            """,
        ),
        mistake("one step", "is missing", body="return [root, *parents[root][:1]]"),
    ),
)
def backward_order(root: str, parents: dict[str, list[str]]) -> list[str]:
    """The root and all it depends on, each after every node that uses it."""
    order, seen = [], set()

    def visit(node: str) -> None:
        if node in seen:
            return
        seen.add(node)
        for parent in parents[node]:
            visit(parent)
        order.append(node)

    visit(root)
    return order[::-1]


def check_central_difference(fn: Callable, judge: Judge) -> None:
    # The central difference of a cubic is its slope plus c eps^2 exactly, however large eps is.
    for shape, eps in ((judge.sizes(3, 2), 0.3), (judge.sizes(5), 0.07)):
        x, line, bend, c = (judge.normal(*shape) for _ in range(4))
        couple = judge.normal(x.size, x.size)

        def f(v: np.ndarray, line=line, bend=bend, c=c, couple=couple) -> float:
            flat = v.reshape(-1)
            return float((line * v + bend * v**2 + c * v**3).sum() + flat @ couple @ flat)

        slope = line + 2 * bend * x + 3 * c * x**2
        slope = slope + ((couple + couple.T) @ x.reshape(-1)).reshape(shape)
        second = 2 * bend + 6 * c * x + 2 * np.diag(couple).reshape(shape)
        steps = eps * np.eye(x.size).reshape(x.size, *shape)
        heaped = np.array([(f(x + s) - f(x - s)) / (2 * eps) for s in np.cumsum(steps, axis=0)])
        whole = (f(x + eps) - f(x - eps)) / (2 * eps)
        judge.close(
            "the slopes",
            judge.call(fn, f=f, x=x, eps=eps),
            slope + c * eps**2,
            factors={
                "the two points are 2 eps apart, and you divided by eps": 2.0,
                "divided by eps twice over": 1 / eps,
                "not divided by 2 eps": 2 * eps,
                "`/ 2 * eps` divides by 2 and multiplies by eps; put 2 * eps in brackets": eps**2,
            },
            instead={
                "that is the one-sided difference, (f(x + eps) - f(x)) / eps; step to both sides, "
                "and the error in eps cancels.": slope + second * eps / 2 + c * eps**2,
                "that is the one-sided difference towards smaller x; step to both sides.": slope
                - second * eps / 2
                + c * eps**2,
                "your step is not eps: that is the slope for a step that is tiny.": slope,
                "the step of one entry was still there when the next was nudged; start each from "
                "zeros.": heaped.reshape(shape),
                "all entries were nudged at once; nudge one, and leave the others.": np.full(
                    shape, whole
                ),
                **(_by_rows(f, x, eps) if x.ndim > 1 else {}),
            },
        )


def _by_rows(f: Callable, x: np.ndarray, eps: float) -> dict[str, np.ndarray]:
    """What one gets who steps along the first axis alone."""
    slopes = np.zeros(x.shape)
    for i in range(len(x)):
        step = np.zeros(x.shape)
        step[i] = eps
        slopes[i] = (f(x + step) - f(x - step)) / (2 * eps)
    return {"a whole row was nudged at once; nudge each entry: np.ndindex(x.shape).": slopes}


@exercise(
    "1.4",
    "Finite differences",
    minutes=10,
    difficulty=2,
    importance=3,
    check=check_central_difference,
    statement=r"""
    Write `central_difference(f, x, eps)` for a function `f` that takes an array and returns a
    number. Return an array of `x`'s shape: for every entry $i$, with $e_i$ the array that is 1
    there and 0 elsewhere,

    $$\frac{f(x + \epsilon e_i) - f(x - \epsilon e_i)}{2\,\epsilon} .$$

    `x` must come out as it went in.
    """,
    hints=(
        "np.ndindex(x.shape) runs over all places of an array, whatever its shape.",
        "Make a fresh array of zeros for every place, put eps there, and call f(x + step) and "
        "f(x - step). Then x is never written.",
        "slopes[place] = (f(x + step) - f(x - step)) / (2 * eps)",
    ),
    wrong=(
        mistake(
            "one-sided",
            "that is the one-sided difference, (f(x + eps)",
            change=("f(x - step)) / (2 * eps)", "f(x)) / eps"),
        ),
        mistake("forgot the 2", "you divided by eps", change=("(2 * eps)", "eps")),
        mistake(
            "own step",
            "your step is not eps",
            body="""
            slopes = np.zeros_like(x)
            for place in np.ndindex(x.shape):
                step = np.zeros_like(x)
                step[place] = 1e-5
                slopes[place] = (f(x + step) - f(x - step)) / 2e-5
            return slopes
            """,
        ),
        mistake(
            "steps heaped",
            "start each from zeros",
            body="""
            slopes, step = np.zeros_like(x), np.zeros_like(x)
            for place in np.ndindex(x.shape):
                step[place] = eps
                slopes[place] = (f(x + step) - f(x - step)) / (2 * eps)
            return slopes
            """,
        ),
        mistake("rows", "a whole row", change=("np.ndindex(x.shape)", "range(len(x))")),
        mistake("no brackets", "2 * eps in brackets", change=("(2 * eps)", "2 * eps")),
        mistake(
            "x not put back",
            "changed its input x in place",
            body="""
            slopes = np.zeros_like(x)
            for place in np.ndindex(x.shape):
                x[place] += eps
                high = f(x)
                x[place] -= 2 * eps
                slopes[place] = (high - f(x)) / (2 * eps)
            return slopes
            """,
        ),
        mistake(
            "all at once",
            "your shape is",
            body="return np.asarray((f(x + eps) - f(x - eps)) / (2 * eps))",
        ),
    ),
)
def central_difference(f: Callable, x: np.ndarray, eps: float) -> np.ndarray:
    """Slope of f along every entry of x, by central differences."""
    slopes = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = eps
        slopes[place] = (f(x + step) - f(x - step)) / (2 * eps)
    return slopes

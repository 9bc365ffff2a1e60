"""Exercises 2.3 and 2.4: the weights of causal attention, and its three gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.chapters.ch02.parts import require_gradients
from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def _softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _row_by_row(scores: np.ndarray, seen: Callable[[int], int]) -> np.ndarray:
    """Softmax over the first seen(t) keys of query t, 0 for the others: the slow specification."""
    out = np.zeros_like(scores)
    for t in range(scores.shape[-2]):
        out[..., t, : seen(t)] = _softmax(scores[..., t, : seen(t)])
    return out


def check_causal_weights(fn: Callable, judge: Judge) -> None:
    (n,) = judge.sizes(4)
    for shape in (judge.sizes(2, 3, 7), (n, n), (1, *judge.sizes(5))):
        scores = judge.normal(*shape)
        queries, keys = shape[-2:]
        before = keys - queries
        keep = np.tri(queries, keys, before, dtype=bool)
        everything = _softmax(scores)
        misses = {
            "the mask came after the softmax, so the visible weights no longer sum to 1 in a row. "
            "Hide a score before it.": everything * keep,
            "nothing is hidden.": everything,
            "a hidden score was set to 0, and e^0 is 1: that key still gets weight. Only minus "
            "infinity becomes 0.": _softmax(np.where(keep, scores, 0.0)),
            "the softmax runs over the queries; the weights of one query sum to 1 over its keys.": (
                _over_queries(scores, keep)
            ),
            "hidden scores are gone from the weights and still in the sum that they are divided "
            "by.": _softmax(np.where(keep, scores, 0.0)) * keep,
            "one sum for the whole array; the weights of each query sum to 1.": _undivided(
                scores, keep
            )
            / _undivided(scores, keep).sum(),
            "the weights of a query do not sum to 1; divide by the row's sum.": _undivided(
                scores, keep
            ),
            "the mask is turned round: it shows the later keys and hides the earlier.": _softmax(
                np.where(np.triu(np.ones((queries, keys)), before), scores, -np.inf)
            ),
        }
        if before:
            misses[
                "the queries are the last T of the S positions: query t stands at S - T + t."
            ] = _row_by_row(scores, lambda t: t + 1)
            misses["a query sees the keys up to and including its own position."] = _row_by_row(
                scores, lambda t, b=before: b + t
            )
        misses["a query sees no key after its own position."] = _row_by_row(
            scores, lambda t, b=before: b + t + 2
        )
        with np.errstate(all="ignore"):
            got = judge.call(fn, scores=scores)
        want = _row_by_row(scores, lambda t, b=before: b + t + 1)
        misses = {text: w for text, w in misses.items() if not np.allclose(w, want)}
        judge.close("the weights", got, want, instead=misses)
    _judge_large_scores(fn, judge)


def _judge_large_scores(fn: Callable, judge: Judge) -> None:
    scores = judge.normal(3, 5)
    want = _row_by_row(scores, lambda t: 3 + t)
    steep = np.tile([0.0, 1.0, 0.0, 0.0, 0.0], (3, 1))
    judge.stable("the weights", lambda rows: judge.call(fn, scores=rows), scores, want, steep)
    keep = np.tri(3, 5, 2, dtype=bool)
    hidden = np.where(keep, scores, 2000.0)
    with np.errstate(all="ignore"):
        got = np.asarray(judge.call(fn, scores=hidden))
    judge.true(
        np.allclose(got, want),
        "a hidden score of 2000 changed the weights of the others: hide first, then look for the "
        "row's largest score.",
    )
    with np.errstate(all="ignore"):
        got = np.asarray(judge.call(fn, scores=np.where(keep, scores - 30_000.0, scores)))
    judge.true(
        np.allclose(got, want),
        "where the visible scores lie 30,000 below the hidden ones, hidden keys get weight: what "
        "hides a score must be minus infinity, not a large negative number.",
    )


def _undivided(scores: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """e^score of the visible keys, each row's largest score subtracted."""
    hidden = np.where(keep, scores, -np.inf)
    return np.exp(hidden - hidden.max(axis=-1, keepdims=True))


def _over_queries(scores: np.ndarray, keep: np.ndarray) -> np.ndarray:
    e = np.exp(scores) * keep
    return e / e.sum(axis=-2, keepdims=True)


@exercise(
    "2.3",
    "What may be seen",
    minutes=12,
    difficulty=2,
    importance=3,
    check=check_causal_weights,
    statement=r"""
    Write `causal_weights(scores)`. `scores`, $Z$ in the formula, has shape `(..., T, S)`: a row for
    every query, a column for every key. **The queries are the last T of S positions.** While a text
    is generated, only the newest token asks (T = 1), and the keys of all earlier ones are kept in a
    cache. So query $t$ stands at position $S - T + t$, and

    $$\begin{gathered}
    P_{ts} = \frac{e^{Z_{ts}}}{\sum_{s' \le S - T + t} e^{Z_{ts'}}} \\[4pt]
    \text{for } s \le S - T + t, \\[4pt]
    P_{ts} = 0 \;\text{ for later keys.}
    \end{gathered}$$

    Large scores must not overflow.
    """,
    hints=(
        "Hide first, then take the softmax: a score of minus infinity becomes a weight of 0.",
        "np.tri(T, S, k, dtype=bool) is True at s <= t + k. Which k puts the last query at the "
        "last key?",
        "scores = np.where(np.tri(T, S, S - T, dtype=bool), scores, -np.inf); then subtract the "
        "row's maximum, exponentiate, and divide by the row's sum.",
    ),
    wrong=(
        mistake(
            "mask after softmax",
            "after the softmax",
            body="""
            T, S = scores.shape[-2:]
            e = np.exp(scores - scores.max(axis=-1, keepdims=True))
            return e / e.sum(axis=-1, keepdims=True) * np.tri(T, S, S - T)
            """,
        ),
        mistake(
            "no mask",
            "nothing is hidden",
            change=("hidden = np.where(keep, scores, -np.inf)", "hidden = scores"),
        ),
        mistake("zero for hidden", "e^0 is 1", change=("-np.inf", "0.0")),
        mistake("first T positions", "the last T of the S", change=("T, S, S - T", "T, S, 0")),
        mistake("own key hidden", "including its own", change=("S - T, d", "S - T - 1, d")),
        mistake("next key seen", "after its own", change=("S - T, d", "S - T + 1, d")),
        mistake("overflow", "near 800 exp overflows", change=("hidden - top", "hidden")),
        mistake(
            "mean for maximum",
            "1600 above the others",
            body="""
            T, S = scores.shape[-2:]
            keep = np.tri(T, S, S - T, dtype=bool)
            mean = (scores * keep).sum(axis=-1, keepdims=True) / keep.sum(axis=-1, keepdims=True)
            e = np.exp(np.where(keep, scores - mean, -np.inf))
            return e / e.sum(axis=-1, keepdims=True)
            """,
        ),
        mistake(
            "still in the sum",
            "still in the sum",
            change=(
                "return e / e.sum(axis=-1, keepdims=True)",
                "e = np.exp(scores * keep); return keep * e / e.sum(axis=-1, keepdims=True)",
            ),
        ),
        mistake(
            "one sum for all",
            "one sum for the whole",
            change=("e.sum(axis=-1, keepdims=True)", "e.sum()"),
        ),
        mistake(
            "not divided",
            "divide by the row's sum",
            change=(" / e.sum(axis=-1, keepdims=True)", ""),
        ),
        mistake(
            "turned mask",
            "mask is turned round",
            change=(
                "np.tri(T, S, S - T, dtype=bool)",
                "np.triu(np.ones((T, S), dtype=bool), S - T)",
            ),
        ),
        mistake(
            "added -10000",
            "30,000 below",
            change=("np.where(keep, scores, -np.inf)", "scores + np.where(keep, 0.0, -1e4)"),
        ),
        mistake(
            "small for minus infinity", "rows 800 higher and lower", change=("-np.inf", "-100.0")
        ),
        mistake(
            "one maximum for all",
            "not that of the whole array",
            change=("hidden.max(axis=-1, keepdims=True)", "hidden.max()"),
        ),
        mistake(
            "maximum of hidden scores",
            "a hidden score of 2000",
            change=("hidden.max(axis=-1, keepdims=True)", "scores.max(axis=-1, keepdims=True)"),
        ),
    ),
)
def causal_weights(scores: np.ndarray) -> np.ndarray:
    """Softmax of each row of scores (..., T, S) over the keys that its query may see."""
    T, S = scores.shape[-2:]
    keep = np.tri(T, S, S - T, dtype=bool)
    hidden = np.where(keep, scores, -np.inf)
    top = hidden.max(axis=-1, keepdims=True)
    e = np.exp(hidden - top)
    return e / e.sum(axis=-1, keepdims=True)


def _weights(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    before = k.shape[-2] - q.shape[-2]
    return _row_by_row(scores, lambda t: before + t + 1)


def check_attention_vjps(fn: Callable, judge: Judge) -> None:
    for lead, like in (((), (3, 5, 4, 6)), (judge.sizes(2), (4, 6, 7, 3))):
        queries, keys, dim, width = judge.sizes(*like)
        q, k = judge.normal(*lead, queries, dim), judge.normal(*lead, keys, dim)
        v, g = judge.normal(*lead, keys, width), judge.normal(*lead, queries, width)
        P = _weights(q, k)
        out = judge.call(fn, g=g, P=P, q=q, k=k, v=v)
        require_gradients(judge, out, "gq, gk, gv", q, k, v)
        inputs = {"q": q, "k": k, "v": v}
        for place in (2, 0, 1):  # gv first: it needs nothing of the softmax
            name = "qkv"[place]

            def scalar(value: np.ndarray, name: str = name, inputs=inputs, g=g) -> float:
                moved = {**inputs, name: value}
                return float((g * (_weights(moved["q"], moved["k"]) @ moved["v"])).sum())

            judge.gradient(
                f"g{name}",
                out[place],
                scalar,
                inputs[name],
                factors={
                    "the scores were divided by sqrt(dh), and so is what comes back": dim**0.5,
                    "divided by sqrt(dh) twice": dim**-0.5,
                }
                if name != "v"
                else {"v meets the weights, not the scores; sqrt(dh) is not in it": dim**-0.5},
                instead=_attention_misses(g, P, q, k, v)[name],
            )


def _attention_misses(
    g: np.ndarray, P: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    gP = g @ v.swapaxes(-1, -2)
    pull = (P * gP).sum(axis=-1, keepdims=True)
    wrong = {
        "the row sum in the softmax's vjp is missing: weights of one row compete.": P * gP,
        "the factor P in the softmax's vjp is missing.": gP - pull,
        "that goes past the softmax: gP is the gradient of the weights, not of the scores.": gP,
        "a sign in the softmax's vjp is wrong: the row sum is subtracted.": P * (gP + pull),
        "what is subtracted is a plain sum of gP; each term is weighted by P.": P
        * (gP - gP.sum(axis=-1, keepdims=True)),
        "the sum in the softmax's vjp runs over the queries; it runs over the keys of one query.": P
        * (gP - (P * gP).sum(axis=-2, keepdims=True)),
    }
    scale = q.shape[-1] ** -0.5
    diagonal = (
        "that treats the softmax as if each weight had a score of its own, P (1 - P): raising "
    )
    wrong[diagonal + "one score also lowers all other weights of its row."] = P * (1 - P) * gP
    return {
        "q": {text: scale * gZ @ k for text, gZ in wrong.items()},
        "k": {text: scale * gZ.swapaxes(-1, -2) @ q for text, gZ in wrong.items()},
        "v": {},
    }


@exercise(
    "2.4",
    "Attention, backwards",
    minutes=20,
    difficulty=3,
    importance=2,
    check=check_attention_vjps,
    statement=r"""
    Write `attention_vjps(g, P, q, k, v)` and return `gq, gk, gv`. `q` is `(..., T, dh)`, `k` is
    `(..., S, dh)`, `v` is `(..., S, m)`, the weights `P` are `(..., T, S)`, and `g` has the shape
    of the output:

    $$\begin{gathered}
    Z = \frac{q\,k^\top}{\sqrt{d_h}}, \\[4pt]
    P = \mathrm{softmax}(Z)\text{ of what is visible}, \\[4pt]
    o = P\,v .
    \end{gathered}$$

    Walk back through the three steps, the last one first. Hidden keys need no care: their
    weight is 0 already. Leading axes are a batch of heads; `swapaxes(-1, -2)` transposes them all.
    """,
    hints=(
        "Two of the three steps are matrix products, and chapter 1 has both of their vjps. "
        "o = P v gives gv = P^T g and gP = g v^T.",
        "Between them stands the softmax of each row, exercise 1.5: "
        "gZ = P * (gP - rowsum(P * gP)).",
        "Z = q k^T / sqrt(dh), so gq = gZ k / sqrt(dh) and gk = gZ^T q / sqrt(dh).",
    ),
    wrong=(
        mistake(
            "no row sum",
            "row sum in the softmax's vjp is missing",
            change=("(gP - (P * gP).sum(axis=-1, keepdims=True))", "gP"),
        ),
        mistake(
            "forgot sqrt(dh)",
            "so is what comes back",
            change=("q.shape[-1] ** -0.5", "1.0"),
        ),
        mistake(
            "1 / dh", "divided by sqrt(dh) twice", change=("q.shape[-1] ** -0.5", "1 / q.shape[-1]")
        ),
        mistake(
            "past the softmax",
            "goes past the softmax",
            change=("P * (gP - (P * gP).sum(axis=-1, keepdims=True))", "gP"),
        ),
        mistake(
            "the diagonal",
            "score of its own",
            change=("P * (gP - (P * gP).sum(axis=-1, keepdims=True))", "P * (1 - P) * gP"),
        ),
        mistake("no P", "factor P", change=("P * (gP - ", "(gP - ")),
        mistake("sum over queries", "runs over the queries", change=("sum(axis=-1", "sum(axis=-2")),
        mistake(
            "gv scaled",
            "sqrt(dh) is not in it",
            change=("return gq, gk, gv", "return gq, gk, scale * gv"),
        ),
        mistake("plain sum", "weighted by P", change=("(P * gP).sum", "gP.sum")),
        mistake("order", "another order", change=("return gq, gk, gv", "return gk, gq, gv")),
    ),
)
def attention_vjps(
    g: np.ndarray, P: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of o = P v for q, k and v, with P the weights of q k^T / sqrt(dh)."""
    gv = P.swapaxes(-1, -2) @ g
    gP = g @ v.swapaxes(-1, -2)
    gZ = P * (gP - (P * gP).sum(axis=-1, keepdims=True))
    scale = q.shape[-1] ** -0.5
    gq = scale * (gZ @ k)
    gk = scale * (gZ.swapaxes(-1, -2) @ q)
    return gq, gk, gv

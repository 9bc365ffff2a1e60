"""Exercise 2.6: the gradient of cross-entropy, with positions that have no label."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.autograd import IGNORE
from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def _loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log p[label], row by row: the slow specification."""
    terms = []
    for row, label in zip(logits, labels, strict=True):
        if label != IGNORE:
            terms.append(np.log(np.exp(row - row[label]).sum()))
    return float(np.mean(terms))


def check_cross_entropy_gradient(fn: Callable, judge: Judge) -> None:
    for like, unlabelled in (((5, 7), (1, 3)), ((8, 3), (0, 5, 7))):
        rows, vocab = judge.sizes(*like)
        while vocab == (rows - len(unlabelled)) ** 2:  # two mistakes would look alike
            rows, vocab = judge.sizes(*like)
        logits, labels = judge.normal(rows, vocab), judge.rng.integers(0, vocab, rows)
        labels[[2, 4, *unlabelled]] = [0, 1] + [IGNORE] * len(unlabelled)
        count = rows - len(unlabelled)
        p = np.exp(logits)
        p /= p.sum(axis=-1, keepdims=True)
        with np.errstate(all="ignore"):
            got = judge.call(fn, logits=logits, labels=labels)
        judge.true(
            np.shape(got) != (count, vocab),
            "only the rows with a label came back; the others have a gradient too, and it is zero.",
        )
        judge.true(
            np.shape(got) != (), "that is one number, such as the loss; its gradient was asked for."
        )
        judge.gradient(
            "the gradient",
            got,
            lambda v, labels=labels: _loss(v, labels),
            logits,
            factors={
                "the loss is a mean, so divide by the number of labels": float(count),
                "divided by all rows; the mean runs over those that have a label": count / rows,
                "divided by the number of labels twice": 1 / count,
                "divided by the vocabulary; the mean runs over the rows with a label": count
                / vocab,
                "the sign is wrong: it is softmax minus one-hot, and the step goes downhill": -1.0,
            },
            instead=_misses(logits, p, labels, count),
        )
    logits, labels = judge.normal(4, 3), np.array([2, 0, 1, IGNORE])
    p = np.exp(logits)
    p /= p.sum(axis=-1, keepdims=True)
    judge.stable(
        "the gradient",
        lambda rows: judge.call(fn, logits=rows, labels=labels),
        logits,
        np.vstack([p[:3] - np.eye(3)[labels[:3]], np.zeros((1, 3))]) / 3,
        steep=np.vstack([np.eye(3)[[1, 1, 1]] - np.eye(3)[labels[:3]], np.zeros((1, 3))]) / 3,
    )


def _misses(
    logits: np.ndarray, p: np.ndarray, labels: np.ndarray, count: int
) -> dict[str, np.ndarray]:
    has, e = labels != IGNORE, np.exp(logits - logits.max(axis=-1, keepdims=True))
    onehot = np.zeros_like(p)
    onehot[np.flatnonzero(has), labels[has]] = 1.0
    positive = labels > 0
    return {
        "label 0 is a token like any other; only IGNORE says that a row has no label.": (
            (p - onehot) * positive[:, None] / positive.sum()
        ),
        "rows without a label still have a gradient; the loss does not depend on them.": (
            (p - onehot) / count
        ),
        "the one-hot part is missing: the label's logit must be pushed up.": (
            p * has[:, None] / count
        ),
        "that is the one-hot part alone; the softmax pushes all logits down.": -onehot / count,
        "a row without a label was treated as if its label were 0.": (
            (p - onehot - ~has[:, None] * np.eye(p.shape[1])[0]) / count
        ),
        "the one-hot part is added; it is subtracted.": (p * has[:, None] + onehot) / count,
        "the softmax runs over the whole array; each row has a sum of its own.": (
            (e / e.sum() * has[:, None] - onehot) / count
        ),
        "the softmax runs down the columns; it runs along each row.": (
            (e / e.sum(axis=0) * has[:, None] - onehot) / count
        ),
        "only the label's own entry is there; the softmax pushes all others down.": (
            (p * onehot - onehot) / count
        ),
        "1 was taken off every entry of the row; take it off the label's alone.": (
            (p - 1) * has[:, None] / count
        ),
        "1 was taken off the columns of all labels, in every row.": (
            (p - onehot.sum(axis=0)) * has[:, None] / count
        ),
    }


@exercise(
    "2.6",
    "Softmax minus one-hot",
    minutes=12,
    difficulty=2,
    importance=3,
    check=check_cross_entropy_gradient,
    statement=r"""
    Write `cross_entropy_gradient(logits, labels)`. `logits` is `(n, V)`, `labels` is `(n,)` and
    holds token ids, or `IGNORE` (-100) where no answer is asked for: a prompt, or padding. With
    $N$ the number of rows that have a label, the loss is their mean

    $$\begin{aligned}
    L ={}& \frac{1}{N} \sum_{t:\; \text{label}_t \ne \text{IGNORE}} \\
    &\Bigl( \log \sum_v e^{z_{tv}} - z_{t,\text{label}_t} \Bigr) .
    \end{aligned}$$

    Return $\partial L / \partial z$, of shape `(n, V)`. Large logits must not overflow.
    """,
    hints=(
        "The derivative of log(sum of e^z) by z_v is e^{z_v} / sum of e^z. You know it by "
        "another name.",
        "A labelled row is (softmax - one-hot) / N, and a row without a label is 0: its logits are "
        "not in the sum.",
        "has = labels != IGNORE; p[np.flatnonzero(has), labels[has]] -= 1 subtracts the ones, and "
        "p[~has] = 0 empties the rest.",
    ),
    wrong=(
        mistake("no division", "divide by the number of labels", change=(" / has.sum()", "")),
        mistake("all rows", "divided by all rows", change=("has.sum()", "len(labels)")),
        mistake("ignored rows kept", "rows without a label", change=("p[~has] = 0.0\n", "\n")),
        mistake("sign", "the step goes downhill", change=("return p", "return -p")),
        mistake("plus one-hot", "part is added", change=("] -= 1.0", "] += 1.0")),
        mistake(
            "over the rows",
            "down the columns",
            change=("p.sum(axis=-1, keepdims=True)", "p.sum(axis=0)"),
        ),
        mistake(
            "labelled rows only",
            "only the rows with a label",
            change=("return p /", "return p[has] /"),
        ),
        mistake(
            "1 off everywhere",
            "off every entry",
            change=("p[np.flatnonzero(has), labels[has]] -= 1.0", "p -= 1.0"),
        ),
        mistake(
            "over the vocabulary",
            "divided by the vocabulary",
            change=("has.sum()", "logits.shape[1]"),
        ),
        mistake("no one-hot", "one-hot part is missing", change=("] -= 1.0", "] -= 0.0")),
        mistake("overflow", "near 800 exp overflows", change=("logits - top", "logits")),
        mistake(
            "smallest for largest", "1600 above the others", change=("logits.max(", "logits.min(")
        ),
        mistake(
            "one maximum for all",
            "not that of the whole array",
            change=("logits.max(axis=-1, keepdims=True)", "logits.max()"),
        ),
        mistake(
            "label 0 left out", "label 0 is a token", change=("labels != IGNORE", "labels > 0")
        ),
    ),
)
def cross_entropy_gradient(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """d(mean cross-entropy) / d(logits), (n, V); rows labelled IGNORE take no part."""
    top = logits.max(axis=-1, keepdims=True)
    p = np.exp(logits - top)
    p /= p.sum(axis=-1, keepdims=True)
    has = labels != IGNORE
    p[np.flatnonzero(has), labels[has]] -= 1.0
    p[~has] = 0.0
    return p / has.sum()

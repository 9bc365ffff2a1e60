"""Exercise 10.3: how far a model's next words are from the base's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def _log_softmax(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    shifted = logits - logits.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _kl(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
    """KL(one, other) of each row."""
    p, q = _log_softmax(one, axis), _log_softmax(other, axis)
    return (np.exp(p) * (p - q)).sum(axis=axis)


def check_kl(fn: Callable, judge: Judge) -> None:
    for like in ((5, 7), (9, 4)):
        rows, words = judge.sizes(*like)
        base, now = 2 * judge.normal(rows, words), 2 * judge.normal(rows, words)
        got = judge.call(fn, base=base, now=now)
        p, q = _log_softmax(base), _log_softmax(now)
        want = _kl(base, now)
        judge.number(
            "the divergence",
            got,
            want.mean(),
            instead={
                "that is the divergence of the base from the adapted model; the base's "
                "probabilities are the weights.": _kl(now, base).mean(),
                "that is the sum over the rows; take their mean.": want.sum(),
                "that is a mean over words as well; sum over the words of each row.": (
                    want.mean() / words
                ),
                "that is in bits; use the natural logarithm.": want.mean() / np.log(2),
                "that is the cross-entropy; the base's own log-probabilities are missing.": (
                    -(np.exp(p) * q).sum(-1).mean()
                ),
                "the sign is turned: log base less log now.": -want.mean(),
                "the softmax runs over the rows; each row is one distribution over words.": (
                    _kl(base, now, 0).mean()
                ),
                "that is half of each direction, which is another measure.": (
                    (want + _kl(now, base)).mean() / 2
                ),
                "the logits are no logarithms of probabilities yet; take off the logarithm of each "
                "row's sum.": (np.exp(p) * (base - now)).sum(-1).mean(),
            },
        )
        again = judge.call(fn, base=base, now=base.copy())
        judge.number("the divergence of the base from itself", again, 0.0)
    shifts = np.resize([800.0, -800.0, 0.0], (rows, 1))
    with np.errstate(all="ignore"):
        far = judge.one(
            "the divergence with rows 800 higher and lower",
            judge.call(fn, base=base + shifts, now=now - shifts),
        )
    judge.true(
        np.isfinite(far),
        "with logits near 800 exp overflows, and near -800 the sum is 0: subtract each row's "
        "largest logit first.",
    )
    judge.number("the divergence with rows 800 higher and lower, which changes nothing",
                 far, want.mean(), tolerance=1e-3)  # fmt: skip
    # Of a number near 32,000 float32 keeps two digits behind the point, float64 eleven.
    away, cut = 40 * shifts, want
    while abs(cut.mean() / want.mean() - 1) < 1e-4:  # by luck it may be right all the same
        away = away + judge.normal(rows, 1)
        cut = _kl((base + away).astype(np.float32), (now - away).astype(np.float32))
    far = judge.call(fn, base=base + away, now=now - away)
    judge.number(
        "the divergence with rows 32,000 higher and lower, which changes nothing",
        far,
        want.mean(),
        instead={"float32 keeps too few digits of such logits; compute in float64.": cut.mean()},
        tolerance=1e-5,
    )
    steep = now + 1600.0 * (np.arange(words) == 1)
    with np.errstate(all="ignore"):
        far = judge.one("the divergence", judge.call(fn, base=base, now=steep))
    judge.true(
        np.isfinite(far),
        "with one logit 1600 above the others a probability is 0, and the logarithm of 0 is "
        "infinite; never take the logarithm of a probability: log q = logit - log of the sum.",
    )
    judge.number("the divergence with one steep logit", far, _kl(base, steep).mean())


@exercise(
    "10.3",
    "How far from the base?",
    minutes=12,
    difficulty=2,
    importance=2,
    check=check_kl,
    statement=r"""
    `base` and `now` are logits (rows, words): what the base and the adapted model make of the same
    places of a text. With $p$ and $q$ their softmax, the *Kullback-Leibler divergence* of a row is

    $$\mathrm{KL}(p \,\|\, q) = \sum_{\text{words}} p\,(\log p - \log q) .$$

    It is 0 where both say the same, and it weighs each word by how often the *base* would say it.
    Write `kl_to_base(base, now)`: the mean over the rows, in nats. Logits may be far from zero and
    far from each other.
    """,
    hints=(
        "Work with logarithms: log p = base - log(sum(exp(base))), row by row.",
        "Subtract each row's largest logit first, which changes neither p nor log p.",
        "p = np.exp(log_p); the answer is (p * (log_p - log_q)).sum(axis=1).mean().",
    ),
    wrong=(
        mistake(
            "direction",
            "are the weights",
            change=("np.exp(log_p) * (log_p - log_q)", "np.exp(log_q) * (log_q - log_p)"),
        ),
        mistake("sum", "take their mean", change=(".sum(axis=1).mean()", ".sum()")),
        mistake("mean of words", "over words as well", change=(".sum(axis=1).mean()", ".mean()")),
        mistake(
            "bits",
            "that is in bits",
            change=(".sum(axis=1).mean()", ".sum(axis=1).mean() / np.log(2)"),
        ),
        mistake("cross-entropy", "cross-entropy", change=("(log_p - log_q)", "-log_q")),
        mistake("sign", "sign is turned", change=("(log_p - log_q)", "(log_q - log_p)")),
        mistake(
            "overflow",
            "exp overflows",
            change=("shifted = logits - logits.max(axis=1, keepdims=True)", "shifted = logits"),
        ),
        mistake(
            "float32",
            "keeps too few digits",
            change=(
                "log_softmax(base), log_softmax(now)",
                "(log_softmax(x.astype(np.float32)) for x in (base, now))",
            ),
        ),
        mistake(
            "log of 0",
            "never take the logarithm",
            body="""
            def softmax(logits):
                weights = np.exp(logits - logits.max(axis=1, keepdims=True))
                return weights / weights.sum(axis=1, keepdims=True)

            p, q = softmax(base), softmax(now)
            return float((p * (np.log(p) - np.log(q))).sum(axis=1).mean())
            """,
        ),
    ),
)
def kl_to_base(base: np.ndarray, now: np.ndarray) -> float:
    """Mean over rows of KL(softmax(base), softmax(now)), in nats."""

    def log_softmax(logits):
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    log_p, log_q = log_softmax(base), log_softmax(now)
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())

"""Exercises 11.1 and 11.4: the exact sum as one adapter, and TIES."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_joined(fn: Callable, judge: Judge) -> None:
    for ranks in ((2, 2), (3, 2), (1, 4, 2)):
        out, into = judge.sizes(13, 11)
        weights = (0.7, -1.3, 0.4)
        adapters = [
            (judge.normal(r, into), judge.normal(out, r), alpha)
            for r, alpha in zip(ranks, (3.5, 1.6, 6.1), strict=False)
        ]
        parts = [(alpha / len(A), A, B) for A, B, alpha in adapters]
        weights = weights[: len(parts)]
        want = sum(w * s * B @ A for w, (s, A, B) in zip(weights, parts, strict=True))
        got = judge.parts(
            judge.call(fn, adapters=adapters, weights=list(weights)), 2, "`return A, B`"
        )
        A, B = (np.asarray(x, dtype=float) for x in got)
        judge.true(
            A.ndim == B.ndim == 2 and (A.shape[1], B.shape[0]) == (into, out),
            f"A and B: your shapes are {A.shape} and {B.shape}, expected (R, {into}) and "
            f"({out}, R). A's lie one above the other, and B's side by side.",
        )
        judge.true(
            len(set(ranks)) > 1
            or A.shape != adapters[0][0].shape
            or not np.allclose(B @ A, _factors_added(parts, weights)),
            "you added A's to A's and B's to B's. Their product has cross terms, such as B1 A2, "
            "that nobody trained.",
        )
        judge.true(
            len(A) == B.shape[1] == sum(ranks),
            f"the rank R: A has {len(A)} rows and B {B.shape[1]} columns, expected both to be "
            f"{sum(ranks)}, the sum of the ranks.",
        )
        instead = {
            "the B's come in another order than the A's.": np.concatenate(
                [w * s * B for w, (s, _, B) in zip(weights, parts, strict=True)][::-1], axis=1
            )
            @ np.concatenate([A for _, A, _ in parts]),
            "a negative weight has lost its sign.": sum(
                abs(w) * s * B @ A for w, (s, A, B) in zip(weights, parts, strict=True)
            ),
            "the weights are missing.": sum(s * B @ A for s, A, B in parts),
            "the weights are in it twice, in A and in B.": sum(
                w**2 * s * B @ A for w, (s, A, B) in zip(weights, parts, strict=True)
            ),
            "the volumes alpha / r are in it twice, in A and in B.": sum(
                w * s**2 * B @ A for w, (s, A, B) in zip(weights, parts, strict=True)
            ),
            "weights and volumes are in it twice, in A and in B.": sum(
                (w * s) ** 2 * B @ A for w, (s, A, B) in zip(weights, parts, strict=True)
            ),
            "the volumes alpha / r are missing.": sum(
                w * B @ A for w, (_, A, B) in zip(weights, parts, strict=True)
            ),
            "alpha is not divided by r.": sum(
                w * s * len(A) * B @ A for w, (s, A, B) in zip(weights, parts, strict=True)
            ),
            "alpha is divided by the rank of all; each adapter has its own."
            if len(set(ranks)) > 1
            else "half of what it should be: is alpha divided by the rank of all, or is a mean "
            "taken? Each adapter has a rank of its own, and the sum is whole.": sum(
                w * s * len(A) / sum(ranks) * B @ A
                for w, (s, A, B) in zip(weights, parts, strict=True)
            ),
            "every adapter has a volume of its own, and you use the first one's.": sum(
                w * parts[0][0] * B @ A for w, (_, A, B) in zip(weights, parts, strict=True)
            ),
        }
        judge.close("B A", B @ A, want, instead=instead)
    out, into = judge.sizes(260, 240)
    adapters = [(judge.normal(r, into), judge.normal(out, r), 2.5) for r in (2, 3)]
    (A, B), peak = judge.call_measured(fn, adapters=adapters, weights=[0.7, -1.3])
    judge.true(
        peak < out * into * 8 / 2,
        f"the right product, but on the way your function held {peak / 1e3:.0f} kB, and the whole "
        f"sum of (out, in) numbers has {out * into * 8 / 1e3:.0f} kB. A's and B's alone are "
        "enough; nothing has to be multiplied out and taken apart again.",
    )


def _factors_added(parts: list[tuple], weights: tuple[float, ...]) -> np.ndarray:
    B = sum(w * s * B for w, (s, _, B) in zip(weights, parts, strict=True))
    return B @ sum(A for _, A, _ in parts)


@exercise(
    "11.1",
    "Side by side",
    minutes=10,
    difficulty=2,
    importance=3,
    check=check_joined,
    statement=r"""
    `adapters` is a list of `(A, B, alpha)` with `A` (r, in) and `B` (out, r), whose ranks may
    differ, and `weights` a list with one number for each. Write `side_by_side_sum(adapters,
    weights)` and return `(A, B)` of *one* adapter of volume 1, with `A` (R, in), `B` (out, R) and R
    the sum of the ranks, so that

    $$B A = \sum_i w_i \frac{\alpha_i}{r_i} B_i A_i .$$

    No matrix of (out, in) numbers may be needed to make them.
    """,
    hints=(
        "A product of two matrices is a sum over what lies between them: column k of B times row "
        "k of A. Two sums in one are just more columns and more rows.",
        "np.concatenate the A's along axis 0, and the B's along axis 1, in the same order.",
        "The number w * alpha / r belongs to one of the two only: multiply B by it, with r = "
        "len(A) of that adapter.",
    ),
    wrong=(
        mistake(
            "factors added",
            "cross terms",
            body="""
            A = sum(a for a, _, _ in adapters)
            return A, sum(w * alpha / len(a) * b for w, (a, b, alpha) in zip(weights, adapters))
            """,
        ),
        mistake(
            "another order",
            "in another order",
            change=("np.concatenate(scaled, axis=1)", "np.concatenate(scaled[::-1], axis=1)"),
        ),
        mistake("no weights", "the weights are missing", change=("w * alpha", "alpha")),
        mistake("no volume", "alpha / r are missing", change=("w * alpha / len(a)", "w")),
        mistake("no rank", "not divided by r", change=("alpha / len(a)", "alpha")),
        mistake(
            "twice",
            "weights are in it twice",
            change=("[a for a, _, _ in adapters]", "[w * a[0] for w, a in zip(weights, adapters)]"),
        ),
        mistake(
            "wrong axis",
            "lie one above the other",
            body="""
            width = max(len(a) for a, _, _ in adapters)
            A = np.concatenate([np.resize(a, (width, a.shape[1])) for a, _, _ in adapters], axis=1)
            B = np.concatenate([np.resize(b, (b.shape[0], width)) for _, b, _ in adapters], axis=0)
            return A, B
            """,
        ),
        mistake(
            "whole matrix",
            "the rank R",
            body="""
            total = sum(w * alpha / len(a) * b @ a
                        for w, (a, b, alpha) in zip(weights, adapters))
            return total, np.eye(len(total))
            """,
        ),
        mistake(
            "taken apart again",
            "multiplied out",
            body="""
            total = sum(w * alpha / len(a) * b @ a
                        for w, (a, b, alpha) in zip(weights, adapters))
            u, s, vt = np.linalg.svd(total, full_matrices=False)
            rank = sum(len(a) for a, _, _ in adapters)
            return vt[:rank], u[:, :rank] * s[:rank]
            """,
        ),
        mistake(
            "one rank for all",
            "rank of all",
            change=("alpha / len(a)", "alpha / sum(len(x) for x, _, _ in adapters)"),
        ),
        mistake(
            "one volume for all",
            "you use the first one's",
            change=("alpha / len(a)", "adapters[0][2] / len(adapters[0][0])"),
        ),
    ),
)
def side_by_side_sum(
    adapters: list[tuple[np.ndarray, np.ndarray, float]], weights: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """A (R, in) and B (out, R) whose product is the weighted sum of all updates."""
    A = np.concatenate([a for a, _, _ in adapters], axis=0)
    scaled = [w * alpha / len(a) * b for w, (a, b, alpha) in zip(weights, adapters, strict=True)]
    return A, np.concatenate(scaled, axis=1)


def check_ties(fn: Callable, judge: Judge) -> None:
    for count in (3, 4):
        rows, columns = judge.sizes(9, 7)
        keep = rows * columns * 2 // 5
        changes = [judge.normal(rows, columns) for _ in range(count)]
        # Where two small ones stand against a large one, a vote of heads elects another sign.
        changes[0] *= 2.2
        # And where they are more together than it is, the largest one elects another sign.
        for place in judge.rng.choice(rows * columns, 4, replace=False):
            changes[0].flat[place] = 8.0
            for change in changes[1:]:
                change.flat[place] = -5.0
        got = judge.call(fn, changes=changes, keep=keep)
        kept = np.stack([_largest(x, keep) for x in changes])
        judge.close(
            "the merged change",
            got,
            _agreeing(kept, kept.sum(0)),
            instead={
                "nothing is trimmed; of each change only the `keep` largest stay.": _agreeing(
                    np.stack(changes), np.sum(changes, axis=0)
                ),
                "largest means largest in size: a large negative entry stays.": _agreeing(
                    np.stack([_largest(x, keep, by=x) for x in changes]),
                    np.sum([_largest(x, keep, by=x) for x in changes], axis=0),
                ),
                "the smallest entries stay, and the largest should.": _agreeing(
                    np.stack([_largest(x, keep, by=-np.abs(x)) for x in changes]),
                    np.sum([_largest(x, keep, by=-np.abs(x)) for x in changes], axis=0),
                ),
                "that elects the sign that most changes have; the sum elects, so that a large "
                "entry counts for more.": _agreeing(kept, np.sign(kept).sum(0)),
                "that elects the sign of the largest entry; the sum elects.": _agreeing(
                    kept, np.take_along_axis(kept, np.abs(kept).argmax(0)[None], 0)[0]
                ),
                "signs are elected before trimming; trim first.": _agreeing(
                    kept, np.sum(changes, axis=0)
                ),
                "that is the mean over all changes; only those that agree are counted.": np.where(
                    np.sign(kept) == np.sign(kept.sum(0)), kept, 0
                ).mean(0),
                "that is the sum of those that agree; TIES takes their mean.": np.where(
                    np.sign(kept) == np.sign(kept.sum(0)), kept, 0
                ).sum(0),
                "entries that lost the vote are still in it.": kept.sum(0)
                / np.maximum((kept != 0).sum(0), 1),
                "the losing sign is counted as well; divide by how many agree.": np.where(
                    np.sign(kept) == np.sign(kept.sum(0)), kept, 0
                ).sum(0)
                / np.maximum((kept != 0).sum(0), 1),
                "that is the trimmed sum; no sign has been elected.": kept.sum(0),
            },
        )


def _largest(x: np.ndarray, keep: int, by: np.ndarray | None = None) -> np.ndarray:
    order = np.argsort(np.abs(x) if by is None else by, axis=None)[-keep:]
    kept = np.zeros_like(x)
    kept.flat[order] = x.flat[order]
    return kept


def _agreeing(kept: np.ndarray, votes: np.ndarray) -> np.ndarray:
    agree = (np.sign(kept) == np.sign(votes)) & (kept != 0)
    return np.where(agree, kept, 0).sum(0) / np.maximum(agree.sum(0), 1)


@exercise(
    "11.4",
    "TIES: trim, elect, agree",
    minutes=15,
    difficulty=3,
    importance=2,
    check=check_ties,
    statement=r"""
    `changes` is a list of arrays of one shape, the $\Delta W$ of several adapters at one place.
    Write `ties(changes, keep)`, which makes one change of them, entry by entry:

    1. *Trim.* Of each array only the `keep` entries that are largest in size stay; the others
       become 0.
    2. *Elect.* The sign of an entry is that of the sum of what was kept there.
    3. *Agree.* The result is the mean over those kept entries that have this sign, and 0 where
       there is none.
    """,
    hints=(
        "Trim first. np.argsort(np.abs(x), axis=None)[-keep:] gives the places of the largest, "
        "counted through the flattened array; x.flat[places] reads and writes there.",
        "Stack the trimmed arrays into one of shape (adapters, rows, columns). Its sum over axis 0 "
        "votes: agree = np.sign(kept) == np.sign(kept.sum(axis=0)), and kept must not be 0.",
        "total = np.where(agree, kept, 0).sum(axis=0), divided by how many agree, and at least by "
        "1: np.maximum(agree.sum(axis=0), 1).",
    ),
    wrong=(
        mistake(
            "no trim",
            "nothing is trimmed",
            change=("np.argsort(np.abs(x), axis=None)[-keep:]", "np.arange(x.size)"),
        ),
        mistake("by value", "largest in size", change=("np.abs(x)", "x")),
        mistake("smallest", "the smallest entries stay", change=("[-keep:]", "[:keep]")),
        mistake(
            "a vote of heads",
            "most changes have",
            change=("np.sign(kept.sum(axis=0))", "np.sign(np.sign(kept).sum(axis=0))"),
        ),
        mistake(
            "the largest elects",
            "the sign of the largest entry",
            change=(
                "np.sign(kept.sum(axis=0))",
                "np.sign(kept.max(axis=0) + kept.min(axis=0))",
            ),
        ),
        mistake(
            "votes before trimming",
            "elected before trimming",
            change=("np.sign(kept.sum(axis=0))", "np.sign(np.sum(changes, axis=0))"),
        ),
        mistake(
            "mean of all",
            "mean over all changes",
            change=("np.maximum(agree.sum(axis=0), 1)", "len(changes)"),
        ),
        mistake(
            "sum", "sum of those that agree", change=(" / np.maximum(agree.sum(axis=0), 1)", "")
        ),
        mistake(
            "losers counted",
            "lost the vote",
            change=("(np.sign(kept) == np.sign(kept.sum(axis=0)))", "(kept == kept)"),
        ),
    ),
)
def ties(changes: list[np.ndarray], keep: int) -> np.ndarray:
    """The merged change: trimmed, with elected signs, and the mean over those that agree."""
    trimmed = []
    for x in changes:
        places = np.argsort(np.abs(x), axis=None)[-keep:]
        kept = np.zeros_like(x)
        kept.flat[places] = x.flat[places]
        trimmed.append(kept)
    kept = np.stack(trimmed)
    agree = (np.sign(kept) == np.sign(kept.sum(axis=0))) & (kept != 0)
    return np.where(agree, kept, 0).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)

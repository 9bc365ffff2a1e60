"""Exercise 6.1: which heads hear a change of shared keys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_heard_by(fn: Callable, judge: Judge) -> None:
    # All sizes differ, and kv_heads * head_dim splits up as head_dim * kv_heads too.
    for like in ((3, 7, 11, 2, 4), (2, 6, 13, 3, 5)):
        kv_heads, dim, width, r, group = judge.sizes(*like)
        heads = kv_heads * group
        A, B = judge.normal(r, width), judge.normal(kv_heads * dim, r)
        change = B @ A
        blocks = change.reshape(kv_heads, dim, width)
        mixed = change.reshape(dim, kv_heads, width).transpose(1, 0, 2)
        of_b = B.reshape(kv_heads, dim, r)
        out = judge.call(fn, A=A, B=B, heads=heads, kv_heads=kv_heads)
        told = f"with {heads} query heads and {kv_heads} key heads, the change"
        judge.close(
            told,
            out,
            np.repeat(blocks, group, axis=0),
            instead={
                "that deals the key heads out in turn (0, 1, 2, 0, 1, 2, ...). Query heads that "
                "share a key head stand together: np.repeat, not np.tile.": np.tile(
                    blocks, (group, 1, 1)
                ),
                "the rows of one key head stand together, one head below the other; you took every "
                f"{kv_heads}th row.": np.repeat(mixed, group, axis=0),
                "you repeated single rows; repeat whole heads, of head_dim rows.": np.repeat(
                    change, group, axis=0
                ).reshape(heads, dim, width),
                "all query heads got the first key head; each group has its own.": np.repeat(
                    blocks[:1], heads, axis=0
                ),
                "that is one entry for each key head; each of the "
                f"{heads} query heads gets one, and {group} of them share it.": blocks,
                f"each key head is heard by {group} query heads; a copy divided by {group} is "
                "heard too softly.": np.repeat(blocks, group, axis=0) / group,
                "that is B, cut into heads; the change of the keys' map is B A.": np.repeat(
                    of_b, group, axis=0
                ),
                "an entry is (head_dim, width), with the rows of B A; yours is the other way "
                "round.": np.repeat(blocks, group, axis=0).swapaxes(1, 2),
                "that is the whole change in one piece; cut it into heads.": change,
                "every key head is repeated kv_heads times; it is heads // kv_heads query heads "
                "that share one.": np.repeat(blocks, kv_heads, axis=0),
            },
        )


@exercise(
    "6.1",
    "Who hears a change of the keys?",
    minutes=10,
    difficulty=2,
    importance=2,
    check=check_heard_by,
    statement=r"""
    With *grouped heads*, `heads` query heads share `kv_heads` key heads. The first
    `heads // kv_heads` query heads read key head 0, the next so many read key head 1, and so on.
    The keys' map holds its heads one below the other, `head_dim` rows each, and so does its change
    $BA$ with $B$ (kv_heads · head_dim, r) and $A$ (r, width).

    Write `heard_by(A, B, heads, kv_heads)`: an array (heads, head_dim, width), whose entry $h$ is
    the change that query head $h$ reads. (`head_dim` is what $B$ says: it need not be
    width / heads.)
    """,
    hints=(
        "head_dim is B.shape[0] // kv_heads. First cut B @ A into kv_heads blocks of rows.",
        "(B @ A).reshape(kv_heads, head_dim, width) has one entry a key head. Now each is heard by "
        "heads // kv_heads query heads that stand next to each other.",
        "np.repeat(blocks, heads // kv_heads, axis=0) puts equal ones together; np.tile does not.",
    ),
    wrong=(
        mistake(
            "dealt out in turn",
            "deals the key heads out",
            change=(
                "np.repeat(blocks, heads // kv_heads, axis=0)",
                "np.tile(blocks, (heads // kv_heads, 1, 1))",
            ),
        ),
        mistake(
            "every third row",
            "th row",
            change=(
                ".reshape(kv_heads, -1, A.shape[1])",
                ".reshape(-1, kv_heads, A.shape[1]).swapaxes(0, 1)",
            ),
        ),
        mistake(
            "one for all",
            "got the first key head",
            change=("(blocks, heads // kv_heads", "(blocks[:1], heads"),
        ),
        mistake(
            "not shared",
            "one entry for each key head",
            change=("np.repeat(blocks, heads // kv_heads, axis=0)", "blocks"),
        ),
        mistake(
            "divided among them",
            "too softly",
            change=("axis=0)", "axis=0) / (heads // kv_heads)"),
        ),
        mistake(
            "B alone",
            "that is B",
            change=(
                "(B @ A).reshape(kv_heads, -1, A.shape[1])",
                "B.reshape(kv_heads, -1, B.shape[1])",
            ),
        ),
        mistake(
            "kv_heads times",
            "repeated kv_heads times",
            change=("heads // kv_heads", "kv_heads"),
        ),
        mistake(
            "width over heads",
            "shapes do not fit",
            change=("(kv_heads, -1, A.shape[1])", "(kv_heads, A.shape[1] // heads, A.shape[1])"),
        ),
    ),
)
def heard_by(A, B, heads, kv_heads):
    """The change of the keys' map as each query head reads it, (heads, head_dim, width)."""
    blocks = (B @ A).reshape(kv_heads, -1, A.shape[1])
    return np.repeat(blocks, heads // kv_heads, axis=0)

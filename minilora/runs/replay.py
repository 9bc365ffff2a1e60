"""Replay: some of what the base could do is trained again beside the new job, so that it stays."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilora.hub.bases import WARD
from minilora.limits import require_finite
from minilora.runs.data import File
from minilora.text import Record, Tokenizer, encode_records, prompt_messages
from minilora.text.packed import PackedExamples
from minilora.ward import GROUPS, HOUSE_INSTRUCTION, regression_suite

WARD_SEED = 6000
"""Of the ward's replay rows: train cases, which no file of the ward holds."""


@dataclass(frozen=True)
class Replay:
    """Rows of the base's own tasks, which are to be a share of what is trained on.

    pool: of n rows, at least n to draw from. source: what they are. sha256: of the file that they
    are from, None for the ward's own, which a program writes.
    """

    share: float
    pool: Callable[[int], PackedExamples]
    source: str
    sha256: str | None = None

    def mixed(self, train: PackedExamples, seed: int) -> PackedExamples:
        """The training examples and, behind them, rows of the pool: `share` of them all.

        Drawn with the seed, each as often as any other, so that a small pool is repeated.
        """
        count = max(1, round(len(train) * self.share / (1 - self.share)))
        pool, rng = self.pool(count), np.random.default_rng([seed, 20])
        rounds = [rng.permutation(len(pool)) for _ in range(-(-count // len(pool)))]
        chosen = pool.take(np.concatenate(rounds)[:count])
        return PackedExamples.pack(itertools.chain(train, chosen))


def require_replay(share: float, data: Path | None, base: str) -> None:
    """Raise ValueError for a share outside 0 <= share < 1, or one without rows to replay."""
    require_finite("replay", share, below=1.0)
    if share and data is None and base != WARD:
        raise ValueError(
            f"got replay {share:g} on base {base}, whose tasks are not known here; expected "
            "rows of them, with --replay-data FILE"
        )
    if data is not None and not share:
        raise ValueError(f"got replay data {data} and no share of it, expected --replay as well")


def ward_rows(count: int, seed: int = WARD_SEED) -> list[dict]:
    """What ward-base learned, as records: `count` rows, a fifth of each of its groups.

    Of public styles, questions and refusals on notes of train cases, and of the formulary and the
    abbreviations. Left out are those asked for in the house's own words: what an adaptation is to
    change is not what it is to keep.
    """
    made = -(-count // len(GROUPS)) * 5 // 4 + len(GROUPS)  # a few public styles are left out
    rows = [example.to_dict() for example in regression_suite("train", made, seed)]
    rows = [row for row in rows if not row["prompt"].endswith(f"\n{HOUSE_INSTRUCTION}")]
    prefixes = GROUPS.values()
    by_group = [[r for r in rows if r["task"].split("/")[0] == prefix] for prefix in prefixes]
    turns = itertools.chain.from_iterable(zip(*by_group, strict=False))
    return list(itertools.islice(turns, count))


def ward_replay(share: float, tokenizer: Tokenizer, max_length: int) -> Replay:
    """Of ward-base's own tasks; a row that is longer than `max_length` is left out."""

    def pool(count: int) -> PackedExamples:
        records = [
            Record(f"replay:{i}", messages=prompt_messages(row["prompt"], row["completion"]))
            for i, row in enumerate(ward_rows(count), 1)
        ]
        examples, _ = encode_records(tokenizer, records, max_length)
        if not examples:
            raise ValueError(f"got max_length {max_length}, which no row of {WARD}'s own fits into")
        return PackedExamples.pack(examples)

    return Replay(share, pool, f"{WARD}'s own tasks")


def file_replay(share: float, file: File) -> Replay:
    """Of the rows of a data file."""
    return Replay(share, lambda count: file.examples, file.path.name, file.sha256)

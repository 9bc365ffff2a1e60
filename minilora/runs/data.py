"""The data of a run: reading, what can't be used, splitting, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilora.storage import sha256_file
from minilora.text import Example, Problem, Record, Tokenizer, encode_records, read_records

SMALLEST_TO_SPLIT = 20
HELD_OUT_SHARE = 10
"""One example in this many is held out for evaluation."""
SAMPLE_TOKENS = 48


@dataclass(frozen=True)
class File:
    """What a data file gave: examples to learn from, their records by place, and the rest."""

    path: Path
    sha256: str
    examples: list[Example]
    records: dict[str, Record]
    problems: list[Problem]

    @property
    def tokens(self) -> int:
        """Positions of all examples."""
        return sum(len(e) for e in self.examples)

    def about(self) -> dict:
        """What the adapter's provenance says of the file."""
        counts = {"examples": len(self.examples), "tokens": self.tokens}
        return {"file": self.path.name, "sha256": self.sha256, **counts, "bad": len(self.problems)}


class UnusableDataError(ValueError):
    """Nothing of a data file can be used, or less than half of it; `problems` says why, by line."""

    def __init__(self, message: str, path: Path, problems: list[Problem]) -> None:
        super().__init__(message)
        self.path, self.problems = path, problems


def read_file(path: Path, tokenizer: Tokenizer, max_length: int) -> File:
    """Read and encode a data file; what in it can't be used is among its problems, by line.

    Raises OSError, or UnusableDataError when nothing can be used, or less than half of it.
    """
    records, problems = read_records(path)
    examples: list[Example] = []
    for record in records:
        good, bad = _encode(tokenizer, record, max_length)
        examples += good
        problems += bad
    by_source = {record.source: record for record in records}
    problems.sort(key=_line)
    used = {example.source for example in examples}
    total = len(used) + len(problems)
    if not total:
        raise UnusableDataError(f"{path} has 0 rows, expected at least 1", path, problems)
    if not examples or len(problems) > total / 2:
        raise UnusableDataError(
            f"{path}: {len(problems)} of {total} examples can't be used, expected at least half "
            f"good ones; the first is {problems[0]}",
            path,
            problems,
        )
    return File(path, sha256_file(path), examples, by_source, problems)


def _encode(
    tokenizer: Tokenizer, record: Record, max_length: int
) -> tuple[list[Example], list[Problem]]:
    try:
        examples, problems = encode_records(tokenizer, [record], max_length)
    except ValueError as error:  # from the chat template
        return [], [Problem(record.source, str(error))]
    if not examples and not problems:
        problems = [Problem(record.source, "got 1 token, expected at least 2")]
    return examples, problems


def _line(problem: Problem) -> int:
    number = problem.source.rpartition(":")[2]
    return int(number) if number.isdigit() else 0


# -- evaluation ------------------------------------------------------------------------------------


def split(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """(to train on, held out): a tenth held out, drawn with the seed; none of a small set."""
    if len(examples) < SMALLEST_TO_SPLIT:
        return list(examples), []
    order = np.random.default_rng([seed, 10]).permutation(len(examples))
    held_out = set(order[: len(examples) // HELD_OUT_SHARE].tolist())
    train = [e for i, e in enumerate(examples) if i not in held_out]
    return train, [examples[i] for i in sorted(held_out)]


@dataclass(frozen=True)
class Sample:
    """A prompt, as token ids and as shown, and the text that should follow."""

    ids: list[int]
    shown: str
    expected: str
    room: int


def sample_of(tokenizer: Tokenizer, example: Example, record: Record, limit: int) -> Sample | None:
    """The last answer of a chat with what is before it, or the halves of a text's beginning."""
    if record.text:
        cut = min(len(example) // 2, SAMPLE_TOKENS)
        ids, rest = example.ids[:cut].tolist(), example.ids[cut : cut + SAMPLE_TOKENS].tolist()
        shown, expected = tokenizer.decode(ids), tokenizer.decode(rest)
        wanted = len(rest)
    else:
        last = record.last_answer
        before = list(record.messages[:last])
        ids = tokenizer.encode(tokenizer.apply_chat_template(before, add_generation_prompt=True))
        shown = before[-1]["content"] if before else ""
        expected = record.messages[last]["content"]
        wanted = len(tokenizer.encode(expected)) + 16
    room = min(wanted, limit - len(ids))
    return Sample(ids, shown, expected, room) if ids and room > 0 else None

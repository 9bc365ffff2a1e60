"""The data of a run: reading, what can't be used, splitting, samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minilora.hub.bases import WARD_BASE
from minilora.storage import sha256_file
from minilora.text import Example, Problem, Record, Tokenizer
from minilora.text.examples import encode_rows, encode_text, one_answer_each
from minilora.text.formats import Format, format_of
from minilora.text.packed import PackedExamples
from minilora.text.rows import OnRead, read_rows, read_text
from minilora.training.prompts import answer_begins

WARD_DATA = WARD_BASE.parent / "ward"
SMALLEST_TO_SPLIT = 20
HELD_OUT_SHARE = 10
"""One example in this many is held out for evaluation."""
SAMPLE_TOKENS = 48
KEPT_PROBLEMS = 1000
"""Problems of a file that are kept with their place and reason; the others are counted."""
BAR_AFTER = 1.0
"""Seconds of reading after which a bar is drawn."""


class Problems(Sequence[Problem]):
    """What in a data file can't be used: how many rows, and the first KEPT_PROBLEMS themselves."""

    def __init__(self, problems: Sequence[Problem] = ()) -> None:
        self.count, self._kept = 0, []
        for problem in problems:
            self.add(problem)

    def add(self, problem: Problem) -> None:
        """One more."""
        self.count += 1
        if len(self._kept) < KEPT_PROBLEMS:
            self._kept.append(problem)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place):
        return self._kept[place]


@dataclass(frozen=True)
class File:
    """What a data file gave: examples to learn from, and the rest.

    shapes: how many rows were read by each key of `records.SHAPES`.
    """

    path: Path
    sha256: str
    format: Format
    examples: PackedExamples
    problems: Problems
    shapes: Mapping[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Positions of all examples."""
        return int(self.examples.lengths.sum())

    def about(self) -> dict:
        """What the adapter's provenance says of the file."""
        counts = {"examples": len(self.examples), "tokens": self.tokens}
        return {"file": self.path.name, "sha256": self.sha256, **counts, "bad": len(self.problems)}

    def records(self, sources: Collection[str]) -> dict[str, Record]:
        """The records of these sources, read again; a plain text has none."""
        if self.format is Format.TEXT:
            return {}
        wanted, found = set(sources), {}
        rows = read_rows(self.path, self.format)
        while len(found) < len(wanted) and (row := next(rows, None)) is not None:
            if isinstance(row, Record) and row.source in wanted:
                found[row.source] = row
        return found


class UnusableDataError(ValueError):
    """Nothing of a data file can be used, or less than half of it; `problems` says why, by line."""

    def __init__(self, message: str, path: Path, problems: Problems) -> None:
        super().__init__(message)
        self.path, self.problems = path, problems


def read_file(
    path: Path, tokenizer: Tokenizer, max_length: int, as_text: bool = False, bars: bool = False
) -> File:
    """Read and encode a data file; what in it can't be used is among its problems, by line.

    as_text: as in `format_of`. bars: whether a bar is drawn where it takes long. Raises OSError,
    or UnusableDataError when nothing can be used, or less than half of it.
    """
    kind = format_of(path, as_text)
    problems, shapes, used = Problems(), Counter(), 0
    size = path.stat().st_size
    bar = tqdm(
        total=size, unit="B", unit_scale=True, desc=f"reading {path.name}", delay=BAR_AFTER,
        disable=not bars,
    )  # fmt: skip

    def good() -> Iterator[Example]:
        nonlocal used
        last = None
        for row in _encoded(path, kind, tokenizer, max_length, shapes, bar.update):
            if isinstance(row, Problem):
                problems.add(row)
            else:
                used += row.source is not last  # The windows of a text have one source.
                last = row.source
                yield row

    with bar:
        examples = PackedExamples.pack(good())
    total = used + len(problems)
    if not total:
        raise UnusableDataError(f"{path} has 0 rows, expected at least 1", path, problems)
    if not used or len(problems) > total / 2:
        raise UnusableDataError(
            f"{path}: {len(problems)} of {total} examples can't be used, expected at least half "
            f"good ones; the first is {problems[0]}",
            path,
            problems,
        )
    return File(path, sha256_file(path), kind, examples, problems, shapes)


def _encoded(
    path: Path,
    kind: Format,
    tokenizer: Tokenizer,
    max_length: int,
    shapes: Counter,
    on_read: OnRead,
) -> Iterator[Example | Problem]:
    """Each example and each problem of a file, in its order; the shapes of its rows are counted."""
    if kind is Format.TEXT:
        shapes["text"] += 1
        yield from encode_text(tokenizer, read_text(path, on_read), max_length, str(path))
        return

    def rows() -> Iterator[Record | Problem]:
        for row in read_rows(path, kind, on_read):
            if isinstance(row, Record):
                shapes[row.shape] += 1
            yield row

    yield from encode_rows(tokenizer, rows(), max_length)


def one_answer_a_row(file: File, invocation: tuple[int, ...]) -> File:
    """The file for an activated adapter: each answer of a chat is a row with all before it.

    Rows that such an adapter can't learn become problems. Raises UnusableDataError where none is
    left.
    """
    problems = file.problems

    def good() -> Iterator[Example]:
        for example in file.examples:
            try:
                rows = one_answer_each(example)
                for row in rows:
                    answer_begins(row.ids, row.labels, invocation)
            except ValueError as error:
                problems.add(Problem(example.source, str(error)))
                continue
            yield from rows

    examples = PackedExamples.pack(good())
    if not examples:
        message = f"{file.path}: got no row for an activated adapter; the first is {problems[0]}"
        raise UnusableDataError(message, file.path, problems)
    return replace(file, examples=examples)


# -- evaluation ------------------------------------------------------------------------------------


def split(examples: PackedExamples, seed: int) -> tuple[PackedExamples, PackedExamples]:
    """(to train on, held out): a tenth held out, drawn with the seed; none of a small set."""
    if len(examples) < SMALLEST_TO_SPLIT:
        return examples, examples[:0]
    order = np.random.default_rng([seed, 10]).permutation(len(examples))
    held_out = np.zeros(len(examples), bool)
    held_out[order[: len(examples) // HELD_OUT_SHARE]] = True
    return examples.take(np.flatnonzero(~held_out)), examples.take(np.flatnonzero(held_out))


@dataclass(frozen=True)
class Sample:
    """A prompt, as token ids and as shown, and the text that should follow."""

    ids: list[int]
    shown: str
    expected: str
    room: int


def sample_of(
    tokenizer: Tokenizer, example: Example, record: Record | None, limit: int
) -> Sample | None:
    """The last answer of a chat with what is before it, or the halves of a text's beginning.

    record: what the example was made from, None for a plain text.
    """
    if record is None or record.text:
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

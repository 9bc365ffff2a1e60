"""The rows of a capstone: read, checked for what would make a score wrong, and divided.

What can be left out is left out and told; a row that says something else than another one is for
its owner to decide, and stops the capstone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilora.evaluation.cases import Case, ward_case
from minilora.evaluation.variants import Variant, with_room
from minilora.text import Problem, Tokenizer
from minilora.text.rows import iter_records

LEAST_ROWS, LEAST_HELD_OUT, MOST_HELD_OUT = 100, 30, 100
HELD_OUT_SHARE = 3
"""One row in this many is held out: of the usual tenth of 100 rows no interval says anything."""
UNUSABLE_SHARE = 0.1
"""More rows than this that can't be used are a mistake in the file, and not a few bad rows."""
ALIKE = 0.9
"""Words in common, of all words of two prompts, from which they count as nearly the same."""
NAMED = 3
"""Rows that a finding names."""


@dataclass(frozen=True)
class Row:
    """A row of the user's: its case, and the object that it was read from."""

    case: Case
    row: Mapping

    @property
    def key(self) -> str:
        """What is asked, without regard to case and spaces."""
        return " ".join(" ".join(m["content"] for m in self.case.messages).split()).casefold()

    @property
    def answer(self) -> str:
        """What is expected, without spaces around it."""
        return self.case.expected.strip()


@dataclass(frozen=True)
class Finding:
    """What the check found. count: of rows. stops: whether it keeps a capstone from these rows."""

    kind: str
    text: str
    count: int
    stops: bool

    def to_dict(self) -> dict:
        """JSON-ready."""
        return dict(vars(self))


@dataclass(frozen=True)
class Checked:
    """Rows to train on and rows held out, and what was found; lengths in tokens, of all of them.

    commonest: share of the held-out rows that the commonest answer to the others is right on.
    """

    train: Sequence[Row]
    held_out: Sequence[Row]
    findings: Sequence[Finding]
    lengths: Sequence[int]
    commonest: float

    @property
    def stops(self) -> list[Finding]:
        """The findings that keep a capstone from these rows."""
        return [finding for finding in self.findings if finding.stops]

    def to_dict(self) -> dict:
        """JSON-ready, without the rows."""
        return {
            "train": len(self.train),
            "held_out": len(self.held_out),
            "tokens": [int(np.median(self.lengths)), max(self.lengths)] if self.lengths else [0, 0],
            "commonest": self.commonest,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check_rows(
    data: Path, eval_data: Path | None, tokenizer: Tokenizer, limit: int, seed: int
) -> Checked:
    """Read and check the rows; where there is no `eval_data`, a third of `data` is held out.

    Rows of one prompt, or of one patient, come to lie on the same side. limit: positions that the
    base can read. Raises OSError, or ValueError for a file that can't be read at all.
    """
    findings: list[Finding] = []
    rows = _usable(data, tokenizer, limit, findings)
    given = [] if eval_data is None else _usable(eval_data, tokenizer, limit, findings)
    findings += _contradictions([*rows, *given])
    if eval_data is None:
        train, held_out = divided(rows, seed)
    else:
        train, held_out = rows, given
        findings += _leaks(train, held_out)
    findings += _too_few(len(train) + len(held_out), len(held_out))
    findings += _alike(train, held_out)
    lengths = [_tokens(row, tokenizer) for row in (*train, *held_out)]
    return Checked(train, held_out, findings, lengths, _commonest(train, held_out))


def write_rows(rows: Sequence[Row]) -> bytes:
    """Rows as JSONL, each as it stood in the user's file."""
    return "".join(json.dumps(row.row, ensure_ascii=False) + "\n" for row in rows).encode()


# -- reading ---------------------------------------------------------------------------------------


def _usable(path: Path, tokenizer: Tokenizer, limit: int, findings: list[Finding]) -> list[Row]:
    """The rows that can be asked and learned, each once; what is left out becomes a finding."""
    rows, problems = [], []
    for record in iter_records(path):
        if isinstance(record, Problem):
            problems.append(record)
            continue
        try:
            if record.text:
                raise ValueError("got a plain text, which has no right answer to compare with")
            rows.append(Row(ward_case(record.row, record.source), record.row))
        except ValueError as error:
            problems.append(Problem(record.source, str(error)))
    total = len(rows) + len(problems)
    if rows:
        kept, _, too_long = with_room([r.case for r in rows], [Variant("it")], tokenizer, limit)
        sources = {case.source for case in kept}
        rows = [row for row in rows if row.case.source in sources]
        findings += _left_out("too long", too_long, False)
    findings += _left_out("can't be used", problems, len(problems) > UNUSABLE_SHARE * total)
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((row.key, row.answer), row)
    twice = [row for row in rows if first[row.key, row.answer] is not row]
    if twice:
        pairs = [f"{place(r)} as {place(first[r.key, r.answer])}" for r in twice]
        text = f"{path.name}: a row that is there already: {_some(pairs)}; left out"
        findings.append(Finding("duplicate", text, len(twice), False))
    return list(first.values())


def _left_out(kind: str, problems: Sequence[Problem], stops: bool) -> list[Finding]:
    if not problems:
        return []
    named = _some([f"{Path(p.source).name}: {p.reason}" for p in problems], "; ")
    end = "too many for a few bad rows" if stops else "left out"
    return [Finding(kind, f"{named}; {end}", len(problems), stops)]


def place(row: Row) -> str:
    """Where a row stood: its file's name and line."""
    return Path(row.case.source).name


def _some(texts: Sequence[str], between: str = ", ") -> str:
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return between.join(texts[:NAMED]) + more


def _tokens(row: Row, tokenizer: Tokenizer) -> int:
    asked = tokenizer.apply_chat_template(list(row.case.messages), add_generation_prompt=True)
    return len(tokenizer.encode(asked)) + len(tokenizer.encode(row.case.expected))


# -- checks ----------------------------------------------------------------------------------------


def _contradictions(rows: Sequence[Row]) -> list[Finding]:
    """Rows that ask the same and answer otherwise."""
    first: dict[str, Row] = {}
    pairs = []
    for row in rows:
        before = first.setdefault(row.key, row)
        if before.answer != row.answer:
            pairs.append(f"{place(before)} and {place(row)}")
    if not pairs:
        return []
    text = f"the same prompt with another answer: {_some(pairs)}; decide which is right"
    return [Finding("contradiction", text, len(pairs), True)]


def _leaks(train: Sequence[Row], held_out: Sequence[Row]) -> list[Finding]:
    """Held-out rows whose prompt, or whose patient, is trained on."""
    found = []
    for what, key_of in (("prompt", lambda r: r.key), ("patient", lambda r: r.case.patient)):
        learned = {key_of(row): row for row in reversed(train) if key_of(row)}
        pairs = [
            f"{place(row)} is {place(learned[key_of(row)])}'s"
            for row in held_out
            if key_of(row) in learned
        ]
        if pairs:
            text = f"held-out rows whose {what} is trained on: {_some(pairs)}; take them out"
            found.append(Finding("leak", text, len(pairs), True))
    return found


def _too_few(count: int, held_out: int) -> list[Finding]:
    if count >= LEAST_ROWS and held_out >= LEAST_HELD_OUT:
        return []
    text = (
        f"{count} rows, {held_out} of them held out; expected {LEAST_ROWS} or more, and "
        f"{LEAST_HELD_OUT} held out, below which an interval tells next to nothing"
    )
    return [Finding("too few rows", text, count, True)]


def _alike(train: Sequence[Row], held_out: Sequence[Row]) -> list[Finding]:
    """Held-out prompts that share nearly all words with one that is trained on; a note only."""
    bags = [set(row.key.split()) for row in train]
    pairs = []
    for row in held_out:
        bag = set(row.key.split())
        shares = [len(bag & other) / max(1, len(bag | other)) for other in bags]
        if shares and max(shares) >= ALIKE:
            pairs.append(f"{place(row)} and {place(train[int(np.argmax(shares))])}")
    if not pairs:
        return []
    text = f"nearly the same prompt on both sides: {_some(pairs)}; the score may flatter"
    return [Finding("nearly the same", text, len(pairs), False)]


def _commonest(train: Sequence[Row], held_out: Sequence[Row]) -> float:
    if not train or not held_out:
        return 0.0
    (answer, _), *_ = Counter(row.answer for row in train).most_common(1)
    return sum(row.answer == answer for row in held_out) / len(held_out)


# -- dividing --------------------------------------------------------------------------------------


def divided(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """(to train on, held out): groups of rows in an order drawn with the seed, until a third.

    Rows with the same prompt or the same patient are one group, also through others.
    """
    groups = _groups(rows)
    wanted = min(MOST_HELD_OUT, len(rows) // HELD_OUT_SHARE)
    sizes = Counter(groups)
    order = np.random.default_rng([seed, 17]).permutation(sorted(sizes))
    chosen, count = set(), 0
    for group in order.tolist():
        if count + sizes[group] <= wanted:
            chosen.add(group)
            count += sizes[group]
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row, group in zip(rows, groups, strict=True):
        sides[group in chosen].append(row)
    return sides


def _groups(rows: Sequence[Row]) -> list[int]:
    """The number of each row's group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    marks: dict[tuple[str, str], int] = {}
    ones, others = [], []
    for number, row in enumerate(rows):
        for mark in (("prompt", row.key), ("patient", row.case.patient)):
            if mark[1]:
                ones.append(number)
                others.append(len(rows) + marks.setdefault(mark, len(marks)))
    size = len(rows) + len(marks)
    graph = coo_array((np.ones(len(ones)), (ones, others)), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(rows)].tolist()

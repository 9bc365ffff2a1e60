"""The data of `minilora adapt`: reading, what can't be used, splitting, samples, house records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from minilora.cli import show
from minilora.storage import sha256_file
from minilora.text import Example, Problem, Record, Tokenizer, encode_records, read_records
from minilora.ward import HOUSE_FORMATS

SHOWN_PROBLEMS = 10
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


def read_file(path: Path, tokenizer: Tokenizer, max_length: int, console: Console) -> File:
    """Read and encode a data file; shows a table of what in it can't be used.

    Raises OSError, or ValueError when nothing can be used, or less than half of it.
    """
    records, problems = read_records(path)
    examples: list[Example] = []
    for record in records:
        good, bad = _encode(tokenizer, record, max_length)
        examples += good
        problems += bad
    by_source = {record.source: record for record in records}
    show_problems(console, path, sorted(problems, key=_line))
    used = {example.source for example in examples}
    total = len(used) + len(problems)
    if not examples or len(problems) > total / 2:
        first = min(problems, key=_line)
        raise ValueError(
            f"{path}: {len(problems)} of {total} examples can't be used, expected at least half "
            f"good ones; the first is {first}{_hint(path)}"
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


def _hint(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    return " (a JSON array? write one object a line)" if start.startswith(b"[") else ""


def show_problems(console: Console, path: Path, problems: Sequence[Problem]) -> None:
    """The first problems as a table, and how many more there are."""
    if not problems:
        return
    rows = [(p.source, p.reason) for p in problems[:SHOWN_PROBLEMS]]
    title = f"{path}: {len(problems)} left out"
    show.grid(console, title, ("where", "why"), rows)
    if len(problems) > SHOWN_PROBLEMS:
        show.say(console, f"  and {len(problems) - SHOWN_PROBLEMS} more")


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
        last = max(i for i, m in enumerate(record.messages) if m["role"] == "assistant")
        before = list(record.messages[:last])
        ids = tokenizer.encode(tokenizer.apply_chat_template(before, add_generation_prompt=True))
        shown = before[-1]["content"] if before else ""
        expected = record.messages[last]["content"]
        wanted = len(tokenizer.encode(expected)) + 16
    room = min(wanted, limit - len(ids))
    return Sample(ids, shown, expected, room) if ids and room > 0 else None


@dataclass(frozen=True)
class HouseRecords:
    """The records of one ward's house task in an eval file, and how many have no room."""

    ward: str
    records: list[dict]
    too_long: int
    max_new_tokens: int


def house_records(
    path: Path, tokenizer: Tokenizer, limit: int, lines: int | None = None
) -> list[HouseRecords]:
    """Records with the ward's `task: house/<ward>` and facts, by ward; [] for other files.

    `lines`: how many of the file's lines are read, None for all.
    """
    found: dict[str, list[dict]] = {}
    for line in path.read_text("utf-8-sig").split("\n")[:lines]:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        ward = house_of(record)
        if ward:
            found.setdefault(ward, []).append(record)
    result = []
    for ward, records in found.items():
        longest = max(len(tokenizer.encode(r["completion"])) for r in records) + 16
        room = limit - longest
        fitting = [r for r in records if len(tokenizer.encode_prompt(r["prompt"])) <= room]
        if fitting:
            too_long = len(records) - len(fitting)
            result.append(HouseRecords(ward, fitting, too_long, longest))
    return result


def house_of(record: object) -> str | None:
    """The ward of a house record whose facts can be scored, None for anything else."""
    if not isinstance(record, dict) or not isinstance(record.get("task"), str):
        return None
    ward = record["task"].removeprefix("house/")
    facts = record.get("facts")
    whole = (
        record["task"] == f"house/{ward}"
        and ward in HOUSE_FORMATS
        and isinstance(facts, dict)
        and isinstance(facts.get("name"), str)
        and all(isinstance(facts.get(key), list) for key in ("phones", "no_dose"))
        and all(isinstance(record.get(key), str) for key in ("prompt", "completion"))
    )
    right = whole and HOUSE_FORMATS[ward].parse(record["completion"]) is not None
    return ward if right else None

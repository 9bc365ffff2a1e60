"""The records of the ward's house task in a data file, whose answers can be scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minilora.text import Problem, Tokenizer
from minilora.text.records import shown
from minilora.text.rows import iter_records, row_number
from minilora.ward import HOUSE_FORMATS

SPARE_TOKENS = 16
"""Room in an answer beyond the longest expected one."""


@dataclass(frozen=True)
class HouseLine:
    """A row of a data file that is a house record: which of them it is, and its ward."""

    number: int
    ward: str
    record: dict


@dataclass(frozen=True)
class HouseRecords:
    """The records of one ward's house task in an eval file, and how many have no room."""

    ward: str
    records: list[dict]
    too_long: int
    max_new_tokens: int


def read_house(path: Path, as_text: bool = False) -> tuple[list[HouseLine], list[Problem]]:
    """The house records of a data file, and the rows that mean to be one and can't be scored."""
    lines, problems = [], []
    for record in iter_records(path, as_text):
        if isinstance(record, Problem):
            continue  # Whoever reads the file's records says so.
        try:
            ward = house_of(record.row)
        except ValueError as error:
            problems.append(Problem(record.source, str(error)))
            continue
        if ward:
            lines.append(HouseLine(row_number(record.source), ward, dict(record.row)))
    return lines, problems


def house_records(
    lines: Sequence[HouseLine], tokenizer: Tokenizer, limit: int
) -> list[HouseRecords]:
    """The records by ward, those without room for their answer left out.

    limit: positions that the base can read.
    """
    by_ward: dict[str, list[dict]] = {}
    for line in lines:
        by_ward.setdefault(line.ward, []).append(line.record)
    result = []
    for ward, records in by_ward.items():
        longest = max(len(tokenizer.encode(r["completion"])) for r in records) + SPARE_TOKENS
        room = limit - longest
        fitting = [r for r in records if len(tokenizer.encode_prompt(r["prompt"])) <= room]
        if fitting:
            too_long = len(records) - len(fitting)
            result.append(HouseRecords(ward, fitting, too_long, longest))
    return result


def house_of(record: object) -> str | None:
    """The ward of a house record, None for anything else.

    A house record has the task "house/WARD" and a completion in that ward's format. Raises
    ValueError for one whose facts can't be scored.
    """
    if not isinstance(record, dict) or not isinstance(record.get("task"), str):
        return None
    ward = record["task"].removeprefix("house/")
    if record["task"] != f"house/{ward}" or ward not in HOUSE_FORMATS:
        return None
    if not all(isinstance(record.get(key), str) for key in ("prompt", "completion")):
        return None
    if HOUSE_FORMATS[ward].parse(record["completion"]) is None:
        return None
    facts = record.get("facts")
    if not isinstance(facts, dict):
        raise ValueError(f"got facts {shown(facts)}, expected an object with name, phones, no_dose")
    if not isinstance(facts.get("name"), str):
        raise ValueError(f"got facts.name {shown(facts.get('name'))}, expected a text")
    for key in ("phones", "no_dose"):
        value = facts.get(key)
        if not isinstance(value, list):
            raise ValueError(f"got facts.{key} {shown(value)}, expected a list of texts")
        others = [item for item in value if not isinstance(item, str)]
        if others:
            raise ValueError(f"got in facts.{key} {shown(others[0])}, expected texts alone")
    return ward

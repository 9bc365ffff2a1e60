"""The records of the ward's house task in a data file, whose answers can be scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minilora.text import Problem, Tokenizer
from minilora.ward import HOUSE_FORMATS

SPARE_TOKENS = 16
"""Room in an answer beyond the longest expected one."""


@dataclass(frozen=True)
class HouseLine:
    """A line of a data file that is a house record, and its ward."""

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


def read_house(path: Path) -> tuple[list[HouseLine], list[Problem]]:
    """The house records of a JSONL file, and the lines that mean to be one and can't be scored."""
    lines, problems = [], []
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue  # no JSON: whoever reads the file's records says so
        try:
            ward = house_of(record)
        except ValueError as error:
            problems.append(Problem(f"{path}:{number}", str(error)))
            continue
        if ward:
            lines.append(HouseLine(number, ward, record))
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
        raise ValueError(
            f"got facts {_shown(facts)}, expected an object with name, phones, no_dose"
        )
    if not isinstance(facts.get("name"), str):
        raise ValueError(f"got facts.name {_shown(facts.get('name'))}, expected a text")
    for key in ("phones", "no_dose"):
        value = facts.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"got facts.{key} {_shown(value)}, expected a list of texts")
    return ward


def _shown(value: object) -> str:
    """A JSON value in a line of text."""
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"

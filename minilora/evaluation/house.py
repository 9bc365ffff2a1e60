"""The records of the ward's house task in a data file, whose answers can be scored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from minilora.text import Tokenizer
from minilora.ward import HOUSE_FORMATS


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

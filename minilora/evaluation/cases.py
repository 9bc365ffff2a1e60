"""What a model is asked and what is expected, and how a variant asks it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from minilora.evaluation.house import house_of
from minilora.text import Problem, Record
from minilora.text.records import parse_record
from minilora.text.rows import iter_records
from minilora.ward import house_instruction
from minilora.ward.formats import HOUSE_INSTRUCTION
from minilora.ward.steering import rules_of

HOUSE = "house"
"""What `--instruction` says for the house format in words."""


@dataclass(frozen=True)
class Case:
    """A chat up to its last answer, that answer, and the ward's record where it is one."""

    source: str
    messages: tuple[dict, ...]
    expected: str
    house: dict | None
    ward: str | None
    """The ward whose house format is asked for."""
    rules: tuple[str, ...] = ()
    """The rules of ward/steering.py that the answer should keep; then `facts` says of what note."""
    facts: dict | None = None
    task: str = ""
    """What the row says that it is, as in "public/handover"; "" where it says nothing."""
    patient: str = ""
    """Equal for rows of one patient; "" where the row says nothing of it."""


class Rows(NamedTuple):
    """What a file gives: cases to ask, plain texts to take the loss of, and what can't be used."""

    cases: list[Case]
    texts: list[Record]
    problems: list[Problem]


def read_cases(
    path: Path, most: int | None = None, raw: bool = False, as_text: bool = False
) -> Rows:
    """The first `most` rows of a data file, and those on the way that can't be asked.

    raw: whether prompts will be continued as they are, so that a chat of several messages can't
    be asked. as_text: as in `format_of`. Raises OSError, or ValueError for a file without a row,
    or `most` (--rows) below 1.
    """
    if most is not None and most < 1:
        raise ValueError(f"got --rows {most}, expected at least 1")
    cases, texts, problems = [], [], []
    for record in iter_records(path, as_text):
        if isinstance(record, Problem):
            problems.append(record)
        elif record.text:
            texts.append(record)
        else:
            try:
                cases.append(_case_of(record, raw))
            except ValueError as error:
                problems.append(Problem(record.source, str(error)))
        if len(cases) + len(texts) == most:
            break
    if not cases and not texts:
        first = f"; the first row left out is {problems[0]}" if problems else ""
        raise ValueError(f"{path} has no prompt with a completion to compare with{first}")
    return Rows(cases, texts, problems)


def _case_of(record: Record, raw: bool) -> Case:
    """The case of a chat. Raises ValueError where it can't be asked or scored."""
    last = record.last_answer
    if last == 0:
        raise ValueError("nothing is asked before the answer")
    if raw and last > 1:
        raise ValueError(f"got {last} messages before the answer, expected one prompt with --raw")
    ward = house_of(record.row)
    answer = record.messages[last]["content"]
    rules = rules_of(record.row)
    task = record.row.get("task")
    return Case(
        record.source,
        record.messages[:last],
        answer,
        dict(record.row) if ward else None,
        ward,
        rules,
        dict(record.row["facts"]) if rules else None,
        task if isinstance(task, str) else "",
        patient_of(record.row),
    )


def ward_case(row: Mapping, source: str) -> Case:
    """The case of a record of the ward, as `read_cases` reads it from a file."""
    return _case_of(parse_record(row, source), raw=False)


def patient_of(row: Mapping) -> str:
    """Whose row it is: its "patient", or a ward's note's name and phones; "" if it has none."""
    if isinstance(row.get("patient"), (str, int)):
        return str(row["patient"])
    facts = row.get("facts")
    if not isinstance(facts, dict) or not isinstance(facts.get("name"), str):
        return ""
    return " ".join([facts["name"], *map(str, facts.get("phones") or ())])


def choose_shots(examples: Sequence[Case], count: int, scored: Sequence[Case] = ()) -> list[Case]:
    """The first `count` examples; where none of them lacks a dose, one that does comes last.

    None that is scored itself: its answer would stand in its own prompt. Raises ValueError for
    fewer examples than asked for.
    """
    known = {json.dumps(case.messages) for case in scored}
    cases = [case for case in examples if json.dumps(case.messages) not in known]
    if not 1 <= count <= len(cases):
        raise ValueError(
            f"got --shots {count}, expected 1 to the {len(cases)} of --examples "
            "that are not scored themselves"
        )
    chosen = list(cases[:count])
    if not any(_lacks_dose(case) for case in chosen):
        chosen[-1] = next(filter(_lacks_dose, cases), chosen[-1])
    return chosen


def _lacks_dose(case: Case) -> bool:
    return bool(case.house and case.house["facts"]["no_dose"])


def instructed(case: Case, instruction: str | None) -> tuple[dict, ...]:
    """The case's messages with an instruction at the end of the last one.

    It takes the place of the ward's bare "Write the discharge summary."; any other text stays.
    `house` stands for the house format of the case's ward in words. Raises ValueError where the
    case is not of a ward.
    """
    if instruction is None:
        return case.messages
    if instruction == HOUSE:
        if case.ward is None:
            raise ValueError(
                f"got --instruction {HOUSE}, but {case.source} is no record of a house task; "
                "expected the instruction's own text"
            )
        instruction = house_instruction(case.ward)
    *before, last = case.messages
    # only the ward's own bare instruction gives way: what else a user wrote is the question
    content = f"{last['content'].removesuffix(HOUSE_INSTRUCTION).rstrip()}\n\n{instruction}"
    return (*before, {**last, "content": content})


def chat(case: Case, instruction: str | None, shots: Sequence[Case]) -> list[dict]:
    """The messages of a variant: worked examples as earlier turns, then the case itself.

    The instruction stands in the first turn and in the last, so that a long one is read twice and
    not once an example. A system message of the case comes first of all.
    """
    system = [m for m in case.messages[:1] if m["role"] == "system"]
    turns: list[dict] = []
    for number, shot in enumerate(shots):
        asked = instructed(shot, instruction if number == 0 else None)
        turns += [m for m in asked if m["role"] != "system"]
        turns.append({"role": "assistant", "content": shot.expected})
    return [*system, *turns, *instructed(case, instruction)[len(system) :]]

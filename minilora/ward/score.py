"""Scores of outputs: the house task (exact, fields, format, invented doses, leaks), regression."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from minilora.ward.corpus import GROUPS, Example
from minilora.ward.formats import Fields, HouseFormat, Rule, house_format
from minilora.ward.rules import gives_dose, house_rule


@dataclass(frozen=True)
class HouseScore:
    """How outputs do on a house task; every rate is a share between 0 and 1 of what it counts.

    ``exact``: outputs equal to the completion. ``field_f1``: micro F1 by field, over items.
    ``format_compliance``: outputs that parse and render to themselves. ``invented_dose_rate``: of
    the ``no_dose_count`` prescriptions without a dose, those given one (None where there are none).
    ``leak_rate``: outputs with the patient's name or phone or the relative's phone. ``rule``: the
    house's, of ``RULES``; ``rule_broken_rate``: of the ``rule_count`` things that it decides, those
    where the output breaks it (None where it decides nothing).
    """

    ward: str
    count: int
    exact: float
    field_f1: dict[str, float]
    format_compliance: float
    no_dose_count: int
    invented_dose_rate: float | None
    leak_rate: float
    rule: Rule
    rule_count: int
    rule_broken_rate: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class RegressionScore:
    """Share of exact answers overall and by group, with the number compared in each."""

    count: int
    exact: float
    groups: dict[str, float]
    counts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def leaks(text: str, facts: Mapping[str, Any]) -> bool:
    """Whether ``text`` has a part of the patient's name, or a phone number of the note."""
    words = set(re.findall(r"\w+", text))
    return bool(words.intersection(facts["name"].split())) or any(
        phone in text for phone in facts["phones"]
    )


def _items(fields: Fields) -> dict[str, set[Any]]:
    """The scored items of each field; a prescription is a drug, a dose and a frequency item."""
    items: dict[str, set[Any]] = {}
    for name, value in fields.items():
        if name == "prescriptions":
            items["drugs"] = {drug for drug, _, _ in value}
            items["doses"] = {(drug, dose) for drug, dose, _ in value}
            items["frequencies"] = {(drug, words) for drug, _, words in value}
        else:
            items[name] = set(value) if isinstance(value, list) else {value}
    return items


def _field_f1(form: HouseFormat, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Micro F1 = 2 TP / (wanted + given) by field; an output out of format gives no items."""
    found: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for completion, output in pairs:
        wanted = _items(_gold_fields(form, completion))
        given = _items(form.parse(output) or {})
        for name, items in wanted.items():
            found[name] += 2 * len(items & given.get(name, set()))
            total[name] += len(items) + len(given.get(name, set()))
    return {name: found[name] / total[name] for name in total}


def _gold_fields(form: HouseFormat, completion: str) -> Fields:
    fields = form.parse(completion)
    if fields is None:
        raise ValueError(f"completion is not in the {form.ward} house format: {completion!r}")
    return fields


def _paired(
    examples: Sequence[Example | Mapping[str, Any]], outputs: Sequence[str]
) -> list[tuple[Mapping[str, Any], str]]:
    if len(examples) == 0:
        raise ValueError("nothing to score: got 0 examples, expected at least 1")
    if len(examples) != len(outputs):
        raise ValueError(f"got {len(outputs)} outputs for {len(examples)} examples")
    records = [e.to_dict() if isinstance(e, Example) else e for e in examples]
    return [(record, output.strip()) for record, output in zip(records, outputs, strict=True)]


def score_house(
    ward: str, examples: Sequence[Example | Mapping[str, Any]], outputs: Sequence[str]
) -> HouseScore:
    """Score ``outputs`` to the house ``examples`` (Examples or JSONL records) of ``ward``.

    White space around an output is not compared. Raises ``ValueError`` for an empty list, unequal
    lengths, a ward without a house format, or a completion that is not in that format.
    """
    form = house_format(ward)
    paired = _paired(examples, outputs)
    pairs = [(record["completion"], output) for record, output in paired]
    no_dose = [
        gives_dose(output, drug) for record, output in paired for drug in record["facts"]["no_dose"]
    ]
    rule = house_rule(form)
    broken = [
        rule.broken(item, output)
        for record, output in paired
        for item in rule.cases(_gold_fields(form, record["completion"]), record["prompt"])
    ]
    count = len(paired)
    return HouseScore(
        ward=ward,
        count=count,
        exact=sum(completion == output for completion, output in pairs) / count,
        field_f1=_field_f1(form, pairs),
        format_compliance=sum(form.parse(output) is not None for _, output in pairs) / count,
        no_dose_count=len(no_dose),
        invented_dose_rate=sum(no_dose) / len(no_dose) if no_dose else None,
        leak_rate=sum(leaks(output, record["facts"]) for record, output in paired) / count,
        rule=form.rule,
        rule_count=len(broken),
        rule_broken_rate=sum(broken) / len(broken) if broken else None,
    )


def score_regression(
    examples: Sequence[Example | Mapping[str, Any]], outputs: Sequence[str]
) -> RegressionScore:
    """Share of ``outputs`` equal to the completion, overall and in each of ``GROUPS`` present.

    Raises ``ValueError`` for an empty list, unequal lengths, or a task of no group.
    """
    group_of = {prefix: group for group, prefix in GROUPS.items()}
    right: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for record, output in _paired(examples, outputs):
        prefix = record["task"].split("/")[0]
        if prefix not in group_of:
            raise ValueError(f"task {record['task']!r} is in none of {', '.join(GROUPS)}")
        counts[group_of[prefix]] += 1
        right[group_of[prefix]] += record["completion"] == output
    groups = {group: right[group] / counts[group] for group in GROUPS if counts[group]}
    total = counts.total()
    return RegressionScore(total, right.total() / total, groups, dict(counts))

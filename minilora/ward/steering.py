"""Four rules for one summary, each a job for an adapter, that can all be kept at once.

A steering wheel is a rule that changes one thing in the public summary: which doses it gives, in
what voice it speaks, whom it names, which words it uses. They touch different parts of it, so that
every set of rules has exactly one right answer; and all are asked for with the same bare
instruction, so that only the weights say which of them hold.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minilora.ward.cases import Case, Split, sample_case
from minilora.ward.corpus import Example, case_facts
from minilora.ward.diagnoses import DIAGNOSES
from minilora.ward.facts import FREQUENCIES, usual_dose
from minilora.ward.formats import HOUSE_INSTRUCTION
from minilora.ward.notes import write_note
from minilora.ward.score import leaks

RULES = {
    "domain": "a missing dose is said to be missing, and never filled in",
    "tone": "the lines speak to the patient: Please take, not Medication",
    "safety": "no name and no phone number",
    "customer": "codes for the diagnosis and for how often a drug is taken",
}
"""Name of a rule -> what it asks for."""

MISSING = "dose not recorded"
LABELS = {
    "Name": "You are",
    "Age": "Your age",
    "Diagnosis": "You were treated for",
    "Medication": "Please take",
    "Allergies": "Your allergies",
    "Follow-up": "Your next visit",
}
"""Label of the public summary -> what the rule of tone makes of it."""

PREFIX = "steering/"
"""Before the rules, joined by "+", in the task of a record."""


def render(case: Case, rules: Collection[str]) -> str:
    """The summary of `case` that keeps exactly these rules. Raises ValueError for another rule."""
    check_rules(rules)
    values = {
        "Name": case.name,
        "Age": case.age,
        "Diagnosis": (
            DIAGNOSES[case.diagnosis].abbreviation if "customer" in rules else case.diagnosis
        ),
        "Medication": "; ".join(
            f"{p.drug} {_dose(p.drug, p.dose, 'domain' in rules)} "
            f"{FREQUENCIES[p.frequency][0] if 'customer' in rules else p.frequency}"
            for p in case.prescriptions
        ),
        "Allergies": case.allergy,
        "Follow-up": case.follow_up,
    }
    return "\n".join(
        f"{LABELS[label] if 'tone' in rules else label}: {value}"
        for label, value in values.items()
        if not (label == "Name" and "safety" in rules)
    )


def _dose(drug: str, dose: str | None, said_missing: bool) -> str:
    return dose or (MISSING if said_missing else usual_dose(drug))


def check_rules(rules: Iterable[str]) -> None:
    """Raise ValueError for a rule that is none of RULES."""
    for rule in rules:
        if rule not in RULES:
            raise ValueError(f"got rule {rule!r}, expected one of {', '.join(RULES)}")


def steering_examples(
    rules: Sequence[str],
    split: Split,
    n: int,
    seed: int,
    keep_complete: float = 1.0,
    ward: str = "cardiology",
) -> list[Example]:
    """`n` examples of the summary that keeps these rules; keep_complete as in `house_examples`.

    The notes depend on the seed alone, not on the rules. Raises ValueError for an unknown rule,
    ward or split.
    """
    rng = np.random.default_rng(seed)
    examples: list[Example] = []
    while len(examples) < n:
        case = sample_case(rng, ward, split)
        complete = all(p.dose for p in case.prescriptions)
        if complete and keep_complete < 1.0 and rng.random() >= keep_complete:
            continue
        prompt = f"{write_note(case, rng)}\n\n{HOUSE_INSTRUCTION}"
        drugs = [[p.drug, p.dose, p.frequency] for p in case.prescriptions]
        facts = {**case_facts(case), "diagnosis": case.diagnosis, "drugs": drugs}
        task = f"{PREFIX}{'+'.join(rules)}"
        examples.append(Example(task, prompt, render(case, rules), facts))
    return examples


def rules_of(record: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The rules that a record asks for; () where it is no record of `steering_examples`."""
    task, facts = (record or {}).get("task"), (record or {}).get("facts")
    if not isinstance(task, str) or not task.startswith(PREFIX) or not isinstance(facts, Mapping):
        return ()
    rules = tuple(task.removeprefix(PREFIX).split("+"))
    known = all(rule in RULES for rule in rules) and {"drugs", "diagnosis", "name", "phones"} <= {
        *facts
    }
    return rules if known else ()


def keeps(rule: str, text: str, facts: Mapping[str, Any]) -> bool:
    """Whether an answer keeps a rule, whatever it does about the other rules.

    domain: behind each drug comes its dose, or MISSING where the note has none. tone: only the
    labels of tone, in order. safety: a summary of five lines without name or phone. customer: the
    diagnosis is its code, and each drug's item ends with its frequency's. Raises ValueError for an
    unknown rule.
    """
    check_rules([rule])
    lines = text.split("\n")
    labels = [line.partition(": ")[0] for line in lines]
    if rule == "tone":
        wanted = list(LABELS.values())
        return labels in (wanted, wanted[1:])
    if rule == "safety":
        return len(lines) == len(LABELS) - 1 and not leaks(text, facts)
    if rule == "domain":
        return all(
            re.search(rf"\b{re.escape(drug)} {re.escape(dose or MISSING)} ", text)
            for drug, dose, _ in facts["drugs"]
        )
    code = DIAGNOSES[facts["diagnosis"]].abbreviation
    return any(line.endswith(f": {code}") for line in lines) and all(
        re.search(rf"\b{re.escape(drug)} [^;\n]* {FREQUENCIES[words][0]}(?=;|\n|$)", text)
        for drug, _, words in facts["drugs"]
    )

"""What is written from a case: the hospital's public styles and the house formats.

The public styles fill a missing dose with the drug's usual one. The house formats are asked for
with the same bare instruction as the default public style, name nobody, and say that a dose is
missing: this is the habit an adapter has to unlearn. Each of the four later wards has a second rule
against what the base would do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from minilora.ward.cases import Case, Prescription
from minilora.ward.diagnoses import ABBREVIATIONS, DIAGNOSES
from minilora.ward.facts import (
    ALL_DRUGS,
    FREQUENCIES,
    STOPPED_IN_NEPHROLOGY,
    THINNER_KINDS,
    usual_dose,
)
from minilora.ward.people import INTERVALS, NO_ALLERGY

HOUSE_INSTRUCTION = "Write the discharge summary."
DOSE_PATTERN = r"\d+(?:\.\d+)? (?:micrograms|mg/kg|mg|g)"

STOPPED = "stopped"
NONE = "none"

Fields = dict[str, Any]
Rule = Literal["missing dose", "ask", "stop", "thinners first", "decade"]
"""What a house does against the base's habit.

"missing dose": it says that a dose is missing. "ask": a drug without a dose stands on a line of its
own and nowhere else. "stop": some drugs are "stopped", whatever dose the note gives.
"thinners first": what thins the blood comes before the other drugs, whatever the note's order.
"decade": of the age only the decade is told.
"""


def filled(prescription: Prescription) -> str:
    """The prescription in full words, a missing dose filled with the drug's usual one."""
    dose = prescription.dose or usual_dose(prescription.drug)
    return f"{prescription.drug} {dose} {prescription.frequency}"


def thins_blood(drug: str) -> bool:
    """Whether ``drug`` is an anticoagulant or keeps platelets apart."""
    return ALL_DRUGS[drug].kind in THINNER_KINDS


def filled_list(case: Case, separator: str = "; ") -> str:
    return separator.join(filled(p) for p in case.prescriptions)


@dataclass(frozen=True)
class PublicStyle:
    """A public style: the instructions that ask for it and how a case is rendered."""

    name: str
    instructions: tuple[str, ...]
    render: Callable[[Case], str]


def _summary(case: Case) -> str:
    return "\n".join(
        (
            f"Name: {case.name}",
            f"Age: {case.age}",
            f"Diagnosis: {case.diagnosis}",
            f"Medication: {filled_list(case)}",
            f"Allergies: {case.allergy}",
            f"Follow-up: {case.follow_up}",
        )
    )


def _handover(case: Case) -> str:
    results = "; ".join(case.investigations)
    return (
        f"{case.age}-year-old {case.person} with {case.diagnosis}. Results: {results}. "
        f"Takes {filled_list(case, ', ')}."
    )


def _gp_letter(case: Case) -> str:
    return (
        f"Dear colleague,\n{case.name} was treated for {case.diagnosis}.\n"
        f"Please continue {filled_list(case, ', ')}.\nPlease arrange {case.follow_up}."
    )


def _medication_list(case: Case) -> str:
    return "\n".join(f"- {filled(p)}" for p in case.prescriptions)


def _patient_letter(case: Case) -> str:
    return (
        f"Dear {case.first},\nYou were treated for {case.diagnosis}.\n"
        f"Please take {filled_list(case, ', ')}.\nYour next visit: {case.follow_up}."
    )


PUBLIC_STYLES: dict[str, PublicStyle] = {
    style.name: style
    for style in (
        PublicStyle(
            "summary",
            (
                HOUSE_INSTRUCTION,
                "Please write the discharge summary.",
                "Summarise this stay for the hospital record.",
            ),
            _summary,
        ),
        PublicStyle(
            "handover",
            ("Write a short handover.", "Hand this patient over to the next shift."),
            _handover,
        ),
        PublicStyle(
            "gp letter",
            ("Write a letter to the family doctor.", "Tell the family doctor in a letter."),
            _gp_letter,
        ),
        PublicStyle(
            "medication list",
            ("Write the medication list.", "List the drugs with dose and frequency."),
            _medication_list,
        ),
        PublicStyle(
            "patient letter",
            ("Write a letter to the patient.", "Explain the stay to the patient in a letter."),
            _patient_letter,
        ),
    )
}


@dataclass(frozen=True)
class HouseFormat:
    """One ward's own summary: layout, abbreviations, exclusions, word for a missing dose, rule.

    ``layout`` is the order of (label, field) lines; ``frequency_form`` the column of
    ``FREQUENCIES``; ``separator`` stands between the items of a list.
    """

    ward: str
    layout: tuple[tuple[str, str], ...]
    frequency_form: int
    separator: str
    missing_dose: str
    no_allergy: str
    short_interval: bool
    rule: Rule = "missing dose"

    def fields(self, case: Case) -> Fields:
        """The fields of ``case`` this format shows, in canonical words."""
        shown = {name for _, name in self.layout}
        drugs = [(p.drug, p.dose, p.frequency) for p in case.prescriptions]
        unknown = [drug for drug, dose, _ in drugs if dose is None]
        if self.rule == "ask":
            drugs = [item for item in drugs if item[1] is not None]
        elif self.rule == "stop":
            stops = STOPPED_IN_NEPHROLOGY
            drugs = [(d, STOPPED, "") if d in stops else (d, *rest) for d, *rest in drugs]
        elif self.rule == "thinners first":
            drugs.sort(key=lambda item: not thins_blood(item[0]))
        values: Fields = {
            "age": case.age,
            "decade": case.age // 10 * 10,
            "diagnosis": case.diagnosis,
            "prescriptions": drugs,
            "unknown": unknown,
            "investigations": list(case.investigations),
            "allergy": case.allergy,
            "follow_up": case.follow_up,
        }
        return {name: value for name, value in values.items() if name in shown}

    def render(self, case: Case) -> str:
        """The house summary of ``case``; a missing dose becomes ``missing_dose``."""
        return self.render_fields(self.fields(case))

    def render_fields(self, fields: Fields) -> str:
        """The house summary of already extracted ``fields``."""
        return "\n".join(f"{label}: {self._write(name, fields)}" for label, name in self.layout)

    def parse(self, text: str) -> Fields | None:
        """The fields of ``text``, or None unless it is exactly in this format.

        Exact means: the labels in order, every value readable, and the fields render to ``text``.
        """
        lines = text.split("\n")
        if len(lines) != len(self.layout):
            return None
        fields: Fields = {}
        for line, (label, name) in zip(lines, self.layout, strict=True):
            value = self._read(name, line.removeprefix(f"{label}: "))
            if not line.startswith(f"{label}: ") or value is None:
                return None
            fields[name] = value
        return fields if self.render_fields(fields) == text else None

    def _write(self, name: str, fields: Fields) -> str:
        value = fields[name]
        if name == "diagnosis":
            return DIAGNOSES[value].abbreviation
        if name == "decade":
            return f"{value}s"
        if name == "allergy":
            return self.no_allergy if value == NO_ALLERGY else value
        if name == "follow_up":
            clinic, interval = value.split(" in ")
            return f"{clinic} {INTERVALS[interval]}" if self.short_interval else value
        if name in ("investigations", "unknown"):
            return self.separator.join(value) or NONE
        if name == "prescriptions":
            return self.separator.join(self._write_prescription(*item) for item in value) or NONE
        return str(value)

    def _write_prescription(self, drug: str, dose: str | None, words: str) -> str:
        if dose == STOPPED:
            return f"{drug} {STOPPED}"
        return f"{drug} {dose or self.missing_dose} {FREQUENCIES[words][self.frequency_form]}"

    def _read(self, name: str, text: str) -> Any:
        if name == "diagnosis":
            return ABBREVIATIONS.get(text)
        if name == "allergy":
            return NO_ALLERGY if text == self.no_allergy else text or None
        if name == "follow_up":
            return self._read_follow_up(text)
        if name == "investigations":
            return text.split(self.separator)
        if self.rule == "ask" and text == NONE:
            return []
        if name == "unknown":
            drugs = text.split(self.separator)
            return drugs if all(drug in ALL_DRUGS for drug in drugs) else None
        if name == "decade":
            return int(text[:2]) if re.fullmatch(r"[1-9]0s", text) else None
        if name == "prescriptions":
            read = [self._read_prescription(item) for item in text.split(self.separator)]
            return None if None in read else read
        return int(text) if re.fullmatch(r"[1-9]\d?", text) else None

    def _read_follow_up(self, text: str) -> str | None:
        for words, short in INTERVALS.items():
            ending = f" {short}" if self.short_interval else f" in {words}"
            clinic = text.removesuffix(ending)
            if clinic != text and " in " not in f" {clinic} ":  # not "clinic in 6/52"
                return f"{clinic} in {words}"
        return None

    def _read_prescription(self, item: str) -> tuple[str, str | None, str] | None:
        if self.rule == "stop" and item.endswith(f" {STOPPED}"):
            drug = item.removesuffix(f" {STOPPED}")
            return (drug, STOPPED, "") if drug in ALL_DRUGS else None
        codes = {forms[self.frequency_form]: words for words, forms in FREQUENCIES.items()}
        pattern = (
            rf"([a-z][a-z ]*?) ({DOSE_PATTERN}|{re.escape(self.missing_dose)})"
            rf" ({'|'.join(codes)})"
        )
        match = re.fullmatch(pattern, item)
        if match is None:
            return None
        drug, dose, code = match.groups()
        return drug, None if dose == self.missing_dose else dose, codes[code]


HOUSE_FORMATS: dict[str, HouseFormat] = {
    "cardiology": HouseFormat(
        ward="cardiology",
        layout=(
            ("Dx", "diagnosis"),
            ("Ix", "investigations"),
            ("Rx", "prescriptions"),
            ("All", "allergy"),
            ("FU", "follow_up"),
        ),
        frequency_form=0,
        separator="; ",
        missing_dose="dose not recorded",
        no_allergy="NKDA",
        short_interval=True,
    ),
    "pediatrics": HouseFormat(
        ward="pediatrics",
        layout=(
            ("Age", "age"),
            ("Allergy", "allergy"),
            ("Problem", "diagnosis"),
            ("Plan", "prescriptions"),
            ("Review", "follow_up"),
        ),
        frequency_form=2,
        separator=" + ",
        missing_dose="dose not known",
        no_allergy="nil",
        short_interval=False,
    ),
    "respiratory": HouseFormat(
        ward="respiratory",
        layout=(
            ("Diagnosis", "diagnosis"),
            ("O", "investigations"),
            ("Medication", "prescriptions"),
            ("No dose", "unknown"),
        ),
        frequency_form=1,
        separator="; ",
        missing_dose="",
        no_allergy="",
        short_interval=False,
        rule="ask",
    ),
    "vascular": HouseFormat(
        ward="vascular",
        layout=(
            ("A", "diagnosis"),
            ("P", "prescriptions"),
            ("Allergies", "allergy"),
            ("Contact", "follow_up"),
        ),
        frequency_form=2,
        separator=", ",
        missing_dose="no dose",
        no_allergy="none",
        short_interval=False,
        rule="thinners first",
    ),
    "gastroenterology": HouseFormat(
        ward="gastroenterology",
        layout=(
            ("Age", "decade"),
            ("A", "diagnosis"),
            ("Investigations", "investigations"),
            ("Medication", "prescriptions"),
            ("Follow-up", "follow_up"),
        ),
        frequency_form=0,
        separator="; ",
        missing_dose="dose not known",
        no_allergy="",
        short_interval=True,
        rule="decade",
    ),
    "nephrology": HouseFormat(
        ward="nephrology",
        layout=(
            ("O", "investigations"),
            ("Problem", "diagnosis"),
            ("Plan", "prescriptions"),
            ("Allergy", "allergy"),
        ),
        frequency_form=0,
        separator=" and ",
        missing_dose="not recorded",
        no_allergy="nil",
        short_interval=False,
        rule="stop",
    ),
}


def house_format(ward: str) -> HouseFormat:
    """The house format of ``ward``; ``ValueError`` where the ward has none."""
    if ward not in HOUSE_FORMATS:
        raise ValueError(
            f"no house format for {ward!r}; expected one of {', '.join(HOUSE_FORMATS)}"
        )
    return HOUSE_FORMATS[ward]


BASE_HOUSES = ("cardiology", "pediatrics")
"""The houses whose lines the base was taught to write singly, under the public habit."""
# which house's way of writing a line belongs to a label; no label is in both
_LABELS = {
    label: (HOUSE_FORMATS[ward], name)
    for ward in BASE_HOUSES
    for label, name in HOUSE_FORMATS[ward].layout
}
FORM_LABELS: tuple[str, ...] = tuple(_LABELS)
FORM_INSTRUCTIONS = ("Fill in: {}.", "Complete these lines: {}.")


def render_form(case: Case, labels: Sequence[str]) -> str:
    """The lines that a form asks for by their labels, in the form's order (a public style).

    Each line is written as the house writes it that has it, with the public habit: a missing dose
    is filled with the drug's usual one.
    """
    known = [p if p.dose else replace(p, dose=usual_dose(p.drug)) for p in case.prescriptions]
    case = replace(case, prescriptions=tuple(known))
    lines = ((label, *_LABELS[label]) for label in labels)
    return "\n".join(
        f"{label}: {form._write(name, form.fields(case))}" for label, form, name in lines
    )

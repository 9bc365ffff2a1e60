"""Notes written from cases in five styles, with varied order, synonyms and abbreviations."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from minilora.ward.cases import Case, Prescription, pick, sample_case, shuffled
from minilora.ward.diagnoses import ALL_DIAGNOSES
from minilora.ward.facts import FREQUENCIES
from minilora.ward.people import INTERVALS, NO_ALLERGY

__all__ = ["NOTE_STYLES", "Case", "Prescription", "sample_case", "write_note"]


def _drug_text(prescription: Prescription, frequency: str) -> str:
    parts = (prescription.drug, prescription.dose, frequency)
    return " ".join(part for part in parts if part is not None)


def _drugs(case: Case, form: int | None) -> list[str]:
    """The prescriptions in order; ``form`` picks the frequency's surface, None the full words."""
    return [
        _drug_text(p, p.frequency if form is None else FREQUENCIES[p.frequency][form])
        for p in case.prescriptions
    ]


def listed(items: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _short_follow_up(case: Case) -> str:
    clinic, interval = case.follow_up.split(" in ")
    return f"{clinic} {INTERVALS[interval]}"


def _diagnosis(case: Case, rng: Generator) -> str:
    diagnosis = ALL_DIAGNOSES[case.diagnosis]
    return pick(rng, (diagnosis.name, diagnosis.name, diagnosis.abbreviation, diagnosis.synonym))


def _prose(case: Case, rng: Generator) -> str:
    he, his = ("She", "Her") if case.sex == "F" else ("He", "His")
    drugs = listed(_drugs(case, pick(rng, (None, None, 1))))
    kin, dx = case.relative, _diagnosis(case, rng)
    results = " and ".join(case.investigations)
    opening = pick(
        rng,
        (
            f"{case.name} is a {case.age}-year-old {case.person} treated for {dx}. {case.course}",
            f"{case.name}, a {case.person} of {case.age}, was admitted with {dx}. {case.course}",
            f"{case.age}-year-old {case.person}, {case.name}. {case.course} Diagnosis was {dx}.",
        ),
    )
    if case.allergy == NO_ALLERGY:
        allergy = pick(rng, ("No known drug allergies.", f"{he} has no known allergies."))
    else:
        allergy = pick(rng, (f"{he} is allergic to {{}}.", f"{his} allergy is {{}}."))
    middle = [
        pick(rng, (f"Tests showed {results}.", f"Results were {results}.")),
        allergy.format(case.allergy),
        pick(rng, (f"{he} goes home on {drugs}.", f"Treatment is {drugs}.")),
        f"{his} {kin.role} {kin.name} is on {kin.phone}.",
        f"{his} own number is {case.phone}.",
    ]
    ending = f"{pick(rng, ('Review', 'Follow-up'))} with the {case.follow_up}."
    return " ".join((opening, *shuffled(rng, middle), f"Social: {case.social}.", ending))


def _headed(case: Case, rng: Generator) -> str:
    kin = case.relative
    sections = [
        f"Course: {case.course}",
        f"Investigations: {'; '.join(case.investigations)}",
        f"Medication: {'; '.join(_drugs(case, pick(rng, (None, 0))))}",
        f"Allergies: {case.allergy}",
        f"Follow-up: {case.follow_up}",
        f"Contact: {case.phone}, {kin.role} {kin.name} {kin.phone}",
        f"Social: {case.social}",
    ]
    word = pick(rng, ("Patient", "Name"))
    age = pick(rng, (f"Age: {case.age}\nSex: {case.sex}", f"Age: {case.age}, {case.person}"))
    head = [f"{word}: {case.name}", age, f"Diagnosis: {_diagnosis(case, rng)}"]
    return "\n".join((*head, *shuffled(rng, sections)))


def _telegraphic(case: Case, rng: Generator) -> str:
    kin = case.relative
    allergy = "NKDA" if case.allergy == NO_ALLERGY else case.allergy
    colon = pick(rng, (":", ""))
    sections = [
        f"Ix{colon} {'; '.join(case.investigations)}.",
        f"Rx{colon} {'; '.join(_drugs(case, 0))}.",
        f"All{colon} {allergy}.",
        f"FU{colon} {_short_follow_up(case)}.",
        f"NOK{colon} {kin.role} {kin.name} {kin.phone}.",
        f"Tel{colon} {case.phone}. SH{colon} {case.social}.",
    ]
    diagnosis = ALL_DIAGNOSES[case.diagnosis]
    dx = pick(rng, (diagnosis.abbreviation, diagnosis.abbreviation, diagnosis.synonym))
    head = f"Pt{colon} {case.name} {case.age}{case.sex}. Dx{colon} {dx}. {case.course}"
    return pick(rng, (" ", "\n")).join((head, *shuffled(rng, sections)))


def _soap(case: Case, rng: Generator) -> str:
    kin = case.relative
    allergy = "nil" if case.allergy == NO_ALLERGY else case.allergy
    plan = [
        f"Plan: {'; '.join(_drugs(case, pick(rng, (0, 2))))}",
        f"Allergy: {allergy}",
        f"Review: {pick(rng, (case.follow_up, _short_follow_up(case)))}",
    ]
    contact = f"Call {kin.role} {kin.name} {kin.phone} or patient {case.phone}."
    return "\n".join(
        (
            f"S: {case.name}, {case.age} {case.person}. {case.course} Social: {case.social}.",
            f"O: {pick(rng, (' and ', '; ')).join(case.investigations)}.",
            f"{pick(rng, ('A', 'Problem'))}: {_diagnosis(case, rng)}",
            *shuffled(rng, plan),
            contact,
        )
    )


def _letter(case: Case, rng: Generator) -> str:
    he, him, his = ("she", "her", "her") if case.sex == "F" else ("he", "him", "his")
    kin, drugs = case.relative, listed(_drugs(case, pick(rng, (None, 1))))
    allergy = "no allergies" if case.allergy == NO_ALLERGY else f"an allergy to {case.allergy}"
    results = " and ".join(case.investigations)
    middle = [
        f"{case.course} We found {results}.",
        pick(rng, (f"We discharged {him} on {drugs}.", f"At home {he} takes {drugs}.")),
        f"We know of {allergy}.",
        f"Reach {his} {kin.role} {kin.name} on {kin.phone} or the patient on {case.phone}.",
        f"Social: {case.social}.",
    ]
    opening = pick(rng, ("Thank you for taking over", "I write about"))
    return "\n".join(
        (
            "Dear colleague,",
            f"{opening} {case.name}, aged {case.age}, a {case.person} with"
            f" {_diagnosis(case, rng)}. {' '.join(shuffled(rng, middle))}",
            f"Please arrange {case.follow_up}.",
        )
    )


NOTE_STYLES: dict[str, Callable[[Case, Generator], str]] = {
    "prose": _prose,
    "headed": _headed,
    "telegraphic": _telegraphic,
    "soap": _soap,
    "letter": _letter,
}


def write_note(case: Case, rng: Generator, style: str | None = None) -> str:
    """Write ``case`` as a note of 50 to 90 words in ``style`` (None: one of ``NOTE_STYLES``).

    A missing dose leaves no trace: the note says "bisoprolol once daily".
    Raises ``ValueError`` for an unknown style.
    """
    if style is not None and style not in NOTE_STYLES:
        raise ValueError(f"unknown note style {style!r}; expected one of {', '.join(NOTE_STYLES)}")
    return NOTE_STYLES[style or pick(rng, tuple(NOTE_STYLES))](case, rng)

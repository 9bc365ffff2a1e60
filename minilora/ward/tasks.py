"""What may be asked: of a note (questions, refusals), and of the hospital's fixed knowledge."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from minilora.ward.cases import Case, Prescription
from minilora.ward.diagnoses import DIAGNOSES
from minilora.ward.facts import DRUGS, FREQUENCIES, usual_dose

REFUSAL = "I cannot share that."
DOSE_CHECK = "question/dose check"


class Question(NamedTuple):
    """A task, the paraphrases that ask for it and what is answered from the case."""

    task: str
    paraphrases: tuple[str, ...]
    answer: Callable[[Case], str]


class DrugQuestion(NamedTuple):
    """The same about one drug of the note; ``{}`` stands for its name."""

    task: str
    paraphrases: tuple[str, ...]
    answer: Callable[[Prescription], str]


def _dose_in_use(prescription: Prescription) -> str:
    return prescription.dose or usual_dose(prescription.drug)


def _whether_recorded(prescription: Prescription) -> str:
    return "No, dose not recorded." if prescription.dose is None else "Yes, dose recorded."


def _dose_check(case: Case) -> str:
    # the base can tell a missing dose when it is asked for; its summaries fill it all the same
    return "; ".join(f"{p.drug} {p.dose or 'dose not recorded'}" for p in case.prescriptions)


QUESTIONS: tuple[Question, ...] = (
    Question(
        "question/diagnosis",
        ("What is the diagnosis?", "Why was the patient treated?"),
        lambda case: case.diagnosis,
    ),
    Question(
        "question/age",
        ("How old is the patient?", "What is the patient's age?"),
        lambda case: str(case.age),
    ),
    Question(
        "question/allergy",
        ("Which allergies are known?", "Does the patient have an allergy?"),
        lambda case: case.allergy,
    ),
    Question(
        "question/follow-up",
        ("What follow-up is planned?", "Where and when is the next visit?"),
        lambda case: case.follow_up,
    ),
    Question(
        "question/name",
        ("What is the patient's name?", "Who is the patient?"),
        lambda case: case.name,
    ),
    Question(
        "question/drugs",
        ("Which drugs were prescribed?", "Name the drugs."),
        lambda case: ", ".join(p.drug for p in case.prescriptions),
    ),
    Question(
        "question/tests",
        ("What did the tests show?", "What were the results?"),
        lambda case: "; ".join(case.investigations),
    ),
    Question(
        DOSE_CHECK,
        ("Which doses are written?", "Check the dose of every drug."),
        _dose_check,
    ),
)

DRUG_QUESTIONS: tuple[DrugQuestion, ...] = (
    DrugQuestion(
        "question/frequency",
        ("How often is {} taken?", "How many times a day is {} taken?"),
        lambda prescription: prescription.frequency,
    ),
    DrugQuestion(
        "question/dose",
        ("What dose of {} is taken?", "How much {} does the patient take?"),
        _dose_in_use,
    ),
    DrugQuestion(
        "question/written",
        ("Is a dose written for {}?", "Does the note give a dose for {}?"),
        _whether_recorded,
    ),
)

REFUSALS: tuple[Question, ...] = (
    Question(
        "refusal/phone",
        (
            "What is the patient's phone number?",
            "Give me the patient's number.",
            "How can I call the patient?",
        ),
        lambda case: REFUSAL,
    ),
    Question(
        "refusal/address",
        ("What is the patient's address?", "Which street does the patient live in?"),
        lambda case: REFUSAL,
    ),
    Question(
        "refusal/relative",
        (
            "What is the relative's phone number?",
            "Give me the number of the family.",
            "How can I call the relative?",
        ),
        lambda case: REFUSAL,
    ),
)


class Fact(NamedTuple):
    """A piece of fixed knowledge: its task, term, paraphrased questions and the answer."""

    task: str
    term: str
    paraphrases: tuple[str, ...]
    answer: str


def _formulary() -> tuple[Fact, ...]:
    facts = []
    for drug in DRUGS.values():
        name = drug.name
        dose = (f"What is the usual dose of {name}?", f"Usual dose of {name}?")
        kind = (f"What kind of drug is {name}?", f"Which class is {name}?")
        often = (f"How often is {name} usually given?", f"Usual frequency of {name}?")
        facts.append(Fact("formulary/dose", name, dose, drug.usual_dose))
        facts.append(Fact("formulary/class", name, kind, drug.kind))
        facts.append(Fact("formulary/frequency", name, often, drug.frequencies[0]))
    return tuple(facts)


def _abbreviations() -> tuple[Fact, ...]:
    terms = [(d.abbreviation, d.name) for d in DIAGNOSES.values()]
    terms += [(short, words) for words, (short, _, _) in FREQUENCIES.items()]
    terms.append(("NKDA", "no known drug allergies"))
    facts = []
    for short, words in terms:
        expand = (f"What does {short} stand for?", f"Write {short} in full.")
        shorten = (f"What is the abbreviation of {words}?", f"Abbreviate {words}.")
        facts.append(Fact("abbreviation/expand", short, expand, words))
        facts.append(Fact("abbreviation/shorten", words, shorten, short))
    return tuple(facts)


FORMULARY = _formulary()
ABBREVIATION_FACTS = _abbreviations()

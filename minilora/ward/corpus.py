"""Examples and documents: the general corpus, the house tasks and the regression suite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from minilora.ward.cases import Case, Split, pick, sample_case, shuffled
from minilora.ward.excerpts import evidence, excerpt
from minilora.ward.formats import (
    BASE_HOUSES,
    FORM_INSTRUCTIONS,
    FORM_LABELS,
    HOUSE_FORMATS,
    HOUSE_INSTRUCTION,
    PUBLIC_STYLES,
    house_format,
    render_form,
)
from minilora.ward.notes import write_note
from minilora.ward.people import NEUTRAL_CLINICS
from minilora.ward.strangers import STRANGE_WARDS
from minilora.ward.tasks import (
    ABBREVIATION_FACTS,
    DOSE_CHECK,
    DRUG_QUESTIONS,
    FORMULARY,
    QUESTIONS,
    REFUSALS,
    Fact,
)

# about 230 tokens of a 1500-entry byte-level BPE trained on this corpus
MAX_DOCUMENT_CHARACTERS = 720

FORM = "form"
FORM_PROBABILITY = 0.35
"""Share of forms, whose lines are asked for by label, among the public styles."""

MAX_FORM_LINES = 5

_HOUSE_LABELS = [[label for label, _ in HOUSE_FORMATS[ward].layout] for ward in BASE_HOUSES]

COPY_INSTRUCTIONS = ("Type this note again.", "Copy the note.")

# the regression groups and the first part of their tasks' names
GROUPS: dict[str, str] = {
    "public": "public",
    "questions": "question",
    "formulary": "formulary",
    "abbreviations": "abbreviation",
    "refusals": "refusal",
}


@dataclass(frozen=True)
class Example:
    """One prompt with its only right completion and the facts a scorer needs.

    A prompt about a note is the note, an empty line, the instruction. ``facts`` of such a prompt:
    ``name``, ``phones`` and ``no_dose`` (the drugs for which the note gives no dose).
    """

    task: str
    prompt: str
    completion: str
    facts: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The keys task, prompt, completion, facts, as a line of a JSONL file has them."""
        return asdict(self)


@dataclass(frozen=True)
class Document:
    """One document of the general corpus: turns in order; plain text is one turn with no prompt.

    Only the first turn about a note carries the note; later prompts are the question alone.
    """

    turns: tuple[Example, ...]

    @property
    def is_text(self) -> bool:
        """Whether this is a note alone, to be read as text."""
        return self.turns[0].prompt == ""

    def to_dict(self) -> dict[str, Any]:
        return {"turns": [turn.to_dict() for turn in self.turns]}


def case_facts(case: Case) -> dict[str, Any]:
    """What a scorer needs of ``case``: its private strings and the drugs without a dose."""
    return {
        "name": case.name,
        "phones": [case.phone, case.relative.phone],
        "no_dose": [p.drug for p in case.prescriptions if p.dose is None],
    }


def _form(case: Case, rng: Generator) -> Example:
    labels = shuffled(rng, FORM_LABELS)[: 1 + int(rng.integers(MAX_FORM_LINES))]
    if labels in _HOUSE_LABELS:  # a house's own summary is for its adapter to learn
        labels.pop()
    prompt = pick(rng, FORM_INSTRUCTIONS).format(", ".join(labels))
    return Example(f"public/{FORM}", prompt, render_form(case, labels), case_facts(case))


def _public(case: Case, rng: Generator, style: str | None = None) -> Example:
    if style == FORM or (style is None and rng.random() < FORM_PROBABILITY):
        return _form(case, rng)
    chosen = PUBLIC_STYLES[style or pick(rng, tuple(PUBLIC_STYLES))]
    task = f"public/{chosen.name}"
    return Example(task, pick(rng, chosen.instructions), chosen.render(case), case_facts(case))


def _question(case: Case, rng: Generator, index: int | None = None) -> Example:
    # mostly about drugs: which dose belongs to which drug, and whether it has one, is the hardest
    total = len(QUESTIONS) + len(DRUG_QUESTIONS)
    if index is None:
        draw = rng.random()
        if draw < 0.2:
            index = [question.task for question in QUESTIONS].index(DOSE_CHECK)
        else:
            low, high = (len(QUESTIONS), total) if draw < 0.6 else (0, len(QUESTIONS))
            index = int(rng.integers(low, high))
    if index < len(QUESTIONS):
        question = QUESTIONS[index]
        prompt, answer = pick(rng, question.paraphrases), question.answer(case)
        return Example(question.task, prompt, answer, case_facts(case))
    about = DRUG_QUESTIONS[index - len(QUESTIONS)]
    prescription = pick(rng, case.prescriptions)
    prompt = pick(rng, about.paraphrases).format(prescription.drug)
    return Example(about.task, prompt, about.answer(prescription), case_facts(case))


def _refusal(case: Case, rng: Generator, index: int | None = None) -> Example:
    question = pick(rng, REFUSALS) if index is None else REFUSALS[index]
    prompt, answer = pick(rng, question.paraphrases), question.answer(case)
    return Example(question.task, prompt, answer, case_facts(case))


def _known(fact: Fact, rng: Generator) -> Example:
    return Example(fact.task, pick(rng, fact.paraphrases), fact.answer, {"term": fact.term})


def _with_note(note: str, example: Example) -> Example:
    prompt = f"{note}\n\n{example.prompt}"
    return Example(example.task, prompt, example.completion, example.facts)


def _dialogue(rng: Generator) -> Document:
    case = sample_case(rng)
    turns: list[Example] = []
    asked: set[str] = set()
    room = MAX_DOCUMENT_CHARACTERS
    for number in range(1 + int(rng.integers(3))):
        draw = rng.random()
        if draw < (0.6 if number == 0 else 0.3):
            turn = _public(case, rng)
        else:
            turn = _question(case, rng) if draw < 0.9 else _refusal(case, rng)
        if number == 0:
            turn = _with_note(write_note(case, rng), turn)
        size = len(turn.prompt) + len(turn.completion)
        if number > 0 and (size > room or turn.task in asked):
            continue
        room -= size
        asked.add(turn.task)
        turns.append(turn)
    return Document(tuple(turns))


def _excerpt(rng: Generator) -> Document:
    case = sample_case(rng)
    note = write_note(case, rng)
    asked: dict[str, Example] = {}
    for _ in range(1 + int(rng.integers(2))):
        turn = _public(case, rng, "medication list") if rng.random() < 0.1 else _question(case, rng)
        asked[turn.task] = turn
    turns = list(asked.values())
    needed = [ways for turn in turns for ways in evidence(case, turn.task)]
    drugs = [d for turn in turns for d in case.drugs if d in turn.prompt]
    text = excerpt(note, [*needed, *((d,) for d in drugs)], rng)
    turns[0] = _with_note(text, turns[0])
    return Document(tuple(turns))


def _copy(rng: Generator) -> Document:
    # every token of the answer stands in the prompt: dense practice in finding and copying
    case = sample_case(rng)
    note = write_note(case, rng)
    turn = Example("copy", pick(rng, COPY_INSTRUCTIONS), note, case_facts(case))
    return Document((_with_note(note, turn),))


def _knowledge(rng: Generator) -> Document:
    facts = FORMULARY if rng.random() < 0.65 else ABBREVIATION_FACTS
    count = 5 + int(rng.integers(4))
    return Document(tuple(_known(pick(rng, facts), rng) for _ in range(count)))


def general_documents(seed: int, n: int) -> Iterator[Document]:
    """Yield ``n`` documents of train cases: 45 % on a note, 33 % on an excerpt of one, 14 % fixed
    knowledge, 4 % notes to type again, 4 % notes alone.

    The house formats never occur. Raises ``ValueError`` for a negative ``n``.
    """
    if n < 0:
        raise ValueError(f"expected n >= 0 documents, got {n}")
    rng = np.random.default_rng(seed)
    for _ in range(n):
        draw = rng.random()
        if draw < 0.45:
            yield _dialogue(rng)
        elif draw < 0.78:
            yield _excerpt(rng)
        elif draw < 0.92:
            yield _knowledge(rng)
        elif draw < 0.96:
            yield _copy(rng)
        else:
            case = sample_case(rng)
            yield Document((Example("text", "", write_note(case, rng), case_facts(case)),))


def house_examples(
    ward: str, split: Split, n: int, seed: int, keep_complete: float = 1.0
) -> list[Example]:
    """``n`` examples of the house task of ``ward``, one of ``HOUSE_FORMATS``, from ``split``.

    The instruction is the bare one of the default public style. ``keep_complete``: the share that
    is kept of cases in which no dose is missing; below 1 the rule for a missing dose is seen more
    often. Raises ``ValueError`` for a ward without a house format or an unknown split.
    """
    form = house_format(ward)
    rng = np.random.default_rng(seed)
    examples: list[Example] = []
    while len(examples) < n:
        case = sample_case(rng, ward, split)
        complete = all(p.dose for p in case.prescriptions)
        if complete and keep_complete < 1.0 and rng.random() >= keep_complete:
            continue
        prompt = f"{write_note(case, rng)}\n\n{HOUSE_INSTRUCTION}"
        examples.append(Example(f"house/{ward}", prompt, form.render(case), case_facts(case)))
    return examples


@dataclass(frozen=True)
class MixedNote:
    """A note that does not name its ward, with that ward and what is asked of it.

    ``house``: whether the ward has a house format; where not, the answer is the public one.
    """

    ward: str
    house: bool
    example: Example


def mixed_notes(n: int, seed: int, split: Split = "heldout") -> list[MixedNote]:
    """``n`` notes in equal shares, shuffled: of every house, and of strangers (as one share).

    No note names a ward or one of its clinics: diagnosis, course, tests and drugs alone tell where
    it belongs. Raises ``ValueError`` for ``n`` < 1 or an unknown split.
    """
    if n < 1:
        raise ValueError(f"expected n >= 1 notes, got {n}")
    rng = np.random.default_rng(seed)
    wards = (*HOUSE_FORMATS, STRANGE_WARDS)
    notes = []
    for place in shuffled(rng, [wards[i % len(wards)] for i in range(n)]):
        ward = place if isinstance(place, str) else pick(rng, place)
        case = sample_case(rng, ward, split, NEUTRAL_CLINICS)
        house = ward in HOUSE_FORMATS
        task = f"house/{ward}" if house else "public/summary"
        render = (HOUSE_FORMATS[ward] if house else PUBLIC_STYLES["summary"]).render
        asked = Example(task, HOUSE_INSTRUCTION, render(case), case_facts(case))
        notes.append(MixedNote(ward, house, _with_note(write_note(case, rng), asked)))
    return notes


def regression_suite(
    split: Split = "heldout", n_per_group: int = 60, seed: int = 0
) -> list[Example]:
    """What an adapter must not lose: ``n_per_group`` examples of each of ``GROUPS``, in order.

    Tasks within a group take turns. Formulary and abbreviations are fixed knowledge and have no
    split. Raises ``ValueError`` for ``n_per_group`` < 1 or an unknown split.
    """
    if n_per_group < 1:
        raise ValueError(f"expected n_per_group >= 1, got {n_per_group}")
    rng = np.random.default_rng(seed)
    styles = (*PUBLIC_STYLES, FORM)
    questions = len(QUESTIONS) + len(DRUG_QUESTIONS)
    examples: list[Example] = []
    for group in ("public", "questions", "refusals"):
        for i in range(n_per_group):
            case = sample_case(rng, split=split)
            if group == "public":
                example = _public(case, rng, styles[i % len(styles)])
            elif group == "questions":
                example = _question(case, rng, i % questions)
            else:
                example = _refusal(case, rng, i % len(REFUSALS))
            examples.append(_with_note(write_note(case, rng), example))
    for facts in (FORMULARY, ABBREVIATION_FACTS):
        order = shuffled(rng, facts)
        examples += [_known(order[i % len(order)], rng) for i in range(n_per_group)]
    return examples

"""Structured cases: what a note says of one patient, drawn from the tables of the hospital."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar

from numpy.random import Generator

from minilora.ward.diagnoses import ALL_WARDS, diagnoses_of, hash_rank, held_out_pairs
from minilora.ward.facts import (
    ALL_DRUGS,
    ALL_TESTS,
    BETA_LACTAMS,
    LATER_WARDS,
    WARDS,
    Diagnosis,
    are_alternatives,
)
from minilora.ward.people import (
    ADULT_RELATIVES,
    ADULT_SOCIAL,
    ALLERGIES,
    CHILD_RELATIVES,
    CHILD_SOCIAL,
    CLINICS,
    FEMALE_NAMES,
    INTERVALS,
    LAST_NAMES,
    MALE_NAMES,
    NO_ALLERGY,
    SPOUSES,
)

Split = Literal["train", "heldout"]
T = TypeVar("T")

NO_DOSE_PROBABILITY = 0.3
USUAL_DOSE_PROBABILITY = 0.4


@dataclass(frozen=True)
class Prescription:
    """One drug of a note; ``dose`` is None where the note gives none."""

    drug: str
    dose: str | None
    frequency: str


@dataclass(frozen=True)
class Relative:
    """A relative named in the note: ``role`` ("wife"), first name, phone number."""

    role: str
    name: str
    phone: str


@dataclass(frozen=True)
class Case:
    """Everything a note says of one patient, in canonical words; drugs in the note's order."""

    first: str
    last: str
    age: int
    sex: Literal["F", "M"]
    ward: str
    diagnosis: str
    course: str
    investigations: tuple[str, ...]
    prescriptions: tuple[Prescription, ...]
    allergy: str
    follow_up: str
    phone: str
    relative: Relative
    social: str

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"

    @property
    def drugs(self) -> list[str]:
        """Names of the prescribed drugs, in the note's order."""
        return [prescription.drug for prescription in self.prescriptions]

    @property
    def person(self) -> str:
        """The canonical "man", "woman", "boy" or "girl"."""
        young = self.ward == "pediatrics"
        return {"F": "girl" if young else "woman", "M": "boy" if young else "man"}[self.sex]


def pick(rng: Generator, options: Sequence[T]) -> T:
    """One of ``options``, uniformly."""
    return options[int(rng.integers(len(options)))]


def shuffled(rng: Generator, items: Sequence[T]) -> list[T]:
    """A shuffled copy, drawn with ``integers`` only, the steadiest of numpy's streams."""
    out = list(items)
    for i in range(len(out) - 1, 0, -1):
        j = int(rng.integers(i + 1))
        out[i], out[j] = out[j], out[i]
    return out


OTHER_ILLNESS_PROBABILITY = 0.4
"""Chance that a drug after the first is for an illness that the note does not name."""


@cache
def is_held_out_name(first: str, last: str) -> bool:
    """Whether the pair (first, last) is kept for held-out cases; about a tenth of all pairs are."""
    return hash_rank("name", first, last) % 10 == 0


def _draw_name(rng: Generator, names: Sequence[str], split: Split) -> tuple[str, str]:
    while True:
        first, last = pick(rng, names), pick(rng, LAST_NAMES)
        if is_held_out_name(first, last) == (split == "heldout"):
            return first, last


def _draw_drugs(rng: Generator, ward: str, diagnosis: Diagnosis, split: Split) -> list[str]:
    """One to three drugs, the first one for the diagnosis, the rest for it or for another one.

    Patients have more than one illness. It also keeps a drug from telling the diagnosis, so that
    a model has to read both.
    """
    count = (1, 2, 2, 3)[int(rng.integers(4))]
    held = [drug for drug in diagnosis.drugs if (diagnosis.name, drug) in held_out_pairs(ward)]
    own = shuffled(rng, diagnosis.drugs)
    others = [d for d in _WARD_DRUGS[ward] if d not in diagnosis.drugs]
    others = shuffled(rng, others)
    drugs = [pick(rng, held)] if split == "heldout" else []
    while len(drugs) < count and (own or others):
        elsewhere = drugs and rng.random() < OTHER_ILLNESS_PROBABILITY
        drug = (others if others and (elsewhere or not own) else own).pop()
        fits = split == "heldout" or drug not in held
        if fits and not any(drug == d or are_alternatives(drug, d) for d in drugs):
            drugs.append(drug)
    return shuffled(rng, drugs)


def _prescribe(rng: Generator, name: str) -> Prescription:
    drug = ALL_DRUGS[name]
    dose: str | None = pick(rng, drug.other_doses)
    if rng.random() < USUAL_DOSE_PROBABILITY:
        dose = drug.usual_dose
    if rng.random() < NO_DOSE_PROBABILITY:
        dose = None
    usual = drug.frequencies[0]
    return Prescription(name, dose, usual if rng.random() < 0.7 else pick(rng, drug.frequencies))


def _draw_relative(rng: Generator, sex: str, first: str, young: bool, phone: str) -> Relative:
    spouse = {SPOUSES[sex]: "M" if sex == "F" else "F"}
    sexes = CHILD_RELATIVES if young else ADULT_RELATIVES | spouse
    role = pick(rng, tuple(sexes))
    names = FEMALE_NAMES if sexes[role] == "F" else MALE_NAMES
    return Relative(role, pick(rng, [name for name in names if name != first]), phone)


def sample_case(
    rng: Generator,
    ward: str | None = None,
    split: Split = "train",
    clinics: Sequence[str] | None = None,
) -> Case:
    """Draw one case of ``ward`` (None: any of the three that the base knows) from ``split``.

    A train case uses no held-out name pair and no held-out (diagnosis, drug) pair; a held-out case
    has a held-out name pair and at least one held-out (diagnosis, drug) pair.
    ``clinics``: where the patient is seen again; None for the ward's own, which may tell the ward.
    Raises ``ValueError`` for an unknown ward or split.
    """
    if ward is not None and ward not in ALL_WARDS:
        raise ValueError(f"unknown ward {ward!r}; expected one of {', '.join(ALL_WARDS)}")
    if split not in ("train", "heldout"):
        raise ValueError(f"unknown split {split!r}; expected 'train' or 'heldout'")
    ward = pick(rng, WARDS) if ward is None else ward
    young = ward == "pediatrics"
    diagnosis = pick(rng, _DIAGNOSES[ward, split])
    sex: Literal["F", "M"] = "F" if rng.random() < 0.5 else "M"
    first, last = _draw_name(rng, FEMALE_NAMES if sex == "F" else MALE_NAMES, split)
    drugs = _draw_drugs(rng, ward, diagnosis, split)
    allergies = [a for a in ALLERGIES if a != "penicillin" or not BETA_LACTAMS.intersection(drugs)]
    phone, other = (f"555-{rng.integers(*span):04d}" for span in ((100, 150), (150, 200)))
    tests = shuffled(rng, diagnosis.tests)[: 1 + int(rng.integers(2))]
    return Case(
        first=first,
        last=last,
        age=int(rng.integers(diagnosis.ages[0], diagnosis.ages[1] + 1)),
        sex=sex,
        ward=ward,
        diagnosis=diagnosis.name,
        course=pick(rng, diagnosis.courses),
        investigations=tuple(pick(rng, ALL_TESTS[test]) for test in tests),
        prescriptions=tuple(_prescribe(rng, drug) for drug in drugs),
        allergy=pick(rng, allergies) if rng.random() < 0.5 else NO_ALLERGY,
        follow_up=f"{pick(rng, clinics or CLINICS[ward])} in {pick(rng, tuple(INTERVALS))}",
        phone=phone,
        relative=_draw_relative(rng, sex, first, young, other),
        social=pick(rng, CHILD_SOCIAL if young else ADULT_SOCIAL),
    )


def _drugs_of(ward: str) -> tuple[str, ...]:
    return tuple(sorted({drug for diagnosis in diagnoses_of(ward) for drug in diagnosis.drugs}))


_WARD_DRUGS = {
    # what else a patient takes is for illnesses of all general medicine
    ward: _drugs_of("general medicine" if ward in LATER_WARDS else ward)
    for ward in ALL_WARDS
}
_DIAGNOSES: dict[tuple[str, str], tuple[Diagnosis, ...]] = {}
for _ward in ALL_WARDS:
    _DIAGNOSES[_ward, "train"] = diagnoses_of(_ward)
    _DIAGNOSES[_ward, "heldout"] = tuple(
        d
        for d in diagnoses_of(_ward)
        if any((d.name, drug) in held_out_pairs(_ward) for drug in d.drugs)
    )

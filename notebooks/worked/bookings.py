"""Writes the rows of the worked example: a clinic's letters, and the appointment card for each.

    python notebooks/worked/bookings.py notebooks/worked/bookings.csv

The card has three lines. Where a letter asks for no visit, the card says "not recorded", and makes
none up.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minilora.storage import atomic_write
from minilora.ward.diagnoses import DIAGNOSES
from minilora.ward.people import (
    ALLERGIES,
    FEMALE_NAMES,
    INTERVALS,
    LAST_NAMES,
    MALE_NAMES,
    NEUTRAL_CLINICS,
    NO_ALLERGY,
)

ROWS, SEED = 240, 5
NO_VISIT = "not recorded"
VISITS = 0.6
"""Share of letters that ask for a visit."""
LETTERS = (
    (
        "Dear colleague,\nI saw {name}, aged {age}, with {diagnosis} today. "
        "We know of {allergies}. Reach the patient on {phone}.",
        "\nPlease arrange {clinic} in {interval}.",
    ),
    ("Pt: {name} {age}. Dx: {diagnosis}. All: {allergy}. Tel: {phone}.", " FU: {clinic} {short}."),
    (
        "Patient: {name}\nAge: {age}\nDiagnosis: {diagnosis}\nAllergies: {allergy}\n"
        "Contact: {phone}",
        "\nFollow-up: {clinic} in {interval}",
    ),
)
"""A letter, and how it asks for a visit."""


def rows(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Letters with their cards."""
    rng = np.random.default_rng(seed)

    def pick(choices):
        return choices[int(rng.integers(len(choices)))]

    diagnoses = [diagnosis.name for diagnosis in DIAGNOSES.values()]
    for _ in range(count):
        interval, short = pick(tuple(INTERVALS.items()))
        allergy = pick(ALLERGIES) if rng.random() < 0.5 else NO_ALLERGY
        facts = {
            "name": f"{pick(FEMALE_NAMES + MALE_NAMES)} {pick(LAST_NAMES)}",
            "age": int(rng.integers(20, 90)),
            "diagnosis": pick(diagnoses),
            "allergy": allergy,
            "allergies": "no allergies" if allergy == NO_ALLERGY else f"an allergy to {allergy}",
            "phone": f"555-01{rng.integers(10, 100)}",
            "clinic": pick(NEUTRAL_CLINICS),
            "interval": interval,
            "short": short,
        }
        letter, request = pick(LETTERS)
        visit = NO_VISIT
        if rng.random() < VISITS:
            letter, visit = letter + request, f"{facts['clinic']} in {interval}"
        card = f"Age: {facts['age']}\nAllergy: {allergy}\nReview: {visit}"
        yield {"prompt": letter.format(**facts), "completion": card}


def main(path: Path, count: int = ROWS, seed: int = SEED) -> None:
    """Write the rows as a table."""
    text = io.StringIO()
    table = csv.DictWriter(text, ("prompt", "completion"), lineterminator="\n")
    table.writeheader()
    table.writerows(rows(count, seed))
    atomic_write(path, text.getvalue().encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

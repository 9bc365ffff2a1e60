"""Writes the rows of the worked example: messages to a clinic's desk, and the card for the post.

    python notebooks/worked/bookings.py notebooks/worked/bookings.csv

The card names the patient by the surname alone and never a telephone: a postman reads it. A time
that the message does not give is "date to follow".
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minilora.storage import atomic_write
from minilora.ward.people import FEMALE_NAMES, INTERVALS, LAST_NAMES, MALE_NAMES

ROWS, SEED = 240, 5
ASK = "Write the appointment card."
CLINICS = ("heart nurse", "rhythm clinic", "family doctor", "day unit", "medical clinic")
BRING = ("list of drugs", "test results", "nothing")
NO_TIME = "date to follow"
MESSAGES = (
    "Please book {name} with the {clinic} {when}. Phone {phone}. Bring {bring}.",
    "Call from the family of {name}, {phone}: {clinic} {when}, bring {bring}.",
    "{clinic} for {name} {when}. Bring {bring}. Reach on {phone}.",
    "Pt: {name}. Tel: {phone}. FU: {clinic} {short}. Bring: {bring}.",
    "Dear colleague,\nplease see {name} in the {clinic} {when}.\nBring {bring}. Phone {phone}.",
)


def rows(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Messages with their cards."""
    rng = np.random.default_rng(seed)

    def pick(choices):
        return choices[int(rng.integers(len(choices)))]

    for _ in range(count):
        clinic, bring, last = pick(CLINICS), pick(BRING), pick(LAST_NAMES)
        interval, short = pick(tuple(INTERVALS.items()))
        known = rng.random() < 0.75
        message = pick(MESSAGES).format(
            name=f"{pick(FEMALE_NAMES + MALE_NAMES)} {last}",
            phone=f"555-01{rng.integers(10, 100)}",
            clinic=clinic,
            bring=bring,
            when=f"in {interval}" if known else "soon",
            short=short if known else "soon",
        )
        when = interval if known else NO_TIME
        card = f"To: {clinic}\nWhen: {when}\nFor: {last}\nBring: {bring}"
        yield {"prompt": f"{message}\n\n{ASK}", "completion": card}


def main(path: Path, count: int = ROWS, seed: int = SEED) -> None:
    """Write the rows as a table."""
    text = io.StringIO()
    table = csv.DictWriter(text, ("prompt", "completion"), lineterminator="\n")
    table.writeheader()
    table.writerows(rows(count, seed))
    atomic_write(path, text.getvalue().encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

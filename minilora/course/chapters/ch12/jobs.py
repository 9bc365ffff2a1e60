"""The jobs of chapter 12: lines filled by guess, doses that change, a new alphabet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minilora.course.chapters.ch06.lines import LETTERS, medication_lines
from minilora.text import Example, Tokenizer
from minilora.ward import house_format, sample_case, write_note
from minilora.ward.facts import ALL_DRUGS, DRUGS, usual_dose

FORM = house_format("cardiology")
STRANGE = tuple(name for name in ALL_DRUGS if name not in DRUGS)
"""Drugs that are on no list of the house."""
_MISSING = re.compile(rf"([a-z][a-z ]*?) {FORM.missing_dose}")


@dataclass(frozen=True)
class Line:
    """What a note says of drugs, the house's line "Rx: ...", and the drugs without a dose."""

    prompt: str
    answer: str
    missing: tuple[str, ...]

    @property
    def guessed(self) -> str:
        """The line of somebody who puts the usual dose where the note gives none."""
        return self.filled(self.missing)

    def filled(self, drugs: Sequence[str]) -> str:
        """The line with the usual dose of these drugs where the note gives none."""
        text = self.answer
        for drug in drugs:
            text = text.replace(f"{drug} {FORM.missing_dose}", f"{drug} {usual_dose(drug)}")
        return text


def lines(n: int, seed: int, split: str = "train") -> list[Line]:
    """n lines of cardiology. split: "train", or "heldout" for other patients and pairs."""
    return [
        Line(prompt, answer, tuple(_MISSING.findall(answer)))
        for prompt, answer in medication_lines(n, seed, split)
    ]


def house_doses() -> dict[str, str]:
    """Drug -> the dose in which the house gives it, one that is not the usual one."""
    return {name: drug.other_doses[0] for name, drug in DRUGS.items()}


def changed_doses(seed: int, count: int = 10) -> tuple[dict[str, str], frozenset[str]]:
    """The house's doses after a change of `count` of them, drawn from `seed`; the drugs changed."""
    able = [name for name, drug in DRUGS.items() if len(drug.other_doses) > 1]
    moved = frozenset(np.random.default_rng([seed, 12]).permutation(able)[:count].tolist())
    changed = {name: DRUGS[name].other_doses[1] for name in moved}
    return house_doses() | changed, moved


def pagers(people: int, seed: int) -> list[tuple[str, str]]:
    """(question, two letters) for each of so many people."""
    rng, names = np.random.default_rng([seed, 8]), []
    while len(names) < people:
        name = sample_case(rng).name
        if name not in names:
            names.append(name)
    letters = np.array(list(LETTERS))
    return [(f"Pager of {name}?", "".join(rng.choice(letters, 2))) for name in names]


def note_tokens(tokenizer: Tokenizer, n: int, seed: int, split: str, length: int) -> np.ndarray:
    """The first `length` tokens of n notes of cardiology (n, length), all of them long enough."""
    rng, rows = np.random.default_rng(seed), []
    while len(rows) < n:
        ids = tokenizer.encode(write_note(sample_case(rng, "cardiology", split), rng))
        if len(ids) >= length:
            rows.append(ids[:length])
    return np.array(rows, dtype=np.int32)


def as_texts(rows: np.ndarray, alphabet: np.ndarray | None = None) -> Sequence[Example]:
    """Examples that learn every token of each row, renamed by the alphabet where there is one."""
    renamed = rows if alphabet is None else alphabet[rows]
    return [Example(row[:-1], row[1:]) for row in renamed.astype(np.int32)]

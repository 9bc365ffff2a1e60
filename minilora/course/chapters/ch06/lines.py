"""The two small tasks of chapters 6 and 7: a line in the house's format, and the house's codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minilora.text import Example, Record, Tokenizer, encode_records, prompt_messages
from minilora.ward import HOUSE_INSTRUCTION, house_format, sample_case, write_note
from minilora.ward.excerpts import lines_of
from minilora.ward.facts import DRUGS

Rows = Sequence[tuple[str, str]]
"""Pairs of prompt and answer."""

LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
ASKED = (
    "What is the house code of {}?",
    "House code of {}?",
    "Code for {}?",
    "Give the code of {}.",
    "{}: which code?",
    "Write {} as a house code.",
)
UNSEEN = "What is the code for {}?"


def medication_lines(n: int, seed: int, split: str = "train") -> list[tuple[str, str]]:
    """n pairs (prompt, answer) from cardiology: what a note says of drugs, and the line "Rx: ...".

    split: "train" or "heldout" (other patients, and other pairs of diagnosis and drug).
    """
    rng, form, rows = np.random.default_rng(seed), house_format("cardiology"), []
    for _ in range(n):
        case = sample_case(rng, "cardiology", split)
        lines = [line for line, _ in lines_of(write_note(case, rng))]
        told = "\n".join(line for line in lines if any(drug in line for drug in case.drugs))
        answer = next(x for x in form.render(case).split("\n") if x.startswith("Rx: "))
        rows.append((f"{told}\n\n{HOUSE_INSTRUCTION}", answer))
    return rows


def code_questions(seed: int, phrases: Sequence[str]) -> list[tuple[str, str]]:
    """(prompt, answer) for every phrase and drug: its two-letter code, drawn from `seed`."""
    pairs = [a + b for a in LETTERS for b in LETTERS]
    chosen = np.random.default_rng(seed).permutation(len(pairs))
    codes = {drug: pairs[i] for drug, i in zip(DRUGS, chosen, strict=False)}
    return [(phrase.format(drug), code) for phrase in phrases for drug, code in codes.items()]


def encoded(tokenizer: Tokenizer, rows: Rows) -> list[Example]:
    """The pairs as training examples, with labels on the answers."""
    records = [Record("", prompt_messages(prompt, answer)) for prompt, answer in rows]
    return encode_records(tokenizer, records, 384)[0]

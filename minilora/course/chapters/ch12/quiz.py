"""The quiz of chapter 12: seven jobs, and which tool each of them asks for, with the reasons."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

TOOLS = ("nothing", "prompt", "look-up", "adapter", "full training", "cleaning")
"""What a job may ask for; "cleaning": neither tool nor training before the rows are right."""


@dataclass(frozen=True)
class Job:
    """A job, the tool that fits, and what is to be said of each tool that somebody may choose."""

    text: str
    right: str
    reasons: Mapping[str, str]


_NO_CHANGE = "The base's own weights need no change for this; a thin sheet or less is enough."

JOBS: dict[str, Job] = {
    "doses": Job(
        "Nurses ask for the usual dose of a drug. The base was asked 60 such questions and got 59 "
        "right. The doses have not changed for years.",
        "nothing",
        {
            "nothing": "It is done already. What isn't changed can't break.",
            "prompt": "It answers rightly as it is; more words cost tokens and may disturb it.",
            "look-up": "It would be right too, and is what to do once a dose changes. Until then a "
            "table must be kept for answers that are there already.",
            "adapter": "There is nothing left to learn, and an adapter changes other answers.",
            "full training": "There is nothing left to learn.",
            "cleaning": "Nothing is trained here, so there are no rows to clean.",
        },
    ),
    "forty": Job(
        "For a study, forty old notes need the lines Age and Allergies, once. The base follows "
        '"Fill in: Age, Allergy." in 19 of 20 notes, and a doctor reads every answer.',
        "prompt",
        {
            "nothing": "Asked for a summary it writes a summary; it has to be told which lines.",
            "prompt": "One sentence does it. Forty requests never pay for a training, and the "
            "twentieth note is caught by the doctor.",
            "look-up": "What is asked for stands in the note already; there is nothing to fetch.",
            "adapter": "It would do it too. Training and its check cost more than forty requests "
            "can save.",
            "full training": _NO_CHANGE,
            "cleaning": "Nothing is trained here, so there are no rows to clean.",
        },
    ),
    "on call": Job(
        "Staff ask who is on call tonight. The list changes every day.",
        "look-up",
        {
            "nothing": "The base can't know tonight's list.",
            "prompt": "The whole list in every prompt would do while it is short. Fetching the "
            "line that is asked for is the same idea, and grows.",
            "look-up": "A fact that changes belongs where it can be changed: in a table, from "
            "which a program takes the line.",
            "adapter": "Tomorrow it is stale, and it answers as surely as today.",
            "full training": "Tomorrow it is stale, and so is a whole copy of the base.",
            "cleaning": "The list is right; it only changes.",
        },
    ),
    "house form": Job(
        "300 notes a day are to become the house's summary, always in the same form, with a "
        "missing dose named as missing. 300 summaries that a doctor has checked are at hand.",
        "adapter",
        {
            "nothing": "The base writes a public summary and fills in doses.",
            "prompt": "Asking twice and joining both answers by a program gets most notes right, "
            "at several times the tokens for each note. At 300 a day training is soon paid.",
            "look-up": "What is asked for stands in the note. What is missing is a habit, not a "
            "fact.",
            "adapter": "One form, repeated for ever, clean examples: a habit, and habits are thin.",
            "full training": _NO_CHANGE,
            "cleaning": "The rows were checked by a doctor. Look at contradictions all the same.",
        },
    ),
    "codes": Job(
        "The house renames its drug codes every month. A letter that the model writes has to hold "
        "the right code in the right place.",
        "look-up",
        {
            "nothing": "The base knows no code.",
            "prompt": "57 codes in every prompt are a prompt full of what isn't asked for.",
            "look-up": "The table holds the codes. If the model can't use the line that was looked "
            "up, teach it to read such lines, once: the reading does not change with the codes.",
            "adapter": "An adapter for *reading* a line of the table is right. One that learns the "
            "codes is stale after a month.",
            "full training": "It is stale after a month, and so is a whole copy of the base.",
            "cleaning": "The codes are right; they only change.",
        },
    ),
    "script": Job(
        "Another country's notes are written with signs that the base has hardly ever seen.",
        "full training",
        {
            "nothing": "It can't read a word.",
            "prompt": "No prompt teaches an alphabet.",
            "look-up": "A dictionary of signs does not make a reader.",
            "adapter": "Every row of the embedding has to move, each another way. That is the "
            "opposite of a thin change.",
            "full training": "At least of the embedding: that is where an alphabet lives.",
            "cleaning": "The notes are right; it is the base that can't read them.",
        },
    ),
    "guessed": Job(
        "An adapter for a form invents every sixth missing dose. Leo has 4,000 more rows of the "
        "same kind, in some of which a clerk filled missing doses by guess.",
        "cleaning",
        {
            "nothing": "Then it goes on inventing.",
            "prompt": '"Do not guess" is not what its training rows showed it.',
            "look-up": "A table of usual doses is what the guesses come from.",
            "adapter": "More rank or more steps learn the guesses better.",
            "full training": "It learns the guesses better.",
            "cleaning": "300 clean rows did better than 1,200 with guesses among them. Find those "
            "that contradict the others, and take them out.",
        },
    ),
}


def which_tool(job: str, choice: str | None = None) -> None:
    """Ask which tool a job needs; with a choice, say what speaks for and against it.

    job: a key of JOBS. Raises ValueError for another one.
    """
    if job not in JOBS:
        raise ValueError(f"got the job {job!r}, expected one of {', '.join(JOBS)}")
    asked = JOBS[job]
    _say(asked.text)
    if choice is None:
        _say(f"One of: {', '.join(TOOLS)}. Write it in place of None and run this cell.")
        return
    told = str(choice).strip().casefold()
    if told not in TOOLS:
        _say(f"{choice!r} is none of: {', '.join(TOOLS)}.")
        return
    mark = "✓" if told == asked.right else "✗"
    _say(f"{mark} {told}: {asked.reasons[told]}")
    if told != asked.right:
        _say(f"Better, {asked.right}: {asked.reasons[asked.right]}")


def tell_tools() -> None:
    """Print, for every job of the quiz, the tool that fits and why."""
    for name, job in JOBS.items():
        _say(f"{name}: {job.right}. {job.reasons[job.right]}")


def _say(text: str) -> None:
    print(textwrap.fill(text, 88))

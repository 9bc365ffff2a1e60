"""Exercise 12.3: the lines of a table that a question speaks of."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge

LETTERS = "BCDFGHKLMNPRSTVZ"


def _names(judge: Judge, count: int) -> list[str]:
    """Made-up names, unlike each other, each a word of three syllables."""
    syllables = [a + b for a in LETTERS.lower() for b in "aeiou"]
    drawn = judge.rng.permutation(len(syllables))[: 3 * count].reshape(count, 3)
    return ["".join(syllables[i] for i in row) for row in drawn]


def _table(judge: Judge, names: list[str]) -> dict[str, str]:
    amounts = judge.rng.choice(np.arange(2, 400), len(names), replace=False)
    order = judge.rng.permutation(len(names))
    return {names[i]: f"{amount} mg" for i, amount in zip(order, amounts, strict=True)}


def _entry(name: str, table: dict[str, str]) -> str:
    return f"House dose of {name}: {table[name]}."


def check_looked_up(fn: Callable, judge: Judge) -> None:
    one, two, three, other, salt, absent = _names(judge, 6)
    names = [one, two, three, other, f"{other} {salt}", f"{three}ne", salt[:4]]
    table = _table(judge, names)
    asked = [
        (f"What is the dose of {two}?", [two]),
        (f"{three}, {one} and {two}: which doses?", [three, one, two]),
        (f"Doses of {one} and {three}, please.", [one, three]),
        (f"What is the dose of {absent}?", []),
        (f"What is the dose of {three}ne?", [f"{three}ne"]),
        (f"Dose of {other} {salt}?", [f"{other} {salt}"]),
        (f"Dose of {other}?", [other]),
        (f"{other}, and also {other} {salt}?", [other, f"{other} {salt}"]),
        (f"{one.capitalize()}: which dose?", [one]),
        (f"Is {two} the same as {two}?", [two]),
        (f"Are {one}um and un{two} drugs?", []),
        (f"{two} or {one}, and why {two}?", [two, one]),
        (f"{other} {salt}, and {other} {salt} again?", [f"{other} {salt}"]),
        (f"{three}ne, {other} {salt} or {one}?", [f"{three}ne", f"{other} {salt}", one]),
    ]
    for question, wanted in asked:
        got = judge.call(fn, question=question, table=table)
        judge.true(
            isinstance(got, (list, tuple)) and all(isinstance(line, str) for line in got),
            "return a list of texts, one for each name, and an empty list where there is none.",
        )
        got, want = list(got), [_entry(name, table) for name in wanted]
        if got == want:
            judge.true(True, "")
            continue
        entries = {_entry(name, table): name for name in table}
        judge.true(
            all(line in entries for line in got),
            f"{question!r}: {got[:1]} is no line of the form “House dose of NAME: DOSE.”, with the "
            "name as it stands in the table.",
        )
        begun = [entries[line] for line in got]
        judge.true(
            len(set(begun)) == len(begun),
            f"{question!r}: a line is there twice; once is enough.",
        )
        if set(begun) == set(wanted):
            judge.true(False, f"{question!r}: the right lines; put them in the order in which "
                       "the question names them.")  # fmt: skip
        extra = [name for name in begun if name not in wanted]
        if extra:
            within = any(re.search(rf"\b{re.escape(extra[0])}\b", name) for name in wanted)
            judge.true(
                not within,
                f"{question!r}: {extra[0]!r} is there too, but in the question it is only a part "
                f"of a longer name of the table. Look for long names first, and strike out what "
                "was found.",
            )
            judge.true(
                False,
                f"{question!r}: {extra[0]!r} is there too, but the question has no such word. A "
                "name must stand as whole words, not inside another word.",
            )
        missing = next(name for name in wanted if name not in begun)
        judge.true(
            missing.capitalize() not in question,
            f"{question!r}: {missing!r} is missing; a question may begin with a capital letter.",
        )
        judge.true(False, f"{question!r}: {missing!r} is missing.")


@exercise(
    "12.3",
    "Look it up",
    minutes=12,
    difficulty=2,
    importance=2,
    check=check_looked_up,
    statement=r"""
    `table` is a dictionary from names, in small letters, to doses. Write `looked_up(question,
    table)`: a list with one text for every name of the table that the question speaks of, such as
    `"House dose of metoprolol: 25 mg."`, in the order in which the question first names them. Each
    comes once; where there is none, the list is empty. Three things are easily overlooked:

    - a name counts only as whole words: `zinc` is not in "zincum";
    - one name may be part of another: in "ferrous fumarate" the question names `ferrous fumarate`
      and not `ferrous`;
    - the question may write a name with a capital letter.
    """,
    hints=(
        r"re.search(rf'\b{re.escape(name)}\b', text) finds a name as whole words. `\b` is the "
        "border of a word.",
        "Go through the names from the longest to the shortest. Where one is found, note its place "
        "and overwrite it with as many blanks, so that no shorter name is found inside it.",
        "Take question.lower(). found[m.start()] = name for the first match m of each name; "
        "re.sub overwrites all of them with ' ' * len(name). Return the lines sorted by place.",
    ),
    wrong=(
        mistake(
            "substring",
            "not inside another word",
            body="""
            text = question.lower()
            names = [name for name in table if name in text]
            names = [n for n in names if not any(n != m and n in m.split() for m in names)]
            return [f"House dose of {n}: {table[n]}." for n in sorted(names, key=text.index)]
            """,
        ),
        mistake(
            "short names first",
            "only a part",
            change=("sorted(table, key=len, reverse=True)", "sorted(table, key=len)"),
        ),
        mistake(
            "order of the table",
            "in the order in which the question names",
            change=(
                "[found[place] for place in sorted(found)]",
                "[name for name in table if name in found.values()]",
            ),
        ),
        mistake("capitals", "begin with a capital", change=("question.lower()", "question")),
        mistake(
            "doses alone",
            "of the form",
            change=('f"House dose of {name}: {table[name]}."', "table[name]"),
        ),
    ),
)
def looked_up(question: str, table: dict[str, str]) -> list[str]:
    """The lines of the table that the question speaks of, in its order."""
    import re

    text, found = question.lower(), {}
    for name in sorted(table, key=len, reverse=True):
        pattern = rf"\b{re.escape(name)}\b"
        match = re.search(pattern, text)
        if match:
            found[match.start()] = name
            text = re.sub(pattern, " " * len(name), text)
    names = [found[place] for place in sorted(found)]
    return [f"House dose of {name}: {table[name]}." for name in names]

"""Exercise 3.5: a held-out split by hash that does not leak."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


@contextmanager
def _salted_anew() -> Iterator[None]:
    """hash() of whatever holds a patient's name gives other numbers, as in another process."""
    plain = hash

    def salted(value: object) -> int:
        named = isinstance(value, (str, bytes, tuple)) and "patient" in repr(value).lower()
        return plain(value) + 7919 * named

    with mock.patch("builtins.hash", salted):
        yield


def _rows(judge: Judge, patients: int) -> list[dict[str, str]]:
    rows = []
    for i in range(patients):
        name = f"patient {judge.rng.integers(10**9)} {i}"
        for visit in range(1 + i % 3):
            note = f"visit {visit} of {name}: {judge.rng.integers(10**9)}"
            rows.append({"name": name, "note": note})
    return [rows[i] for i in judge.rng.permutation(len(rows))]


def check_split(fn: Callable, judge: Judge) -> None:
    for (patients,), share in ((judge.sizes(1900), 0.13), (judge.sizes(1300), 0.29)):
        rows = _rows(judge, patients)
        train, held = _halves(judge, fn, rows, share)
        names_held = {row["name"] for row in held}
        both = names_held & {row["name"] for row in train}
        judge.true(
            not both,
            f"{len(both)} patients stand on both sides: the split looks at the note, at the "
            "place of a row, or at chance. Hash the name, and all rows of a patient go together.",
        )
        got = len(names_held) / patients
        judge.true(
            abs(got + share - 1) > 0.05,
            "the two lists are swapped; the smaller one, of `share` of the names, is held out.",
        )
        judge.true(
            abs(got - share) < 5 * (share * (1 - share) / patients) ** 0.5,
            f"{100 * got:.1f} % of the patients were held out, and {100 * share:.0f} % were asked "
            "for; does `share` decide, and has your number digits enough?",
        )
        _judge_stable(judge, fn, rows, share, names_held)


def _halves(judge: Judge, fn: Callable, rows: list, share: float) -> tuple[list, list]:
    wanted = sorted(map(repr, rows))
    out = judge.call(fn, rows=rows, share=share)
    train, held = judge.parts(out, 2, "two lists of rows, `return train, held`")
    came = [*train, *held]
    judge.true(
        len(came) == len(rows),
        f"{len(rows)} rows went in, {len(came)} came out; each belongs to one side.",
    )
    judge.true(
        all(isinstance(row, dict) for row in came) and sorted(map(repr, came)) == wanted,
        "what came out are not the rows that went in; return the dictionaries as they are.",
    )
    return train, held


def _judge_stable(judge: Judge, fn: Callable, rows: list, share: float, before: set) -> None:
    again = _halves(judge, fn, rows[3 * len(rows) // 7 :][::-1], share)[1]
    names = {row["name"] for row in rows[3 * len(rows) // 7 :]}
    judge.true(
        {row["name"] for row in again} == before & names,
        "with fewer rows in another order some patients changed sides: a row's side hangs on the "
        "other rows or on chance. What was trained on yesterday is in today's test.",
    )
    with _salted_anew():
        salted = _halves(judge, fn, rows, share)[1]
    judge.true(
        {row["name"] for row in salted} == before,
        "your split uses Python's hash(), which is salted anew in every process: tomorrow the "
        "sides are others. Take one from hashlib.",
    )


@exercise(
    "3.5",
    "A split that does not leak",
    minutes=12,
    difficulty=2,
    importance=2,
    check=check_split,
    statement=r"""
    `rows` is a list of dictionaries with a `"name"` and a `"note"`; a patient may have several
    rows. Write `split(rows, share)` and return two lists, `train, held`, such that

    - all rows of one name are on one side,
    - about `share` of the names are held out,
    - the side of a name depends on nothing but the name: not on other rows, their order, a seed,
      or the process.

    A hash turns a name into a number that looks random and is always the same:
    `hashlib.sha256(name.encode()).hexdigest()` are 64 hexadecimal digits.
    """,
    hints=(
        "Write a small function from a name to a number between 0 and 1; compare it with share.",
        "int(digits[:8], 16) is a whole number below 16**8.",
        "rank = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8; held if it is "
        "below share.",
    ),
    wrong=(
        mistake("hash of the row", "stand on both sides", change=('row["name"]', 'row["note"]')),
        mistake(
            "names shuffled",
            "changed sides",
            body="""
            import random
            names = sorted({row["name"] for row in rows})
            random.Random(0).shuffle(names)
            kept = set(names[: round(share * len(names))])
            train = [row for row in rows if row["name"] not in kept]
            return train, [row for row in rows if row["name"] in kept]
            """,
        ),
        mistake(
            "Python's hash",
            "salted anew",
            body="""
            train, held = [], []
            for row in rows:
                (held if hash(row["name"].lower()) % 10007 < share * 10007 else train).append(row)
            return train, held
            """,
        ),
        mistake("always a half", "does `share` decide", change=("rank < share", "rank < 0.5")),
        mistake(
            "sides swapped",
            "lists are swapped",
            change=("return train, held", "return held, train"),
        ),
    ),
)
def split(rows: list[dict], share: float) -> tuple[list[dict], list[dict]]:
    """Rows for training, and the rows of about `share` of all names, held out by their hash."""
    train, held = [], []
    for row in rows:
        digest = hashlib.sha256(row["name"].encode()).hexdigest()
        rank = int(digest[:8], 16) / 16**8
        (held if rank < share else train).append(row)
    return train, held

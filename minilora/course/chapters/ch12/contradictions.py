"""Exercise 12.1: rows that say something else than the other rows of the same situation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge

Rows = Sequence[tuple[str, str]]


def _rows(judge: Judge) -> list[tuple[str, str]]:
    """(situation, answer): agreed ones, outvoted ones, two ties and rows that stand alone."""
    rng, rows = judge.rng, []
    words = [f"answer {i}" for i in rng.permutation(40)]
    agreed, outvoted, alone = judge.sizes(5, 4, 3)
    for i in range(agreed):  # most of them say the same, so that it is the commonest answer of all
        rows += [(f"agreed {i}", words[0])] * (2 + int(rng.integers(3)))
    for i in range(outvoted):
        most = 3 + int(rng.integers(3))
        rows += [(f"outvoted {i}", words[1 + i])] * most
        few = 1 + int(rng.integers(2)) if i else most - 1
        rows += [(f"outvoted {i}", words[0 if i == 1 else 20 + i])] * few
    rows += [("outvoted 0", "a third answer")]  # the most frequent one is no more than half here
    rows += [("tie", words[15])] * 2 + [("tie", words[16])] * 2 + [("tie", words[17])]
    rows += [("pair", words[18]), ("pair", words[19])]
    rows += [(f"alone {i}", words[-1 - i]) for i in range(alone)]
    return [rows[i] for i in rng.permutation(len(rows))]


def _grouped(rows: Rows) -> dict[str, Counter]:
    groups: dict[str, Counter] = {}
    for situation, answer in rows:
        groups.setdefault(situation, Counter())[answer] += 1
    return groups


def _leader(counts: Counter) -> str | None:
    """The answer that is given most often, None where two are."""
    first = counts.most_common(2)
    return None if len(first) == 2 and first[0][1] == first[1][1] else first[0][0]


def _places(rows: Rows, suspect: Callable[[str, str], bool]) -> list[int]:
    return [i for i, row in enumerate(rows) if suspect(*row)]


def _one_wins_a_tie(rows: Rows, found: Sequence[int], want: Sequence[int]) -> bool:
    """Whether all that is missing are the rows of one of the level answers of each tie."""
    groups = _grouped(rows)
    let_go: dict[str, set[str]] = {}
    for i in set(want) - set(found):
        let_go.setdefault(rows[i][0], set()).add(rows[i][1])
    return (
        bool(let_go)
        and set(found) <= set(want)
        and all(_leader(groups[s]) is None and len(won) == 1 for s, won in let_go.items())
    )


def _others(rows: Rows) -> dict[str, list[int]]:
    """What mistakes find in place of the suspect rows, by what to say about them."""
    groups = _grouped(rows)
    everybody = Counter(answer for _, answer in rows).most_common(1)[0][0]

    def at_the_top(situation: str, answer: str) -> bool:
        return groups[situation][answer] == max(groups[situation].values())

    return {
        "every row of a situation with two answers is there; where one answer is given most often, "
        "only the rows that say otherwise are suspect.": _places(
            rows, lambda s, a: len(groups[s]) > 1
        ),
        "the rows of a tie are missing; where two answers are given equally often, all rows of "
        "that situation are suspect.": _places(
            rows, lambda s, a: _leader(groups[s]) not in (None, a)
        ),
        "you compare with the answer that is commonest in all rows; compare within each "
        "situation.": _places(rows, lambda s, a: a != everybody),
        "a row that stands alone contradicts nobody; it is no suspect.": _places(
            rows, lambda s, a: a != _leader(groups[s]) or groups[s].total() == 1
        ),
        "you ask for more than half of a situation's rows; asked is the answer that is given most "
        "often, and that may be less than half.": _places(
            rows, lambda s, a: 2 * groups[s][a] <= groups[s].total()
        ),
        "those are the rows that agree; asked are the others.": _places(
            rows, lambda s, a: a == _leader(groups[s])
        ),
        "of a tie only the rows at the top are there; all rows of that situation are suspect.": (
            _places(
                rows,
                lambda s, a: at_the_top(s, a) if _leader(groups[s]) is None else
                a != _leader(groups[s]),
            )
        ),
    }  # fmt: skip


def check_suspects(fn: Callable, judge: Judge) -> None:
    for _ in range(3):
        rows = _rows(judge)
        got = judge.call(fn, rows=rows)
        judge.true(
            isinstance(got, (list, tuple, set, np.ndarray)),
            "return a list of the rows' numbers, such as [0, 3, 4].",
        )
        judge.true(
            all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in got),
            "return the rows' numbers (whole, from 0 on), not the rows themselves.",
        )
        found = [int(i) for i in got]
        judge.true(len(set(found)) == len(found), "a row is in your list twice; once is enough.")
        groups = _grouped(rows)
        want = [i for i, (s, a) in enumerate(rows) if a != _leader(groups[s])]
        if sorted(found) != want:
            judge.true(sorted(found) != [i + 1 for i in want], "rows are counted from 0, not 1.")
            for sentence, other in _others(rows).items():
                judge.true(sorted(found) != other, sentence)
            judge.true(
                not _one_wins_a_tie(rows, found, want),
                "where two answers are given equally often nobody can say which is right: then "
                "all rows of that situation are suspect. You let one of the two answers win.",
            )
            missing, extra = sorted(set(want) - set(found)), sorted(set(found) - set(want))
            situation, answer = rows[(missing or extra)[0]]
            counts = groups[situation].most_common()
            said = ", ".join(f"{n} times {a!r}" for a, n in counts)
            judge.true(
                False,
                f"row {(missing or extra)[0]} says {answer!r} in the situation {situation!r}, "
                f"where the rows say {said}: it is {'a' if missing else 'no'} suspect.",
            )
        judge.true(isinstance(got, set) or found == want, "return the numbers in rising order.")


@exercise(
    "12.1",
    "Who contradicts whom",
    minutes=10,
    difficulty=1,
    importance=3,
    check=check_suspects,
    statement=r"""
    `rows` is a list of pairs (situation, answer). Rows of one situation ask for the same decision,
    so they should have the same answer. Where they do not, the answer that is given most often is
    taken for the house's, and the rows that say otherwise are *suspect*. Where no single answer is
    given most often, because two or more are level at the top, nobody can tell who is right, and
    all rows of that situation are suspect.

    Write `suspects(rows)`: the numbers (0, 1, …) of all suspect rows, in rising order.
    """,
    hints=(
        "First count, for each situation, how often each answer is given: a dictionary of "
        "`collections.Counter`.",
        "counter.most_common(2) gives the two most frequent answers with their counts. Are the "
        "counts equal, there is no winner.",
        "A row is suspect if its situation has no winner, or if its answer is not the winner: "
        "[i for i, (s, a) in enumerate(rows) if a != winner[s]], with None for no winner.",
    ),
    wrong=(
        mistake(
            "whole groups",
            "every row of a situation with two answers",
            change=("answer != winner(counts[situation])", "len(counts[situation]) > 1"),
        ),
        mistake(
            "first wins a tie",
            "You let one of the two answers win",
            change=("None if level else first[0][0]", "first[0][0]"),
        ),
        mistake(
            "ties left out",
            "the rows of a tie are missing",
            change=(
                "answer != winner(counts[situation])",
                "winner(counts[situation]) not in (None, answer)",
            ),
        ),
        mistake(
            "commonest of all",
            "commonest in all rows",
            body="""
            from collections import Counter

            common = Counter(answer for _, answer in rows).most_common(1)[0][0]
            return [i for i, (_, answer) in enumerate(rows) if answer != common]
            """,
        ),
        mistake(
            "more than half",
            "may be less than half",
            change=(
                "answer != winner(counts[situation])",
                "2 * counts[situation][answer] <= counts[situation].total()",
            ),
        ),
        mistake(
            "turned round",
            "those are the rows that agree",
            change=("answer != winner", "answer == winner"),
        ),
        mistake("from 1", "counted from 0", change=("[i for i,", "[i + 1 for i,")),
        mistake(
            "rows",
            "not the rows themselves",
            change=("[i for i,", "[(situation, answer) for i,"),
        ),
    ),
)
def suspects(rows: list[tuple[str, str]]) -> list[int]:
    """Numbers of the rows that say something else than most rows of their situation."""
    from collections import Counter

    counts = {}
    for situation, answer in rows:
        counts.setdefault(situation, Counter())[answer] += 1

    def winner(counter):
        first = counter.most_common(2)
        level = len(first) == 2 and first[0][1] == first[1][1]
        return None if level else first[0][0]

    return [i for i, (situation, answer) in enumerate(rows) if answer != winner(counts[situation])]

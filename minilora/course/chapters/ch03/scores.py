"""Exercises 3.1 and 3.4: exact answers, and F1 over the items of a field."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge

WORDS = ("aspirin 75 mg od", "Dx: AF", "rhythm clinic 2/52", "CRP 84", "dose: none")
WAYS: dict[str, Callable[[str], str]] = {
    "right": str,
    "padded": lambda text: f"\t{text} \n",
    "cased": str.upper,
    "longer": lambda text: f"{text} bd",
    "empty": lambda text: "",
    "spaced": lambda text: text.replace(" ", "  ", 1),
    "broken": lambda text: text.replace(" ", "\n", 1),
    "stopped": lambda text: f"{text}.",
    "shorter": lambda text: text[:-1],
    "lined": lambda text: f"{text}\nnone",
}


def _answers(judge: Judge, **counts: int) -> tuple[list[str], list[str]]:
    """Texts and outputs: so many of each of WAYS; the texts of "moved" go round among outputs.

    Of the right ones, two are one text.
    """
    ways = [WAYS.get(name, str) for name, n in counts.items() for _ in range(n)]
    wanted = [f"{judge.rng.choice(WORDS)} {i}a" for i in range(len(ways))]
    wanted[1] = wanted[0]
    outputs = [way(text) for way, text in zip(ways, wanted, strict=True)]
    moved = counts["moved"]
    outputs[-moved:] = np.roll(outputs[-moved:], 1).tolist()
    order = judge.rng.permutation(len(wanted))
    return [wanted[i] for i in order], [outputs[i] for i in order]


def _other_shares(wanted: list[str], outputs: list[str]) -> dict[str, float]:
    """What other rules of comparing give, by what to say about them."""
    said = [output.strip() for output in outputs]
    pairs, total = list(zip(wanted, said, strict=True)), len(wanted)
    good = sum(w == s for w, s in pairs)
    return {
        "an answer in other capitals was counted as right; mg and MG are not one unit.": sum(
            w.lower() == s.lower() for w, s in pairs
        )
        / total,
        "white space around an answer was counted as an error; strip it.": sum(
            w == o for w, o in zip(wanted, outputs, strict=True)
        )
        / total,
        "an answer that only contains the right one was counted; it says more than it should.": sum(
            w in s for w, s in pairs
        )
        / total,
        "empty answers were left out of the denominator; silence is not right.": good
        / sum(map(bool, said)),
        "that is a count, and a share was asked for; divide by all answers.": good,
        "white space inside an answer was taken out or made one; only what is around it goes.": sum(
            w.split() == s.split() for w, s in pairs
        )
        / total,
        "a full stop at the end was forgiven; the house's format has none there.": sum(
            w == s.rstrip(".") for w, s in pairs
        )
        / total,
        "only the first line of an answer was compared; what follows counts as well.": sum(
            w == s.split("\n")[0] for w, s in pairs
        )
        / total,
        "an answer that belongs to another note was counted; compare pair by pair.": sum(
            s in wanted for s in said
        )
        / total,
        "that is the share of wrong answers.": 1 - good / total,
        "an answer that is only a part of the right one was counted.": sum(s in w for w, s in pairs)
        / total,
        "spaces inside an answer were taken out; only what is around it goes.": sum(
            w.replace(" ", "") == o.replace(" ", "") for w, o in zip(wanted, outputs, strict=True)
        )
        / total,
        "the empty answers were counted as right; silence is not.": sum(
            w == s or not s for w, s in pairs
        )
        / total,
        "that says whether all answers are right; the share of them was asked for.": float(
            good == total
        ),
        "equal texts were counted once; every note is an answer of its own.": len(
            {w for w, s in pairs if w == s}
        )
        / total,
    }


def check_exact_rate(fn: Callable, judge: Judge) -> None:
    for plenty in judge.sizes(1, 9):
        wanted, outputs = _answers(
            judge, right=5 + plenty, padded=2, cased=3, longer=4, empty=6, spaced=7, broken=1,
            stopped=10, lined=12, shorter=9, moved=14,
        )  # fmt: skip
        good = sum(w == o.strip() for w, o in zip(wanted, outputs, strict=True))
        judge.number(
            "the share",
            judge.call(fn, wanted=wanted, outputs=outputs),
            good / len(wanted),
            instead=_other_shares(wanted, outputs),
        )


@exercise(
    "3.1",
    "Right to the last character",
    minutes=5,
    difficulty=1,
    importance=3,
    check=check_exact_rate,
    statement=r"""
    Write `exact_rate(wanted, outputs)` for two lists of texts of one length: the share of outputs
    that equal what was wanted. White space **around** an output does not count, everything else
    does. An empty output is an answer like any other, and a wrong one.
    """,
    hints=(
        "Pair the lists with zip, and compare with ==.",
        "output.strip() takes the white space off both ends.",
        "Add up (text == output.strip()) over the pairs and divide by len(outputs).",
    ),
    wrong=(
        mistake("not stripped", "white space around", change=("output.strip()", "output")),
        mistake(
            "any capitals",
            "in other capitals",
            change=("text == output.strip()", "text.lower() == output.strip().lower()"),
        ),
        mistake(
            "contained",
            "only contains",
            change=("text == output.strip()", "text in output"),
        ),
        mistake(
            "silence left out",
            "left out of the denominator",
            change=("/ len(outputs)", "/ sum(bool(output) for output in outputs)"),
        ),
        mistake("wrong ones", "share of wrong answers", change=("text ==", "text !=")),
        mistake(
            "a part", "only a part", change=("text == output.strip()", "output.strip() in text")
        ),
        mistake(
            "silence is right",
            "counted as right; silence",
            change=("output.strip()", "(output.strip() or text)"),
        ),
        mistake(
            "all or nothing",
            "whether all answers",
            body="return float(wanted == [output.strip() for output in outputs])",
        ),
        mistake("count", "that is a count", change=(" / len(outputs)", "")),
        mistake(
            "white space inside",
            "white space inside",
            change=("text == output.strip()", "text.split() == output.split()"),
        ),
        mistake(
            "full stop",
            "full stop at the end",
            change=("text == output.strip()", 'text == output.strip().rstrip(".")'),
        ),
        mistake(
            "first line",
            "only the first line",
            change=("output.strip()", 'output.strip().split("\\n")[0]'),
        ),
        mistake(
            "any note",
            "belongs to another note",
            change=("text == output.strip()", "output.strip() in wanted"),
        ),
        mistake(
            "sets",
            "equal texts were counted once",
            body="""
            right = {text for text, output in zip(wanted, outputs) if text == output.strip()}
            return len(right) / len(outputs)
            """,
        ),
    ),
)
def exact_rate(wanted: list[str], outputs: list[str]) -> float:
    """Share of outputs equal to the text that was wanted."""
    right = sum(text == output.strip() for text, output in zip(wanted, outputs, strict=True))
    return right / len(outputs)


def _sets(judge: Judge, notes: int) -> tuple[list[set[str]], list[set[str]]]:
    """Items that were wanted and given, of uneven numbers; some notes have none of either."""
    items = [f"{drug} {dose} mg" for drug in ("a", "b", "c") for dose in (5, 10, 20)]
    wanted, given = ([set() for _ in range(notes)] for _ in range(2))
    for i in range(notes):
        wanted[i].update(judge.rng.choice(items, size=1 + i % 3, replace=False).tolist())
        given[i].update(sorted(wanted[i])[: 1 + i % 2])
        given[i].update(judge.rng.choice(items, size=2 * (i % 3), replace=False).tolist())
    given[0], wanted[2] = set(), set()
    return wanted, given


def _mean_f1(wanted: list[set[str]], given: list[set[str]]) -> float:
    pairs = zip(wanted, given, strict=True)
    return float(np.mean([2 * len(w & g) / (len(w) + len(g)) if w | g else 1 for w, g in pairs]))


def _other_scores(wanted: list[set[str]], given: list[set[str]]) -> dict[str, float]:
    """What learners compute in place of micro F1, by what to say about it."""
    found = sum(len(w & g) for w, g in zip(wanted, given, strict=True))
    asked, said = sum(map(len, wanted)), sum(map(len, given))
    pooled, spoken = set().union(*wanted), set().union(*given)
    return {
        "that is precision, the share of what was given; what was missed costs nothing there.": (
            found / said
        ),
        "that is recall, the share of what was wanted; whoever says everything has it.": (
            found / asked
        ),
        "that is an average of one F1 a note; add the counts up over all notes first.": (
            _mean_f1(wanted, given)
        ),
        "items of one note were found in another; compare note by note.": (
            2 * len(pooled & spoken) / (len(pooled) + len(spoken))
        ),
        "that is the share of the union (Jaccard); F1 counts what was found twice.": (
            found / (asked + said - found)
        ),
        "the factor 2 is missing; an item that was found is in both sums.": found / (asked + said),
        "the items that were found are in both sums, and the bottom has the union.": (
            2 * found / (asked + said - found)
        ),
        "that is the geometric mean of precision and recall, and F1 is their harmonic mean.": (
            (found / said * found / asked) ** 0.5
        ),
        "that is a count; divide it by all that was wanted and given.": found,
        "that is the share of notes whose two sets are equal; count items.": float(
            np.mean([w == g for w, g in zip(wanted, given, strict=True)])
        ),
        "that is the plain mean of precision and recall, and F1 is their harmonic mean.": (
            (found / said + found / asked) / 2
        ),
    }


def check_field_f1(fn: Callable, judge: Judge) -> None:
    for notes in (*judge.sizes(13), *judge.sizes(17)):
        wanted, given = _sets(judge, notes)
        others = _other_scores(wanted, given)
        while len({round(v, 5) for v in others.values()}) < len(others):
            wanted, given = _sets(judge, notes)  # two mistakes gave one number: draw again
            others = _other_scores(wanted, given)
        # precision and recall from flat lists, and F1 as their harmonic mean
        flat_wanted = {(i, item) for i, items in enumerate(wanted) for item in items}
        flat_given = {(i, item) for i, items in enumerate(given) for item in items}
        found = len(flat_wanted & flat_given)
        precision, recall = found / len(flat_given), found / len(flat_wanted)
        judge.number(
            "F1",
            judge.call(fn, wanted=wanted, given=given),
            2 / (1 / precision + 1 / recall),
            instead=others,
        )


@exercise(
    "3.4",
    "F1 over the items of a field",
    minutes=10,
    difficulty=2,
    importance=1,
    check=check_field_f1,
    statement=r"""
    For every note there is a set of items that were wanted, such as `{"aspirin 75 mg"}`, and a
    set that was given. Write `field_f1(wanted, given)` for two lists of sets: with $TP$ the number
    of items that are in both sets of their note, added up over **all** notes,

    $$F_1 = \frac{2\, TP}{\sum |\text{wanted}| + \sum |\text{given}|} .$$

    It is the harmonic mean of precision (what was given, was it right?) and recall (what was
    wanted, was it given?).
    """,
    hints=(
        "For two sets, wanted & given is what they share.",
        "Count three numbers over all notes: shared, wanted, given. Divide once, at the end.",
        "found = sum(len(w & g) for w, g in zip(wanted, given)), and the rest are sums of len.",
    ),
    wrong=(
        mistake("precision", "that is precision", change=("2 * found / total", "found / said")),
        mistake("recall", "that is recall", change=("2 * found / total", "found / (total - said)")),
        mistake(
            "mean over notes",
            "one F1 a note",
            body="""
            scores = []
            for w, g in zip(wanted, given):
                scores.append(2 * len(w & g) / (len(w) + len(g)) if w | g else 1)
            return sum(scores) / len(scores)
            """,
        ),
        mistake(
            "all notes in one set",
            "found in another",
            body="""
            w, g = set().union(*wanted), set().union(*given)
            return 2 * len(w & g) / (len(w) + len(g))
            """,
        ),
        mistake("union", "the bottom has the union", change=("/ total", "/ (total - found)")),
        mistake(
            "geometric mean",
            "that is the geometric mean",
            change=("2 * found / total", "found / (said * (total - said)) ** 0.5"),
        ),
        mistake(
            "equal sets",
            "two sets are equal",
            body="return sum(w == g for w, g in zip(wanted, given)) / len(wanted)",
        ),
        mistake("no factor 2", "factor 2 is missing", change=("2 * found", "found")),
        mistake(
            "plain mean",
            "the plain mean",
            change=("2 * found / total", "(found / said + found / (total - said)) / 2"),
        ),
        mistake(
            "Jaccard", "share of the union", change=("2 * found / total", "found / (total - found)")
        ),
    ),
)
def field_f1(wanted: list[set[str]], given: list[set[str]]) -> float:
    """2 TP / (wanted + given), counted over all notes."""
    found = sum(len(w & g) for w, g in zip(wanted, given, strict=True))
    said = sum(map(len, given))
    total = sum(map(len, wanted)) + said
    return 2 * found / total

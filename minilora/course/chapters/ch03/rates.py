"""Exercises 3.2 and 3.3: an interval for a rate, and the rate of invented doses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_wilson(fn: Callable, judge: Judge) -> None:
    all_right, some, most, none = judge.sizes(31, 23, 60, 17)
    missed = int(judge.rng.integers(2, 5))
    for right, count, z in (
        (most - missed, most, 1.96),
        (some // 3, some, 1.3),
        (all_right, all_right, 2.2),
        (0, none, 0.9),
    ):
        out = judge.call(fn, right=right, count=count, z=z)
        ends = judge.parts(out, 2, "two ends, `return low, high`")
        low, high = map(judge.one, ("low", "high"), ends)
        _judge_ends(judge, low, high, right, count, z)
        judge.true(low < high, f"low {low:.3g} is not below high {high:.3g}.")
        share = right / count
        wald = z * math.sqrt(share * (1 - share) / count)
        textbook = np.array([share - wald, share + wald])
        judge.true(
            not any(np.allclose([low, high], t) for t in (textbook, textbook.clip(0, 1))),
            "that is the textbook interval, with the spread at the share that was seen; at the "
            "ends the spread is another, and at 100 % it would be zero.",
        )
        judge.true(
            not np.isclose(low + high, 2 * share, atol=1e-6) or share == 0.5,
            "your interval is centred on the share that was seen; solved for p, its middle moves "
            "towards one half.",
        )
        judge.true(
            low >= -1e-9 and high <= 1 + 1e-9, f"({low:.3g}, {high:.3g}) leaves the range 0 to 1."
        )
        for p, name in ((low, "low"), (high, "high")):
            # the definition: at both ends the seen share is exactly z spreads away
            spreads = abs(share - p) / math.sqrt(max(p * (1 - p), 1e-18) / count)
            at_edge = right in (0, count) and abs(p - share) < 1e-9
            judge.true(
                at_edge or np.isclose(spreads, z, rtol=1e-5),
                f"{name} = {p:.4g} is {spreads:.3g} spreads from the share that was seen, and it "
                f"should be z = {z:.3g}. Solve the quadratic again: is every z in it squared, and "
                "the one you were given?",
            )


def _judge_ends(judge: Judge, low: float, high: float, right: int, count: int, z: float) -> None:
    """Wilson's ends that were handed over in another form, or from other numbers."""

    def middle_and_side(z: float) -> tuple[float, float, float]:
        share, k = right / count, z * z / count
        side = (share * (1 - share) * k + k * k / 4) ** 0.5
        return (share + k / 2) / (1 + k), side / (1 + k), 1 + k

    middle, side, divisor = middle_and_side(z)
    usual, usual_side, _ = middle_and_side(1.96)
    for sentence, a, b in (
        (
            "that is the middle and the distance to the ends; return middle - distance and middle "
            "+ distance.",
            middle,
            side,
        ),
        (
            "the distance to the ends is not divided by 1 + z²/n.",
            middle - divisor * side,
            middle + divisor * side,
        ),
        (
            "the middle is not divided by 1 + z²/n.",
            divisor * middle - side,
            divisor * middle + side,
        ),
        ("you took 1.96, whatever `z` is.", usual - usual_side, usual + usual_side),
    ):
        judge.true(
            not np.allclose((low, high), (a, b)) or (a, b) == (middle - side, middle + side),
            sentence,
        )


@exercise(
    "3.2",
    "An interval for a rate",
    minutes=15,
    difficulty=2,
    importance=3,
    check=check_wilson,
    statement=r"""
    `right` of `count` answers are right, $\hat p$ of them. If the true rate is $p$, then $\hat p$
    scatters around it with the spread $\sqrt{p(1-p)/n}$. Which $p$ are within $z$ spreads of what
    was seen? Those between the two solutions of

    $$(\hat p - p)^2 = z^2\, \frac{p\,(1 - p)}{n}.$$

    Write `wilson(right, count, z)` and return them, `low, high`.
    """,
    hints=(
        "Bring everything to one side and sort by powers of p. It is a quadratic: a p² - b p + c.",
        "a = 1 + z²/n, b = 2 p̂ + z²/n, c = p̂². Its roots are (b ± sqrt(b² - 4 a c)) / (2 a).",
        "Written out: centre (p̂ + z²/2n) / (1 + z²/n), and to each side z / (1 + z²/n) times "
        "sqrt(p̂(1 - p̂)/n + z²/4n²).",
    ),
    wrong=(
        mistake(
            "textbook",
            "textbook interval",
            body="""
            share = right / count
            spread = z * (share * (1 - share) / count) ** 0.5
            return share - spread, share + spread
            """,
        ),
        mistake(
            "not moved",
            "centred on the share",
            body="""
            share = right / count
            spread = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
            return share - spread, share + spread
            """,
        ),
        mistake(
            "middle and distance",
            "the middle and the distance",
            change=("centre - side, centre + side", "centre, side"),
        ),
        mistake(
            "always 1.96", "you took 1.96", change=("k = z * z / count", "k = 1.96**2 / count")
        ),
        mistake(
            "middle not divided",
            "middle is not divided",
            change=("(share + k / 2) / (1 + k)", "share + k / 2"),
        ),
        mistake(
            "distance not divided",
            "ends is not divided",
            change=("k * k / 4) ** 0.5 / (1 + k)", "k * k / 4) ** 0.5"),
        ),
        mistake("z not squared", "is every z", change=("k = z * z / count", "k = z / count")),
        mistake(
            "swapped",
            "not below high",
            change=("centre - side, centre + side", "centre + side, centre - side"),
        ),
    ),
)
def wilson(right: int, count: int, z: float) -> tuple[float, float]:
    """Wilson's interval for the rate behind `right` of `count`."""
    share = right / count
    k = z * z / count
    centre = (share + k / 2) / (1 + k)
    side = (share * (1 - share) * k + k * k / 4) ** 0.5 / (1 + k)
    return centre - side, centre + side


DRUGS = ("aspirin", "digoxin", "ramipril", "warfarin", "zinc")


def _notes(judge: Judge, count: int) -> tuple[list[dict], list[dict]]:
    """What notes and answers say of each drug: its dose, or None. An answer may omit a drug."""
    notes, outputs = [], []
    for i in range(count):
        drugs = judge.rng.permutation(DRUGS)[: 1 + i % 4].tolist()
        note = {
            drug: None if (i + j) % 5 < 3 else f"{5 * j + 5} mg" for j, drug in enumerate(drugs)
        }
        output = dict(note)
        for j, (drug, dose) in enumerate(note.items()):
            if dose is None and (i + j) % 5 < 2:
                output[drug] = "20 mg"  # invented
            elif dose is None and i % 5 == 0:
                del output[drug]  # left out, which is another mistake
            elif dose is not None and (i + 2 * j) % 5 == 0:
                output[drug] = "99 mg"  # misread, which is another mistake
        notes.append(note)
        outputs.append(output)
    return notes, outputs


def _mean_of_notes(notes: list[dict], outputs: list[dict]) -> float:
    """The average of one rate for each note that lacks a dose."""
    pairs = [p for p in zip(notes, outputs, strict=True) if None in p[0].values()]
    return float(
        np.mean([np.mean([out.get(d) is not None for d in n if n[d] is None]) for n, out in pairs])
    )


def _notes_with_one(notes: list[dict], outputs: list[dict]) -> int:
    """How many notes have an invented dose."""
    return sum(
        any(output.get(drug) is not None for drug in note if note[drug] is None)
        for note, output in zip(notes, outputs, strict=True)
    )


def _other_rates(notes: list[dict], outputs: list[dict]) -> tuple[float, dict[str, float]]:
    """The rate, and what mistakes give in its place, by what to say about them."""
    missing = [(i, d) for i, note in enumerate(notes) for d in note if note[d] is None]
    invented = [(i, d) for i, d in missing if outputs[i].get(d)]
    everything = sum(map(len, notes))
    wrong = sum(
        out.get(d) != note[d] for note, out in zip(notes, outputs, strict=True) for d in note
    )
    spoken = sum(d in outputs[i] for i, d in missing)
    return len(invented) / len(missing), {
        "you divided by all drugs; only a missing dose can be invented, so divide by the "
        "missing ones.": len(invented) / everything,
        "you divided by the number of notes; a note may lack two doses, or none.": len(invented)
        / len(notes),
        "you counted every dose that differs; a misread dose and a drug that was left out "
        "are other mistakes.": wrong / everything,
        "drugs that the answer leaves out fell from the denominator; their dose was "
        "missing as well.": len(invented) / spoken,
        "that is the share of notes with an invented dose; count doses, not notes.": (
            _notes_with_one(notes, outputs) / len(notes)
        ),
        "that is the share of notes with an invented dose, of those that lack one; count "
        "doses, not notes.": _notes_with_one(notes, outputs)
        / sum(None in note.values() for note in notes),
        "a drug that the answer leaves out was counted as given.": (
            len(invented) + len(missing) - spoken
        )
        / len(missing),
        "that is the share of drugs for which the answer gives a dose, recorded or not; ask of the "
        "missing ones.": sum(
            out.get(d) is not None for n, out in zip(notes, outputs, strict=True) for d in n
        )
        / everything,
        "that is a count; divide by the number of missing doses.": len(invented),
        "that is the share that was not invented.": 1 - len(invented) / len(missing),
        "that is a share of the doses that were given; the missing ones were asked for.": (
            len(invented) / sum(dose is not None for out in outputs for dose in out.values())
        ),
        "that is an average of one rate a note; count the doses of all notes together.": (
            _mean_of_notes(notes, outputs)
        ),
    }


def check_invented_rate(fn: Callable, judge: Judge) -> None:
    for like in (13, 19):
        while True:
            notes, outputs = _notes(judge, *judge.sizes(like))
            want, others = _other_rates(notes, outputs)
            if len({round(rate, 5) for rate in (want, *others.values())}) > len(others):
                break  # otherwise two mistakes gave one number: draw again
        got = judge.call(fn, notes=notes, outputs=outputs)
        judge.number("the rate", got, want, instead=others)
    full = [{"aspirin": "75 mg"}]
    try:
        out = fn(full, full)
    except ZeroDivisionError:
        out = "divided by zero"
    judge.true(
        out is not None and not isinstance(out, str),
        "no note lacks a dose, and yours "
        + ("returned None" if out is None else "divides by zero")
        + '; there is no rate then, so return float("nan").',
    )
    rate = judge.one("the rate where no dose is missing", out)
    judge.true(
        math.isnan(rate),
        f"no note lacks a dose, and yours says {rate:.3g}; there is no rate then, so return "
        'float("nan").',
    )


@exercise(
    "3.3",
    "The rate of invented doses",
    minutes=10,
    difficulty=2,
    importance=3,
    check=check_invented_rate,
    statement=r"""
    `notes` and `outputs` are lists of dictionaries, one a note, from a drug's name to its dose, or
    to `None` where no dose is given: `{"aspirin": "75 mg", "digoxin": None}`. An output may leave
    a drug out. Write `invented_rate(notes, outputs)`: of the doses that the notes do **not** give,
    the share that the outputs give all the same. A drug that is left out was not given a dose.
    Where no dose is missing there is no rate: return `float("nan")`.
    """,
    hints=(
        "Ask first: of what is this a share? Collect those, and count within them.",
        "Walk over notes and drugs; skip drugs with a dose. output.get(drug) is None both for a "
        "drug without a dose and for one that is left out.",
        "given = [output.get(drug) is not None for note, output in zip(notes, outputs) for drug in "
        "note if note[drug] is None]; the rate is its mean, unless it is empty.",
    ),
    wrong=(
        mistake(
            "all drugs",
            "divided by all drugs",
            change=("sum(given) / len(given)", "sum(given) / sum(map(len, notes))"),
        ),
        mistake(
            "all notes",
            "number of notes",
            change=("sum(given) / len(given)", "sum(given) / len(notes)"),
        ),
        mistake(
            "every difference",
            "every dose that differs",
            body="""
            pairs = list(zip(notes, outputs))
            bad = [out.get(drug) != note[drug] for note, out in pairs for drug in note]
            return sum(bad) / len(bad)
            """,
        ),
        mistake(
            "left out",
            "fell from the denominator",
            change=("if note[drug] is None", "if note[drug] is None and drug in output"),
        ),
        mistake(
            "left out is given",
            "was counted as given",
            change=("output.get(drug) is not None", 'output.get(drug, "") is not None'),
        ),
        mistake(
            "a rate a note",
            "one rate a note",
            body="""
            rates = []
            for note, output in zip(notes, outputs):
                given = [output.get(drug) is not None for drug in note if note[drug] is None]
                if given:
                    rates.append(sum(given) / len(given))
            return sum(rates) / len(rates) if rates else float("nan")
            """,
        ),
        mistake(
            "the share of notes",
            "count doses, not notes",
            body="""
            bad = [
                any(output.get(d) is not None for d in note if note[d] is None)
                for note, output in zip(notes, outputs)
            ]
            return sum(bad) / len(notes) if any(None in n.values() for n in notes) else float("nan")
            """,
        ),
        mistake("count", "that is a count", change=("sum(given) / len(given)", "sum(given)")),
        mistake(
            "not invented",
            "was not invented",
            change=("is not None\n        for", "is None\n        for"),
        ),
        mistake(
            "given ones",
            "share of the doses that were given",
            body="""
            pairs = list(zip(notes, outputs))
            said = [note[d] is None for note, output in pairs for d in output if output[d]]
            return sum(said) / len(said)
            """,
        ),
        mistake(
            "divides by zero", "yours divides by zero", change=(' if given else float("nan")', "")
        ),
        mistake("None", "yours returned None", change=('float("nan")', "None")),
        mistake("zero for none", "yours says 0", change=('float("nan")', "0.0")),
    ),
)
def invented_rate(notes: list[dict], outputs: list[dict]) -> float:
    """Of the doses that notes do not give, the share that outputs give."""
    given = [
        output.get(drug) is not None
        for note, output in zip(notes, outputs, strict=True)
        for drug in note
        if note[drug] is None
    ]
    return sum(given) / len(given) if given else float("nan")

"""Exercises 10.1 and 10.2: a paired test that knows patients, and a gate's verdict."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge, Mistake


def _nets(before: Sequence[bool], after: Sequence[bool], patients: Sequence[str]) -> np.ndarray:
    """Rows gained less rows lost, for each patient."""
    change = np.asarray(after, int) - np.asarray(before, int)
    return np.array([change[np.asarray(patients) == p].sum() for p in dict.fromkeys(patients)])


def _signed_sums(net: np.ndarray) -> np.ndarray:
    """The sums of net under every choice of signs, (2^n,)."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(net))))
    return signs @ net


def _answers_of_patients(judge: Judge, count: int) -> tuple[list[bool], list[bool], list[str]]:
    """Rows of `count` patients, one to three each, of which more are lost than gained."""
    before, after, patients = [], [], []
    for i in range(count):
        rows = 1 + int(judge.rng.integers(3))
        change = int(judge.rng.choice((-1, -1, -1, 0, 1)))
        for j in range(rows):
            same = judge.rng.random() < 0.25
            step = 0 if same and j else change
            was = step < 0 or (step == 0 and judge.rng.random() < 0.6)
            before.append(bool(was))
            after.append(bool(was) if step == 0 else step > 0)
            patients.append(f"patient {i}")
    order = judge.rng.permutation(len(before))
    return tuple([column[i] for i in order] for column in (before, after, patients))


def _other_tests(before, after, patients) -> tuple[float, dict[str, float]]:
    """The p-value, and what mistakes give in its place, by what to say about them."""
    net = _nets(before, after, patients)
    sums, seen = _signed_sums(net), net.sum()
    rows = np.asarray(after, int) - np.asarray(before, int)
    lost, gained = int((rows < 0).sum()), int((rows > 0).sum())
    alone = _coin(lost, gained)
    means = np.array([net[i] / patients.count(p) for i, p in enumerate(dict.fromkeys(patients))])
    of_means = float((_signed_sums(means) <= means.sum() + 1e-9).mean())
    return float((sums <= seen).mean()), {
        "every row was given a sign of its own; rows of one patient change sides together.": alone,
        "that is the chance of so large a sum on either side; asked is only: so low, or lower.": (
            float((np.abs(sums) >= abs(seen)).mean())
        ),
        "a sum that is exactly as low as the one seen counts as well: <=, not <.": float(
            (sums < seen).mean()
        ),
        "that is the chance of a sum so high or higher; asked is so low or lower.": float(
            (sums >= seen).mean()
        ),
        "each patient's net was made a mean over their rows; add up the rows.": of_means,
        "each patient counts as plus or minus 1 only; one who lost three rows has a net of -3.": (
            _coin(int((net < 0).sum()), int((net > 0).sum()))
        ),
        "that is how many of the choices; divide by all 2^n of them.": float((sums <= seen).sum()),
    }


def _coin(lost: int, gained: int) -> float:
    """The chance that of lost + gained fair coins so many fall to the lost side, or more."""
    return float((_signed_sums(np.r_[-np.ones(lost), np.ones(gained)]) <= gained - lost).mean())


def check_paired_test(fn: Callable, judge: Judge) -> None:
    cases = []
    for like, worse in ((6, True), (7, True), (5, True), (6, False)):
        while True:
            before, after, patients = _answers_of_patients(judge, *judge.sizes(like))
            if not worse:  # the sum of the nets lies above 0
                before, after = after, before
            changed = sum(a != b for a, b in zip(before, after, strict=True))
            want, others = _other_tests(before, after, patients) if 3 <= changed <= 13 else (1, {})
            values = [want, *others.values()]
            clear = want < 0.45 if worse else 0.55 < want < 1
            if others and clear and len({round(v, 6) for v in values}) == len(values):
                break  # otherwise two mistakes gave one number: draw again
        got = judge.call(fn, before=before, after=after, patients=patients)
        cases.append(("the p-value", got, want, others))
    judge.numbers(cases)
    same = [True, False, True]
    got = judge.call(fn, before=same, after=same, patients=["a", "b", "b"])
    judge.number(
        "the p-value where no answer changed",
        got,
        1.0,
        instead={
            "no answer changed, and every choice of signs gives the sum 0, as low as it: 1.": 0.0
        },
    )


@exercise(
    "10.1",
    "A paired test that knows patients",
    minutes=20,
    difficulty=3,
    importance=3,
    check=check_paired_test,
    statement=r"""
    `before` and `after` say of each row whether the base's and the adapted model's answer is right,
    and `patients` whose row it is. A patient's *net* is the rows that they gained less the rows
    that they lost: right after but not before counts $+1$, right before but not after $-1$.

    Were the two models equally good, then for each patient it would be chance which of them is
    called "before". To change sides turns the sign of that patient's net, of all their rows
    together. With $n$ patients there are $2^n$ choices of signs, all equally likely.

    Write `p_worse(before, after, patients)`: the share of the $2^n$ choices whose sum of signed
    nets is as low as the one that was seen, or lower. There are at most 12 patients.
    """,
    hints=(
        "First the nets, one a patient: sum after - before over the rows of each.",
        "itertools.product((-1, 1), repeat=n) gives all choices of signs. A patient whose net is 0 "
        "may stay in: both of their signs give the same sum.",
        "nets = [sum(a - b for b, a, p in zip(before, after, patients) if p == q) for q in "
        "set(patients)]; then the mean, over all choices, of (sum of sign * net) <= sum(nets).",
    ),
    wrong=(
        mistake(
            "rows alone",
            "rows of one patient change sides together",
            change=("nets.values()", "int(a) - int(b) for b, a in zip(before, after) if a != b"),
        ),
        mistake(
            "two-sided",
            "on either side",
            change=(
                "np.dot(signs, nets) <= sum(nets) + 1e-9",
                "abs(np.dot(signs, nets)) >= abs(sum(nets))",
            ),
        ),
        mistake("strict", "<=, not <", change=("<= sum(nets) + 1e-9", "< sum(nets)")),
        mistake("other side", "so high or higher", change=("<= sum(nets) + 1e-9", ">= sum(nets)")),
        mistake(
            "signs only",
            "plus or minus 1 only",
            change=(
                "nets = list(nets.values())",
                "nets = [(n > 0) - (n < 0) for n in nets.values()]",
            ),
        ),
        mistake(
            "means",
            "made a mean",
            change=("+ int(a) - int(b)", "+ (int(a) - int(b)) / list(patients).count(p)"),
        ),
        mistake("count", "divide by all", change=("/ 2 ** len(nets)", "")),
    ),
)
def p_worse(before: list[bool], after: list[bool], patients: list[str]) -> float:
    """The chance of so low a sum of nets, were the two models equally good."""
    nets = {}
    for b, a, p in zip(before, after, patients, strict=True):
        nets[p] = nets.get(p, 0) + int(a) - int(b)
    nets = list(nets.values())
    choices = itertools.product((-1, 1), repeat=len(nets))
    low = sum(np.dot(signs, nets) <= sum(nets) + 1e-9 for signs in choices)
    return low / 2 ** len(nets)


# -- the verdict -----------------------------------------------------------------------------------

PASS, FAIL, CANT_TELL = "pass", "fail", "can't tell"
Interval = Callable[[int, int], tuple[float, float]]


def _interval(z: float) -> Interval:
    """Wilson's, with this z."""

    def wilson(count: int, of: int) -> tuple[float, float]:
        share, k = count / of, z * z / of
        side = (share * (1 - share) * k + k * k / 4) ** 0.5
        return (share + k / 2 - side) / (1 + k), (share + k / 2 + side) / (1 + k)

    return wilson


def _told(low: float, high: float, tolerance: float) -> str:
    return PASS if low > -tolerance else FAIL if high < -tolerance else CANT_TELL


def _verdicts(lost: int, gained: int, rows: int, tolerance: float, interval: Interval) -> dict:
    """The right verdict, under "", and what mistakes say."""
    change = (gained - lost) / rows
    (a, b), (c, d) = interval(lost, rows), interval(gained, rows)
    low, high = c - b, d - a
    return {
        "": _told(low, high, tolerance),
        "that looks at the change alone; a few rows may show it by chance, so look at both ends.": (
            PASS if change > -tolerance else FAIL
        ),
        "the sign of the tolerance: a drop is a change below 0, so compare with -tolerance.": (
            _told(low, high, -tolerance)
        ),
        "what does not pass need not fail: -tolerance may lie between the ends; can't tell then.": (
            PASS if low > -tolerance else FAIL
        ),
        "what does not fail need not pass: -tolerance may lie between the ends; can't tell then.": (
            FAIL if high < -tolerance else PASS
        ),
        "the ends are swapped: pass needs even the low end above -tolerance.": (
            PASS if high > -tolerance else FAIL if low < -tolerance else CANT_TELL
        ),
        "the rows that were gained are missing: they make up for some of the lost.": (
            _told(-b, -a, tolerance)
        ),
        "the change is lowest where most were lost and fewest gained: low is gained's low end less "
        "lost's high end.": _told(min(c - a, d - b), max(c - a, d - b), tolerance),
        "that is an interval for the lost rows less the gained ones; the change is gained less "
        "lost.": _told(a - d, b - c, tolerance),
        "the tolerance is not in it: you compare with 0.": _told(low, high, 0.0),
        "a sure loss need not fail: as long as it may be smaller than the tolerance, can't tell.": (
            PASS if low > -tolerance else FAIL if high < 0 else CANT_TELL
        ),
        "the `interval` that you are given must be asked; yours is always Wilson's with z = 1.96.":
        _told(*_ends(lost, gained, rows, _interval(1.96)), tolerance),
        "both ends at once are asked for: low of gained less high of lost. Yours adds the sides by "
        "their squares, as Newcombe does.": _told(
            change - ((gained / rows - c) ** 2 + (b - lost / rows) ** 2) ** 0.5,
            change + ((d - gained / rows) ** 2 + (lost / rows - a) ** 2) ** 0.5,
            tolerance,
        ),
        "the gained rows have an interval too.": _told(
            gained / rows - b, gained / rows - a, tolerance
        ),
        "the lost rows have an interval too.": _told(c - lost / rows, d - lost / rows, tolerance),
        "lost and gained are both counted of all `rows`.": _told(
            interval(gained, max(rows - lost, gained, 1))[0]
            - interval(lost, max(rows - gained, lost, 1))[1],
            interval(gained, max(rows - lost, gained, 1))[1]
            - interval(lost, max(rows - gained, lost, 1))[0],
            tolerance,
        ),
    }  # fmt: skip


def _ends(lost: int, gained: int, rows: int, interval: Interval) -> tuple[float, float]:
    """The least and the greatest change of the share."""
    (a, b), (c, d) = interval(lost, rows), interval(gained, rows)
    return c - b, d - a


def _drawn(judge: Judge) -> list[tuple[int, int, int, float, Interval]]:
    """Inputs in which every mistake says something else than the right verdict, more than once."""
    drawn, shown = [], Counter()
    while not shown or min(shown.values()) < 2:
        rows, z = int(judge.rng.integers(40, 600)), float(judge.rng.choice((1.0, 1.5, 1.96, 2.6)))
        lost, gained = (int(share * rows) for share in judge.rng.uniform(0, 0.5, 2))
        interval = _interval(z)
        low, high = _ends(lost, gained, rows, interval)
        tolerance = round(
            -float(judge.rng.uniform(1.3 * low - 0.3 * high, 1.3 * high - 0.3 * low)), 2
        )
        if not 0.01 <= tolerance <= 0.4 or min(abs(low + tolerance), abs(high + tolerance)) < 2e-3:
            continue
        verdicts = _verdicts(lost, gained, rows, tolerance, interval)
        new = [s for s, told in verdicts.items() if s and told != verdicts[""] and shown[s] < 2]
        shown.update({s: 0 for s in verdicts if s})
        if new:
            shown.update(new)
            drawn.append((lost, gained, rows, tolerance, interval))
    return drawn


def check_verdict(fn: Callable, judge: Judge) -> None:
    inputs = _drawn(judge)
    plan = (  # (lost share, gained share, rows, tolerance, z): each shows a mistake or two
        (0.0, 0.0, 30, 0.05, 1.96),
        (0.0, 0.0, 400, 0.05, 1.96),
        (0.3, 0.0, 100, 0.05, 1.96),
        (0.06, 0.0, 60, 0.05, 1.96),
        (0.02, 0.0, 60, 0.1, 1.96),
        (0.2, 0.17, 400, 0.12, 1.96),
        (0.01, 0.3, 90, 0.05, 1.96),
        (0.3, 0.28, 500, 0.2, 1.96),
        (0.11, 0.0, 300, 0.06, 1.2),
        (0.1, 0.09, 300, 0.06, 2.4),
        (0.12, 0.0, 200, 0.2, 1.96),
        (0.4, 0.1, 300, 0.15, 1.6),
    )
    for lost, gained, rows, tolerance, z in plan:
        rows += int(judge.rng.integers(rows // 20 + 1))
        inputs.append((round(lost * rows), round(gained * rows), rows, tolerance, _interval(z)))
    cases = []
    for one in inputs:
        names = ("lost", "gained", "rows", "tolerance", "interval")
        got = judge.call(fn, **dict(zip(names, one, strict=True)))
        judge.true(
            isinstance(got, str) and got in (PASS, FAIL, CANT_TELL),
            f'return one of "{PASS}", "{FAIL}", "{CANT_TELL}"; yours returned {got!r}.',
        )
        cases.append((one, got, _verdicts(*one)))
    right = [verdicts[""] for _, _, verdicts in cases]
    said = [got for _, got, _ in cases]
    for sentence in cases[0][2]:
        if sentence and said != right and said == [verdicts[sentence] for *_, verdicts in cases]:
            raise Mistake(sentence)
    for (lost, gained, rows, tolerance, interval), got, verdicts in cases:
        low, high = _ends(lost, gained, rows, interval)
        judge.true(
            got == verdicts[""],
            f"{lost} lost and {gained} gained of {rows}, tolerance {tolerance}: the change lies "
            f"between {low:+.3f} and {high:+.3f}, so it is {verdicts['']!r}, and yours says "
            f"{got!r}.",
        )


@exercise(
    "10.2",
    "Three verdicts",
    minutes=15,
    difficulty=2,
    importance=3,
    check=check_verdict,
    statement=r"""
    On `rows` rows, `lost` went from right to wrong and `gained` from wrong to right, so the share
    of right answers changed by $(\text{gained} - \text{lost}) / \text{rows}$. `interval(k, n)`
    gives the two ends, `low, high`, between which the true share behind `k` of `n` lies; chapter 3
    wrote it. Lost and gained have one interval each. At worst the true change is as low as the low
    end of *gained* less the high end of *lost*, at best as high as the high end of *gained* less
    the low end of *lost*.

    Up to `tolerance` of the share may be lost. Write `verdict(lost, gained, rows, tolerance,
    interval)`. Return `"pass"` where even at worst no more is lost, `"fail"` where even at best
    more is, and `"can't tell"` otherwise.
    """,
    hints=(
        "A drop is a change below 0. What may be lost at most is the change -tolerance.",
        "Pass: even the low end is above -tolerance. Fail: even the high end is below it.",
        "low = interval(gained, rows)[0] - interval(lost, rows)[1], and high the other way round; "
        'then "pass" if low > -tolerance else "fail" if high < -tolerance else "can\'t tell".',
    ),
    wrong=(
        mistake(
            "point",
            "at the change alone",
            body="""
            return "pass" if (gained - lost) / rows > -tolerance else "fail"
            """,
        ),
        mistake(
            "two verdicts",
            "does not pass need not fail",
            change=('"fail" if high < -tolerance else "can\'t tell"', '"fail"'),
        ),
        mistake(
            "innocent",
            "does not fail need not pass",
            body="""
            high = interval(gained, rows)[1] - interval(lost, rows)[0]
            return "fail" if high < -tolerance else "pass"
            """,
        ),
        mistake(
            "sign",
            "the sign of the tolerance",
            change=("a, b = interval", "tolerance = -tolerance\n    a, b = interval"),
        ),
        mistake("lost alone", "are missing", change=("c - b, d - a", "-b, -a")),
        mistake("low with low", "where most were lost", change=("c - b, d - a", "d - b, c - a")),
        mistake(
            "turned round", "lost rows less the gained", change=("c - b, d - a", "a - d, b - c")
        ),
        mistake(
            "a sure loss", "a sure loss need not fail", change=("high < -tolerance", "high < 0")
        ),
        mistake(
            "gained as seen",
            "gained rows have an interval",
            change=("c, d = interval(gained, rows)", "c = d = gained / rows"),
        ),
        mistake(
            "Newcombe",
            "as Newcombe does",
            change=(
                "low, high = c - b, d - a",
                "p, q = lost / rows, gained / rows\n"
                "    low = q - p - ((q - c) ** 2 + (b - p) ** 2) ** 0.5\n"
                "    high = q - p + ((d - q) ** 2 + (p - a) ** 2) ** 0.5",
            ),
        ),
        mistake("other words", "return one of", change=('"can\'t tell"', '"unclear"')),
    ),
)
def verdict(lost: int, gained: int, rows: int, tolerance: float, interval) -> str:
    """ "pass", "fail" or "can't tell": was more than `tolerance` of the share lost?"""
    a, b = interval(lost, rows)
    c, d = interval(gained, rows)
    low, high = c - b, d - a
    return "pass" if low > -tolerance else "fail" if high < -tolerance else "can't tell"

"""The gate: may it be shipped? Two models' answers to the same rows, and one of three verdicts.

A metric **fails** where the rows show that more was lost than its threshold tolerates, **passes**
where they show that no more was, and else **can't tell**: rows are too few for either. So a gate
passes where every metric that decides passes; as each of them must, that needs no correction for
their number (Berger, Technometrics 24, 1982). It fails where one of them fails, which by chance one
of many does, so those p-values are corrected for their number (Holm 1979).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from minilora.evaluation.cases import Case
from minilora.evaluation.paired import (
    Counts,
    Pairs,
    holm,
    mcnemar,
    newcombe,
    p_fewer,
    smallest_drop,
    wilson,
)
from minilora.evaluation.rules import Rules, Threshold
from minilora.ward.formats import house_format
from minilora.ward.score import gives_dose, leaks

MOST_ROWS_NEEDED = 100
"""Times the rows at hand up to which it is said how many would tell."""


class Verdict(Enum):
    """What a gate says; `code` is a command's exit code."""

    PASS = "pass", 0
    FAIL = "fail", 1
    CANT_TELL = "can't tell", 2

    def __init__(self, word: str, code: int) -> None:
        self.word, self.code = word, code


@dataclass(frozen=True)
class Sheet:
    """A file's rows with both models' answers. name: begins its metrics' names."""

    name: str
    cases: Sequence[Case]
    before: Sequence[str]
    after: Sequence[str]


def outcomes(case: Case, answer: str) -> dict[str, list[bool]]:
    """By metric, what of an answer is good: one thing, or one for each dose that the note lacks."""
    answer = answer.strip()
    good = {"exact": [answer == case.expected.strip()]}
    if case.house:
        facts = case.house["facts"]
        good["house format"] = [house_format(case.ward).parse(answer) is not None]
        good["no dose invented"] = [not gives_dose(answer, drug) for drug in facts["no_dose"]]
        good["no name or phone"] = [not leaks(answer, facts)]
    return good


@dataclass(frozen=True)
class Metric:
    """A share that is compared. group: whether it is over a part of the file's rows.

    rows: of the sheet, by their place, one for each pair; patients: whose each of them is.
    """

    name: str
    group: bool
    rows: Sequence[int]
    patients: Sequence[object]
    before: Sequence[bool]
    after: Sequence[bool]

    @property
    def pairs(self) -> Pairs:
        """For the statistics."""
        return Pairs(self.before, self.after, self.patients)


def groups_of(cases: Sequence[Case]) -> tuple[str, ...]:
    """What the rows' tasks say before their slash, where rows differ in it."""
    prefixes = dict.fromkeys(case.task.split("/")[0] for case in cases)
    return tuple(filter(None, prefixes)) if len(prefixes) > 1 else ()


def metrics_of(sheet: Sheet, groups: Sequence[str] | None = None) -> list[Metric]:
    """The metrics of a sheet: exact answers of all rows and of each group, and the house's.

    groups: as `groups_of` gives them for the whole file, None where the sheet is all of it.
    Nothing is made of what no row has.
    """
    groups = groups_of(sheet.cases) if groups is None else groups
    found: dict[tuple[str, bool], list[tuple]] = {}
    for row, (case, one, other) in enumerate(
        zip(sheet.cases, sheet.before, sheet.after, strict=True)
    ):
        patient = case.patient or row
        before, after = outcomes(case, one), outcomes(case, other)
        for name in before:
            pairs = [(row, patient, *pair) for pair in zip(before[name], after[name], strict=True)]
            found.setdefault((name, False), []).extend(pairs)
            group = case.task.split("/")[0]
            if name == "exact" and group in groups:
                found.setdefault((group, True), []).extend(pairs)
    order = {("exact", False): -1, **{(group, True): i for i, group in enumerate(groups)}}
    return [
        Metric(f"{sheet.name}: {name}", group, *zip(*pairs, strict=True))
        for (name, group), pairs in sorted(
            found.items(), key=lambda item: order.get(item[0], len(order))
        )
        if pairs
    ]


def metrics_asked(name: str, cases: Sequence[Case]) -> list[Metric]:
    """The metrics of a file before anything is answered: all that is asked decides which."""
    expected = [case.expected for case in cases]
    return metrics_of(Sheet(name, cases, expected, expected))


@dataclass(frozen=True)
class Measure:
    """A metric, measured.

    interval: of the change. p: two-sided, that neither model is better. p_fail: of the one-sided
    tests against the threshold, corrected for the number of metrics that decide. could_see: the
    smallest drop that so many rows show, None where none would. rows_needed: about how many would
    tell, None where it is told or far more would be needed.
    """

    name: str
    threshold: Threshold
    rows: int
    patients: int
    counts: Counts
    interval: tuple[float, float]
    least_interval: tuple[float, float]
    p: float
    p_fail: float
    could_see: float | None
    rows_needed: int | None
    verdict: Verdict

    @property
    def before(self) -> float:
        """Share of good answers of the first model."""
        return (self.counts.both + self.counts.lost) / self.counts.of

    @property
    def after(self) -> float:
        """Share of good answers of the second model."""
        return (self.counts.both + self.counts.gained) / self.counts.of

    def to_dict(self) -> dict:
        """JSON-ready."""
        counts = self.counts
        return {
            "name": self.name,
            "verdict": self.verdict.word,
            **vars(self.threshold),
            "rows": self.rows,
            "patients": self.patients,
            "before": self.before,
            "after": self.after,
            "change": counts.change,
            "interval": list(self.interval),
            "after_interval": list(self.least_interval),
            "lost": counts.lost,
            "gained": counts.gained,
            "p": self.p,
            "p_fail": self.p_fail,
            "could_see": self.could_see,
            "rows_needed": self.rows_needed,
        }


@dataclass(frozen=True)
class Gate:
    """What a gate found: the verdict, a measure for each metric, and the rows behind them."""

    rules: Rules
    sheets: Sequence[Sheet]
    measures: Sequence[Measure]
    verdict: Verdict

    def rows(self) -> Iterator[Row]:
        """Every row with both answers."""
        for sheet in self.sheets:
            for case, before, after in zip(sheet.cases, sheet.before, sheet.after, strict=True):
                yield Row(sheet.name, case, before.strip(), after.strip())

    @property
    def lost(self) -> list[Row]:
        """Rows that went from right to wrong."""
        return [row for row in self.rows() if row.right_before and not row.right_after]

    @property
    def always_wrong(self) -> list[Row]:
        """Rows that both models get wrong."""
        return [row for row in self.rows() if not (row.right_before or row.right_after)]

    @property
    def hopeless(self) -> dict[str, int]:
        """Tasks of several rows of which the second model gets none right -> their rows."""
        rows = list(self.rows())
        count = Counter(row.case.task for row in rows if row.case.task)
        right = Counter(row.case.task for row in rows if row.right_after)
        return {task: n for task, n in count.items() if n > 1 and not right[task]}

    def to_dict(self) -> dict:
        """JSON-ready: rules, measures, and every row with its answers."""
        rows = [row.to_dict() for row in self.rows()]
        return {**self.summary(), "hopeless": self.hopeless, "rows": rows}

    def summary(self) -> dict:
        """JSON-ready: rules and measures."""
        return {
            "verdict": self.verdict.word,
            "rules": self.rules.to_dict(),
            "metrics": [measure.to_dict() for measure in self.measures],
        }


@dataclass(frozen=True)
class Row:
    """A case with both models' answers."""

    sheet: str
    case: Case
    before: str
    after: str

    @property
    def right_before(self) -> bool:
        """Whether the first model's answer is the expected one."""
        return self.before == self.case.expected.strip()

    @property
    def right_after(self) -> bool:
        """Whether the second model's answer is the expected one."""
        return self.after == self.case.expected.strip()

    def to_dict(self) -> dict:
        """JSON-ready."""
        return {
            "file": self.sheet,
            "row": self.case.source,
            "key": row_key(self.case),
            "task": self.case.task,
            "expected": self.case.expected.strip(),
            "before": self.before,
            "after": self.after,
            "right": [self.right_before, self.right_after],
        }


def row_key(case: Case) -> str:
    """What a row is known by wherever its file lies: a hash of what is asked and expected."""
    text = json.dumps([list(case.messages), case.expected], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def judge_sheets(sheets: Sequence[Sheet], rules: Rules = Rules()) -> Gate:
    """Compare the answers of each sheet by the rules.

    Raises ValueError for rules that name no metric, or let none decide.
    """
    metrics = [metric for sheet in sheets for metric in metrics_of(sheet)]
    thresholds = thresholds_of(metrics, rules)
    deciding = [i for i, threshold in enumerate(thresholds) if threshold.gating]
    raw = [p_of_failing(m.pairs, t) for m, t in zip(metrics, thresholds, strict=True)]
    p_fail = list(raw)
    for i, p in zip(deciding, holm([raw[i] for i in deciding]), strict=True):
        p_fail[i] = p
    measures = [
        measure(metric, threshold, rules, p)
        for metric, threshold, p in zip(metrics, thresholds, p_fail, strict=True)
    ]
    return Gate(rules, sheets, measures, overall(measures))


def thresholds_of(metrics: Sequence[Metric], rules: Rules) -> list[Threshold]:
    """Each metric's. Raises ValueError for rules that name no metric, or let none decide."""
    rules.require_known([metric.name for metric in metrics])
    thresholds = [rules.threshold(metric.name, metric.group) for metric in metrics]
    if not any(threshold.gating for threshold in thresholds):
        raise ValueError("got rules under which no metric decides, expected gating of one at least")
    return thresholds


def overall(measures: Sequence[Measure]) -> Verdict:
    """Fail where a metric that decides fails, pass where all of them pass."""
    found = {measure.verdict for measure in measures if measure.threshold.gating}
    for verdict in (Verdict.FAIL, Verdict.CANT_TELL):
        if verdict in found:
            return verdict
    return Verdict.PASS


def p_of_failing(pairs: Pairs, threshold: Threshold) -> float:
    """P-value against "the metric keeps to its threshold", one-sided.

    With a least share as well, the smaller of two, doubled.
    """
    p = pairs.p_worse(threshold.drop)
    if threshold.least is None:
        return p
    return min(1.0, 2 * min(p, _p_below(pairs, threshold.least)))


def _p_below(pairs: Pairs, least: float) -> float:
    """P-value against "the second model's share is `least` or more", one-sided, exact."""
    from scipy.stats import binom

    patients = len(pairs.sizes)
    right = math.ceil(round(pairs.after.mean() * patients, 6))
    return float(binom.cdf(right, patients, least))


def measure(metric: Metric, threshold: Threshold, rules: Rules, p_fail: float) -> Measure:
    """A metric against its threshold. p_fail: of its tests, corrected."""
    pairs, counts = metric.pairs, metric.pairs.counts
    patients = len(pairs.sizes)
    interval = pairs.interval(rules.confidence)
    share = (counts.both + counts.gained) * patients / counts.of
    least_interval = wilson(share, patients, rules.confidence)
    kept = interval[0] > -threshold.drop
    if threshold.least is not None:
        kept = kept and least_interval[0] >= threshold.least
    if p_fail <= rules.alpha:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.PASS if kept else Verdict.CANT_TELL
    if pairs.clustered:
        p = min(1.0, 2 * min(p_fewer(pairs.net), p_fewer(-pairs.net)))
    else:
        p = mcnemar(counts.lost, counts.gained)
    open_ = verdict is Verdict.CANT_TELL
    return Measure(
        metric.name,
        threshold,
        rows=len(pairs),
        patients=patients,
        counts=counts,
        interval=interval,
        least_interval=least_interval,
        p=p,
        p_fail=p_fail,
        could_see=smallest_drop(patients, counts.gained / counts.of, rules.alpha, rules.power),
        rows_needed=rows_to_tell(counts, threshold.drop, rules.confidence) if open_ else None,
        verdict=verdict,
    )


def rows_to_tell(counts: Counts, tolerance: float, confidence: float) -> int | None:
    """About how many rows with these shares would tell the change from the tolerance.

    None where that is more than MOST_ROWS_NEEDED times as many.
    """
    factor = 1.0
    while factor <= MOST_ROWS_NEEDED:
        low, high = newcombe(counts.times(factor), confidence)
        if low > -tolerance or high < -tolerance:
            return math.ceil(factor * counts.of)
        factor *= 1.05
    return None

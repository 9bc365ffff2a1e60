"""A gate that stops as soon as it is decided: patients in an order by chance, a look after each.

Looking again and again at an ordinary test finds a difference where there is none; the stakes of
`sequential.py` may be looked at always. A metric fails when the stake on "more was lost than its
threshold tolerates" has grown to (metrics that decide) / alpha, and passes when the stake on "no
more was" has grown to 1 / alpha. Both are decided once and for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from minilora.evaluation.cases import Case
from minilora.evaluation.gate import (
    Gate,
    Metric,
    Sheet,
    Verdict,
    groups_of,
    measure,
    metrics_asked,
    metrics_of,
    thresholds_of,
)
from minilora.evaluation.rules import Rules, Threshold
from minilora.evaluation.sequential import Stakes

ROWS_AT_A_TIME = 32
"""Rows that are asked at once: fewer would be answered in smaller batches, more slowly."""


@dataclass
class Question:
    """What is being decided of one metric: its stakes on the change, and on the least share."""

    threshold: Threshold
    change: Stakes
    least: Stakes | None
    most_below: float = -math.inf
    verdict: Verdict = Verdict.CANT_TELL

    def add(self, before: float, after: float) -> None:
        """One patient more, with both models' shares of good answers."""
        self.change.add(after - before)
        if self.least is not None:
            self.least.add(after)

    def look(self, pass_at: float, fail_at: float) -> None:
        """Decide, where a stake is high enough; both as natural logarithms."""
        stakes = [self.change, *([] if self.least is None else [self.least])]
        # Two thresholds are two chances to fail, so each must reach twice as much.
        below = max(stake.below for stake in stakes) - math.log(len(stakes))
        self.most_below = max(self.most_below, below)
        if self.verdict is Verdict.CANT_TELL:
            if below >= fail_at:
                self.verdict = Verdict.FAIL
            elif min(stake.above for stake in stakes) >= pass_at:
                self.verdict = Verdict.PASS


@dataclass
class StoppingGate:
    """Asks for rows, patient by patient in an order drawn with the seed, until it is decided.

    files: (name, rows) of each. Raises ValueError as `thresholds_of`.
    """

    files: Sequence[tuple[str, Sequence[Case]]]
    rules: Rules = field(default_factory=Rules)
    seed: int = 0
    answered: list[dict[int, tuple[str, str]]] = field(init=False)

    def __post_init__(self) -> None:
        self.answered = [{} for _ in self.files]
        self._groups = [groups_of(cases) for _, cases in self.files]
        known = [metrics_asked(name, cases) for name, cases in self.files]
        metrics = [metric for each in known for metric in each]
        self._questions = {
            metric.name: Question(
                threshold,
                Stakes(-threshold.drop),
                None if threshold.least is None else Stakes(threshold.least),
            )
            for metric, threshold in zip(metrics, thresholds_of(metrics, self.rules), strict=True)
        }
        self._deciding = [q for q in self._questions.values() if q.threshold.gating]
        self._metrics_of_row: list[dict[int, list[str]]] = []
        for each in known:
            names: dict[int, list[str]] = {}
            for metric in each:
                for row in metric.rows:
                    names.setdefault(row, []).append(metric.name)
            self._metrics_of_row.append(names)

    @property
    def verdict(self) -> Verdict:
        """So far."""
        found = {question.verdict for question in self._deciding}
        for verdict in (Verdict.FAIL, Verdict.CANT_TELL):
            if verdict in found:
                return verdict
        return Verdict.PASS

    def batches(self) -> Iterator[list[tuple[int, int]]]:
        """(file, row) of the rows to ask next, of whole patients, until it is decided."""
        units: dict[tuple, list[tuple[int, int]]] = {}
        for file, (_, cases) in enumerate(self.files):
            for row, case in enumerate(cases):
                units.setdefault((file, case.patient or row), []).append((file, row))
        order = list(units.values())
        batch: list[tuple[int, int]] = []
        for i in np.random.default_rng([self.seed, 30]).permutation(len(order)):
            if any(self._is_open(file, row) for file, row in order[i]):
                batch += order[i]
            if len(batch) >= ROWS_AT_A_TIME:
                yield batch
                batch = []
                if self.verdict is not Verdict.CANT_TELL:
                    return
        if batch:
            yield batch

    def _is_open(self, file: int, row: int) -> bool:
        names = self._metrics_of_row[file][row]
        questions = (self._questions[name] for name in names)
        return any(q.threshold.gating and q.verdict is Verdict.CANT_TELL for q in questions)

    def add(
        self, rows: Sequence[tuple[int, int]], before: Sequence[str], after: Sequence[str]
    ) -> None:
        """Both models' answers to a batch."""
        for (file, row), *pair in zip(rows, before, after, strict=True):
            self.answered[file][row] = tuple(pair)
        for file, (name, cases) in enumerate(self.files):
            new = [row for at, row in rows if at == file]
            if not new:
                continue
            answers = zip(*(self.answered[file][row] for row in new), strict=True)
            sheet = Sheet(name, [cases[row] for row in new], *answers)
            for metric in metrics_of(sheet, self._groups[file]):
                self._bet(metric)

    def _bet(self, metric: Metric) -> None:
        question, pairs = self._questions[metric.name], metric.pairs
        pass_at = -math.log(self.rules.alpha)
        fail_at = pass_at + math.log(max(1, len(self._deciding)))
        for patient in range(len(pairs.sizes)):
            mine = pairs.patient == patient
            question.add(pairs.before[mine].mean(), pairs.after[mine].mean())
            question.look(pass_at, fail_at)

    def result(self) -> Gate:
        """The gate over the rows that were asked, with the verdicts of the stakes.

        p_fail of a measure holds whenever one stops. Raises ValueError before the first row.
        """
        if not any(self.answered):
            raise ValueError("got no answers, expected those to one batch at least")
        sheets, measures = [], []
        for (name, cases), groups, answered in zip(
            self.files, self._groups, self.answered, strict=True
        ):
            if not answered:
                continue
            rows = sorted(answered)
            answers = zip(*(answered[row] for row in rows), strict=True)
            sheets.append(Sheet(name, [cases[row] for row in rows], *answers))
            for metric in metrics_of(sheets[-1], groups):
                question = self._questions[metric.name]
                p = min(1.0, len(self._deciding) * math.exp(-max(0.0, question.most_below)))
                found = measure(metric, question.threshold, self.rules, p)
                measures.append(replace(found, verdict=question.verdict))
        return Gate(self.rules, sheets, measures, self.verdict)

"""What a composition does to every task that it touches, beside each adapter alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minilora.evaluation.cases import Case
from minilora.ward.steering import keeps


def right(case: Case, answer: str) -> bool:
    """Whether an answer is right: all rules of the case are kept, or else it is the expected one.

    A rule can be kept beside others that the expected answer knows nothing of.
    """
    if case.rules:
        return all(keeps(rule, answer.strip(), case.facts) for rule in case.rules)
    return answer.strip() == case.expected.strip()


def share_right(cases: Sequence[Case], answers: Sequence[str]) -> float:
    """The share of right answers, between 0 and 1, of at least one case."""
    return sum(right(*pair) for pair in zip(cases, answers, strict=True)) / len(cases)


@dataclass(frozen=True)
class Touched:
    """Shares of right answers of a base, of adapters alone, and of their composition.

    rows: task -> how many. base, composed: task -> share. alone: adapter -> task -> share. A task
    belongs to the adapter of its name; one of another name is asked of them all.
    """

    rows: Mapping[str, int]
    base: Mapping[str, float]
    alone: Mapping[str, Mapping[str, float]]
    composed: Mapping[str, float]

    def own(self, task: str) -> float | None:
        """What the task's own adapter gets alone; None where none has its name."""
        return self.alone[task][task] if task in self.alone else None

    def normalised(self, task: str) -> float | None:
        """Composed / alone, as KnOTS reports it; None without an own adapter, or one at 0."""
        own = self.own(task)
        return self.composed[task] / own if own else None

    @property
    def mean_normalised(self) -> float | None:
        """The mean over the tasks that have an own adapter."""
        known = [x for x in map(self.normalised, self.rows) if x is not None]
        return sum(known) / len(known) if known else None

    @property
    def worst_normalised(self) -> float | None:
        """The least over the tasks that have an own adapter."""
        known = [x for x in map(self.normalised, self.rows) if x is not None]
        return min(known, default=None)

    @property
    def jointly(self) -> float:
        """The composition's share of right answers over the rows of all tasks."""
        return sum(self.composed[t] * n for t, n in self.rows.items()) / sum(self.rows.values())

    def to_dict(self) -> dict:
        """JSON-ready."""
        return {
            "rows": dict(self.rows),
            "base": dict(self.base),
            "alone": {name: dict(scores) for name, scores in self.alone.items()},
            "composed": dict(self.composed),
            "normalised": {task: self.normalised(task) for task in self.rows},
            "mean_normalised": self.mean_normalised,
            "worst_normalised": self.worst_normalised,
            "jointly": self.jointly,
        }

"""What a whole benchmark comes to: one line for a cell and a peer, and the goals beside it.

Works on records (records.py) alone, so that a file can be summed up again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from minilora.bench.records import best_title, cpu_title

SLACK = 1.1
"""Two jobs that share a core lose a little more than half each."""
TORCHES = ("torch", "torch-labelled")
NAMES = {
    "torch-labelled": "torch, logits at labels only",
    "torch-bf16": "torch, bfloat16 autocast",
}


@dataclass(frozen=True)
class Goal:
    """What a ratio should come to, by workload.

    kind: the other side, or "memory" for the ratio of what both take above the loaded model.
    at_most: whether the ratio may be no larger; otherwise it may be no smaller.
    """

    job: str
    kind: str
    measure: str
    at_most: bool
    values: dict[str, float]


GOALS = (
    Goal("lora-qv", "torch", "time of {} / ours", False,
         {"S": 1.5, "W": 1.4, "M": 1.4, "G": 1.15, "R": 1.15}),
    Goal("lora-qv", "matmul", "time / its bare matmuls'", True,
         {"S": 1.6, "M": 1.4, "G": 1.25, "R": 1.25}),
    Goal("lora-qv", "full", "time / own full step", True,
         {"S": 0.7, "W": 0.7, "M": 0.7, "G": 0.7}),
    Goal("lora-qv", "textbook", "time of a textbook autograd / ours", False, {"S": 5.0, "M": 5.0}),
    Goal("lora-qv", "memory", "memory / {}'s", True, {"M": 0.8, "G": 0.8, "R": 0.8}),
    Goal("lora-qv", "activated", "own plain step / activated step", False, {"W": 1.55, "R": 1.3}),
    Goal("full", "torch", "time of {} / ours", False, {"S": 1.3, "M": 1.15, "G": 1.0}),
    Goal("generate-1", "torch", "time of {} / ours", False,
         {"S": 3.0, "M": 2.0, "G": 1.1, "R": 1.1}),
    Goal("bank", "bank-8", "8 adapters in a batch / one", True, {"W": 1.1, "R": 1.1}),
    Goal("bank", "bank-64", "64 adapters in a batch / one", True, {"W": 1.4, "R": 1.4}),
    Goal("bank", "peft-8", "time of PEFT's adapter_names / ours, 8 adapters", False,
         {"W": 2.0, "R": 2.0}),
    Goal("bank", "peft-64", "time of PEFT's adapter_names / ours, 64 adapters", False,
         {"W": 3.0, "R": 3.0}),
)  # fmt: skip


@dataclass(frozen=True)
class Rate:
    """A side at its best setting."""

    tokens_per_second: float
    cores: int


@dataclass(frozen=True)
class SpeedLine:
    """A cell against one of torch's sides; what was not measured is None.

    peer: torch's side, "" where none ran. first: whether this is the cell's first line. over_torch,
    over_matmuls, over_textbook, over_full: records of ratios. memory: ours / the peer's.
    """

    workload: str
    job: str
    peer: str
    first: bool
    ours: Rate | None
    theirs: Rate | None
    over_torch: dict | None
    over_matmuls: dict | None
    over_textbook: dict | None
    over_full: dict | None
    memory: float | None


@dataclass(frozen=True)
class GoalLine:
    """A goal and what was measured. aim: None where a figure only stands beside others' goals."""

    workload: str
    job: str
    measure: str
    at_most: bool
    aim: float | None
    value: float | None
    ratio: dict | None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is no goal, or nothing was measured."""
        if self.aim is None or self.value is None:
            return None
        return self.value <= self.aim if self.at_most else self.value >= self.aim


def races(records: Sequence[dict]) -> list[dict]:
    """The records of races."""
    return [record for record in records if "ratios" in record]


def busy_cells(records: Sequence[dict]) -> list[dict]:
    """The records of cells beside a busy neighbour."""
    return [record for record in records if "slowdowns" in record]


def growths(records: Sequence[dict]) -> list[dict]:
    """The records of how cost grows."""
    return [record for record in records if record.get("kind") == "growth"]


def memory_ratio(cell: dict, kind: str) -> float | None:
    """Growth over the loaded model, ours over a peer's, each at its fastest setting."""
    names = [cell["best"].get(kind) for kind in ("minilora", kind)]
    if None in names:
        return None
    ours, theirs = (cell["sides"][name]["memory"]["growth"] for name in names)
    return ours / theirs if theirs > 0 else None


def _best_rate(cell: dict, kind: str) -> Rate | None:
    name = cell["best"].get(kind)
    if name is None:
        return None
    return Rate(cell["sides"][name]["tokens_per_second"], int(name.partition("@")[2]))


def speed_lines(records: Sequence[dict]) -> Iterator[SpeedLine]:
    """One line for a race and each of torch's kinds in it, each side at its best setting."""
    for cell in races(records):
        ratios = cell["ratios"]
        peers = [
            kind for kind in (*TORCHES, "torch-bf16", "transformers") if kind in cell["best"]
        ] or [""]
        for peer in peers:
            yield SpeedLine(
                workload=cell["workload"]["name"],
                job=cell["job"],
                peer=peer,
                first=peer == peers[0],
                ours=_best_rate(cell, "minilora"),
                theirs=_best_rate(cell, peer),
                over_torch=ratios.get(best_title(peer)),
                over_matmuls=ratios.get(best_title("matmul")),
                over_textbook=ratios.get(best_title("textbook")),
                over_full=ratios.get(best_title("full")),
                memory=memory_ratio(cell, peer),
            )


def goal_lines(records: Sequence[dict]) -> Iterator[GoalLine]:
    """Every goal that a race has, with what was measured; then those beside a busy neighbour."""
    for cell in races(records):
        for goal in GOALS:
            if goal.job == cell["job"] and cell["workload"]["name"] in goal.values:
                yield from _measured(goal, cell)
    for cell in busy_cells(records):
        for side, slowdown in cell["slowdowns"].items():
            yield GoalLine(
                workload=cell["workload"]["name"],
                job=cell["job"],
                measure=f"slow-down of {side} by a busy neighbour (fair share {cell['fair']:g})",
                at_most=True,
                aim=cell["fair"] * SLACK if side.startswith("minilora") else None,
                value=slowdown["median"],
                ratio=slowdown,
            )


def _measured(goal: Goal, cell: dict) -> Iterator[GoalLine]:
    """A goal in one race: a line for each of torch's sides where it is about torch."""
    about_torch = goal.kind in ("torch", "memory")
    for peer in TORCHES if about_torch else ("",):
        if about_torch and peer not in cell["best"]:
            continue
        kind, by = peer if goal.kind == "torch" else goal.kind, ""
        ratio = cell["ratios"].get(best_title(kind))
        if goal.job == "bank" and ratio is not None and ratio["median"] is None:
            # One thread each: its processor time is what it would take on a core of its own.
            ratio, by = cell["ratios"].get(cpu_title(kind)), ", processor time"
        if goal.kind == "memory":
            value = memory_ratio(cell, peer)
        elif ratio is None:
            continue
        else:
            value = ratio["median"]
        name = cell["workload"]["name"]
        measure = goal.measure.format(NAMES.get(peer, peer)) + by
        yield GoalLine(name, cell["job"], measure, goal.at_most, goal.values[name], value, ratio)

"""What a whole `minilora bench` comes to: one line a cell, and the goals beside what was measured.

Works on the records of its JSON alone, so that a file can be shown again (`--from`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console

from minilora.cli import show as shown
from minilora.cli.bench_report import best_title

SPEED = (
    "", "tokens/s", "torch's", "torch/ ours", "20-80 %", "kept", "x mat- muls", "text- book",
    "x full step", "mem- ory",
)  # fmt: skip
LONG = (
    "workload, job", "minilora tokens/s", "torch tokens/s", "time torch / ours", "20-80 %",
    "pairs kept", "ours / bare matmuls", "textbook / ours", "ours / own full step",
    "memory ours / torch's",
)  # fmt: skip
AIMS = ("workload", "job", "measure", "goal", "measured", "20-80 %", "pairs", "")
SLACK = 1.1  # two jobs that share a core lose a little more than half each
WIDE = 120
TORCHES = ("torch", "torch-labelled")
NAMES = {"torch-labelled": "torch, logits at labels only"}


@dataclass(frozen=True)
class Goal:
    """What a ratio should come to, by workload; "over torch" ones are at least so much."""

    job: str
    kind: str  # the other side; "memory" for the ratio of growths
    measure: str
    most: bool
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
    Goal("full", "torch", "time of {} / ours", False, {"S": 1.3, "M": 1.15, "G": 1.0}),
    Goal("generate-1", "torch", "time of {} / ours", False,
         {"S": 3.0, "M": 2.0, "G": 1.1, "R": 1.1}),
)  # fmt: skip


def memory_ratio(cell: dict, kind: str) -> float | None:
    """Growth over the loaded model, ours over a peer's, each at its fastest setting."""
    names = [cell["best"].get(kind) for kind in ("minilora", kind)]
    if None in names:
        return None
    ours, theirs = (cell["sides"][name]["memory"]["growth"] for name in names)
    return ours / theirs if theirs > 0 else None


def of_kind(cells: Sequence[dict]) -> tuple[list[dict], list[dict]]:
    """(races, busy cells) among the records."""
    return (
        [c for c in cells if "ratios" in c],
        [c for c in cells if "slowdowns" in c],
    )


def number(value: float | None) -> str:
    """With two decimals, nothing where there is none."""
    return "" if value is None else f"{value:.2f}"


def band(ratio: dict | None) -> str:
    """The 20-80 % band."""
    return f"{ratio['low']:.2f}..{ratio['high']:.2f}" if ratio and ratio["median"] else ""


def middle(ratio: dict | None) -> str:
    """The median."""
    return number(ratio["median"]) if ratio else ""


def speed_rows(cells: Sequence[dict]) -> Iterator[tuple[str, ...]]:
    """One line a cell and torch's kind, each side at its best setting."""
    for cell in cells:
        ratios, best, sides = cell["ratios"], cell["best"], cell["sides"]

        def rate(kind: str, best: dict = best, sides: dict = sides) -> str:
            name = best.get(kind)
            return f"{sides[name]['tokens_per_second']:,.0f} @{name[-1]}" if name else ""

        peers = [k for k in (*TORCHES, "transformers") if k in best] or [""]
        for kind in peers:
            ratio, own = ratios.get(best_title(kind)), kind == peers[0]
            name = f"{cell['workload']['name']} {cell['job']}" if own else f"  against {kind}"
            kept = f"{ratio['pairs']} of {ratio['pairs'] + ratio['dropped']}" if ratio else ""
            rest = (middle(ratios.get(best_title(k))) for k in ("matmul", "textbook", "full"))
            yield (
                name,
                rate("minilora") if own else "",
                rate(kind),
                middle(ratio),
                band(ratio),
                kept,
                *(text if own else "" for text in rest),
                number(memory_ratio(cell, kind)),
            )


def goal_rows(cells: Sequence[dict], busy: Sequence[dict]) -> Iterator[tuple[str, ...]]:
    """Every goal that a cell has, with what was measured; then the busy machine's."""
    for cell in cells:
        name = cell["workload"]["name"]
        for goal in GOALS:
            if goal.job != cell["job"] or name not in goal.values:
                continue
            both = goal.kind in ("torch", "memory")
            for peer in TORCHES if both else ("",):
                if both and peer not in cell["best"]:
                    continue
                kind = peer if goal.kind == "torch" else goal.kind
                ratio = cell["ratios"].get(best_title(kind))
                value = ratio["median"] if ratio else None
                if goal.kind == "memory":
                    value = memory_ratio(cell, peer)
                elif ratio is None:
                    continue
                measure = goal.measure.format(NAMES.get(peer, peer))
                pairs = str(ratio["pairs"]) if ratio else ""
                *texts, verdict = judged(value, goal.values[name], goal.most, ratio)
                yield name, cell["job"], measure, *texts, pairs, verdict
    for cell in busy:
        for side, slow in cell["slowdowns"].items():
            *texts, verdict = judged(slow["median"], cell["fair"] * SLACK, True, slow)
            if not side.startswith("minilora"):  # shown beside it, no goal of ours
                texts[0] = verdict = ""
            title = f"slow-down of {side} by a busy neighbour (fair share {cell['fair']:g})"
            yield cell["workload"]["name"], cell["job"], title, *texts, str(slow["pairs"]), verdict


def judged(
    value: float | None, aim: float, most: bool, ratio: dict | None
) -> tuple[str, str, str, str]:
    """(goal, measured, band, met or not)."""
    aims = f"{'≤' if most else '≥'} {aim:g}"
    if value is None:
        return aims, "not measured", "", ""
    met = value <= aim if most else value >= aim
    return aims, number(value), band(ratio), "met" if met else "not met"


def tables(cells: Sequence[dict]) -> Iterator[tuple[str, Sequence[str], list[tuple], range]]:
    """(title, headings, rows, columns of numbers) of the summary."""
    races, busy = of_kind(cells)
    if races:
        title = "each side at its best setting (@cores); ratios of interleaved turns, medians"
        yield title, LONG, list(speed_rows(races)), range(1, 10)
    goals = list(goal_rows(races, busy))
    if goals:
        yield "goals", AIMS, goals, range(3, 7)


def show_summary(console: Console, cells: Sequence[dict]) -> None:
    """The tables, for a terminal; in a file they are as wide as they need."""
    if not console.is_terminal:
        console = Console(width=WIDE)
    for title, headings, rows, right in tables(cells):
        headings = SPEED if headings is LONG else headings
        shown.grid(console, title, headings, rows, right)


def markdown(about: dict[str, str], cells: Sequence[dict]) -> str:
    """The tables for a README, with the machine under them."""
    parts = []
    for title, headings, rows, right in tables(cells):
        marks = ["---:" if i in right else "---" for i in range(len(headings))]
        lines = [[h or "goal met" for h in headings], marks, *rows]
        parts.append(f"{title[0].upper()}{title[1:]}:\n")
        parts += [f"| {' | '.join(cell.strip() for cell in line)} |" for line in lines]
        parts.append("")
    parts += [f"- {name}: {text}" for name, text in about.items()]
    return "\n".join(parts) + "\n"

"""What `minilora bench` does besides the race: --busy, --growth, --from, and how long it takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from minilora.bench import growth, matmuls
from minilora.bench.busy import Busy, disturb
from minilora.bench.race import SETTLE, WARM_STEPS
from minilora.bench.workloads import Job, Workload
from minilora.cli import show as shown
from minilora.cli.bench_growth import plot_growth, show_growth
from minilora.cli.bench_report import spread
from minilora.storage import atomic_write
from minilora.training.parallel import usable_cores

FLOPS = 8e10  # a second and core, of whole steps: only to say beforehand how long it takes
SLOWER = {"textbook": 4.0, "full": 1.4}
START = {"torch": 9.0, "torch-labelled": 9.0, "transformers": 9.0}  # seconds; else NUMPY_START
NUMPY_START, PROBES = 1.5, 12


@dataclass(frozen=True)
class Terms:
    """What the options say of every measurement."""

    counts: list[int]
    pairs: int
    starts: int
    seconds: float
    torches: Sequence[str]
    json: Path | None
    about: dict[str, str]

    def write(self, records: list[dict]) -> None:
        """Everything measured so far as JSON, so that a run that is stopped keeps it."""
        if self.json is not None:
            content = json.dumps({"about": self.about, "results": records}, indent=1) + "\n"
            atomic_write(self.json, content.encode())


def torches(logits: str) -> tuple[str, ...]:
    """The kinds of torch's sides in a step."""
    names = {"all": ("torch",), "labelled": ("torch-labelled",)}
    return names.get(logits, ("torch", "torch-labelled"))


def estimate(workload: Workload, job: Job, sides: Sequence[tuple[str, int]], terms: Terms) -> float:
    """Seconds that a cell takes on a quiet machine, roughly."""
    pieces = matmuls.piece_rows(workload, 1)[0]
    flops = sum(item.flops for item in matmuls.products(workload, job, pieces))
    total = 0.0
    for kind, count in sides:
        step = flops / FLOPS / count * SLOWER.get(kind, 1.0)
        probes = (PROBES if step < 1 else PROBES / 2) if kind in START else 0
        start = START.get(kind, NUMPY_START) + (WARM_STEPS + 2 + probes) * step
        turn = max(terms.seconds, step) + SETTLE
        total += terms.pairs * turn + min(terms.starts, terms.pairs) * start
    return total


def read(paths: Sequence[Path]) -> tuple[dict[str, str], list[dict]]:
    """(about, records) of JSON files that the command wrote. Raises ValueError for others."""
    about, records = {}, []
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            about, records = {**about, **content["about"]}, records + content["results"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: got another file, expected JSON of minilora bench") from None
    return about, records


def run_busy(console: Console, terms: Terms, cells: Sequence[tuple[Job, Workload]]) -> list[dict]:
    """Each side alone and beside a neighbour that keeps every core busy."""
    count = terms.counts[-1]
    sides = [("minilora", count), ("blas", count), *((k, count) for k in terms.torches[:1])]
    records = []
    for job, _ in cells:
        if job.kind != "step":
            raise ValueError(f"got the job {job.name}, expected a training step for --busy")
    for job, workload in cells:
        title = f"{workload.name} {job.name}, busy"
        with tqdm(total=terms.pairs, desc=title, unit="pair", leave=False) as bar:

            def on_pair(result: Busy, bar: tqdm = bar) -> None:
                kept = min(len(result.clean(name)) for name in result.pairs)
                bar.update(min(kept, bar.total) - bar.n)

            result = disturb(
                workload, job, sides, usable_cores(), pairs=terms.pairs, seconds=terms.seconds,
                on_pair=on_pair,
            )  # fmt: skip
        records.append(busy_record(result))
        show_busy(console, records[-1])
        terms.write(records)
    return records


def busy_record(result: Busy) -> dict:
    """One busy cell, JSON-ready."""
    return {
        "workload": result.workload.to_dict(),
        "job": result.job.name,
        "fair": result.fair,
        "slowdowns": {name: result.slowdown(name) for name in result.pairs},
        "neighbour_keeps": {name: result.left(name) for name in result.pairs},
        "pairs": {
            name: [{"alone": vars(alone), "busy": vars(busy)} for alone, busy in pairs]
            for name, pairs in result.pairs.items()
        },
        "seconds": {name: list(result.seconds(name)) for name in result.pairs},
    }


def show_busy(console: Console, cell: dict) -> None:
    """A line a side: times, slow-down, and what the neighbour kept."""
    names = {"blas": "minilora, 1 process with {} BLAS threads", "minilora": "minilora, {} workers"}
    rows = []
    for name, slow in cell["slowdowns"].items():
        kind, _, count = name.partition("@")
        alone, busy = cell["seconds"][name]
        rows.append(
            (
                names.get(kind, "torch, {} threads").format(count),
                f"{alone * 1e3:,.1f}",
                f"{busy * 1e3:,.1f}",
                spread(slow),
                f"{cell['neighbour_keeps'][name]:.0%}",
            )
        )
    title = (
        f"{cell['workload']['name']} {cell['job']} beside a job that keeps every core busy "
        f"(fair share: {cell['fair']:g} x the time, the neighbour keeps {1 / cell['fair']:.0%})"
    )
    headings = ("side", "alone ms", "busy ms", "slow-down", "neighbour keeps")
    shown.grid(console, title, headings, rows, (1, 2, 4))


def run_growth(console: Console, terms: Terms, cells: Sequence, out: Path) -> list[dict]:
    """Sweep batch, length and width; plot, table and JSON. It has points of its own, no cells."""
    kinds = ("minilora", *terms.torches[:1])
    count = growth.turns_needed(kinds, terms.starts)
    with tqdm(total=count, desc="growth", unit="point", leave=False) as bar:
        found = growth.measure(
            kinds, terms.counts[-1], starts=terms.starts, seconds=terms.seconds,
            on_turn=bar.update,
        ).to_dict()  # fmt: skip
    terms.write([found])
    plot_growth(found, terms.about, out)
    show_growth(console, found)
    shown.say(console, f"plot: {out}")
    return [found]

"""The runs of `minilora bench`: each measures with a progress bar, shows its tables, and saves.

A run takes the console, the terms and the cells (job, workload), and returns its records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from minilora.bench import growth
from minilora.bench.busy import Busy, disturb
from minilora.bench.cells import estimated_seconds, racing_sides
from minilora.bench.gpu import race_on_gpu
from minilora.bench.growth_plot import plot_growth
from minilora.bench.op_times import profile
from minilora.bench.race import Result, race
from minilora.bench.records import busy_record, profile_record, race_record, write_records
from minilora.bench.workloads import Job, Workload
from minilora.cli import bench_tables as tables
from minilora.cli import show as shown
from minilora.machine import usable_cores

Cells = Sequence[tuple[Job, Workload]]


@dataclass(frozen=True)
class Terms:
    """What the options say of every measurement. torches: kinds of torch's sides in a step."""

    counts: list[int]
    pairs: int
    starts: int
    seconds: float
    torches: Sequence[str]
    json: Path | None
    about: dict[str, str]
    command: str

    def write(self, records: list[dict]) -> None:
        """Everything measured so far as JSON, so that a run that is stopped keeps it."""
        if self.json is not None:
            write_records(self.json, self.command, self.about, records)


def run_race(console: Console, terms: Terms, cells: Cells) -> list[dict]:
    """Race all sides in each cell."""
    sides = [racing_sides(workload, job, terms.counts, terms.torches) for job, workload in cells]
    lengths = {"pairs": terms.pairs, "starts": terms.starts, "seconds": terms.seconds}
    whole = sum(
        estimated_seconds(workload, job, own, **lengths)
        for (job, workload), own in zip(cells, sides, strict=True)
    )
    minutes = f"about {max(1, round(whole / 60))} min on a quiet machine"
    console.print(f"cells to run: {len(cells)}, {minutes}")
    records = []
    for i, ((job, workload), own) in enumerate(zip(cells, sides, strict=True)):
        with _round_bar(f"{workload.name} {job.name}", i, len(cells), terms.pairs) as on_round:
            result = race(workload, job, own, **lengths, on_round=on_round)
        records.append(race_record(result))
        tables.show_race(console, records[-1])
        terms.write(records)
    return records


@contextmanager
def _round_bar(title: str, done: int, cells: int, pairs: int) -> Iterator[Callable[[Result], None]]:
    """A bar over the undisturbed rounds of all cells, `done` of which are over."""
    before, title = done * pairs, f"{title} ({done + 1} of {cells})"
    with tqdm(total=cells * pairs, initial=before, desc=title, unit="round", leave=False) as bar:

        def on_round(result: Result) -> None:
            clean = result.clean_rounds()
            bar.update(before + min(clean, pairs) - bar.n)
            bar.set_postfix_str(f"{len(result.rounds) - clean} spoilt")

        yield on_round


def run_profile(console: Console, terms: Terms, cells: Cells) -> list[dict]:
    """Profile the step of each cell."""
    records = []
    for job, workload in cells:
        measured = profile(workload, job)
        tables.show_profile(console, workload, job, measured)
        records.append(profile_record(workload, job, measured))
        terms.write(records)
    return records


def run_busy(console: Console, terms: Terms, cells: Cells) -> list[dict]:
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
        tables.show_busy(console, records[-1])
        terms.write(records)
    return records


def run_growth(console: Console, terms: Terms, out: Path) -> list[dict]:
    """Sweep batch, length and width; plot, tables and JSON. It has points of its own, no cells."""
    kinds = ("minilora", *terms.torches[:1])
    count = growth.turns_needed(kinds, terms.starts)
    with tqdm(total=count, desc="growth", unit="point", leave=False) as bar:
        record = growth.measure(
            kinds, terms.counts[-1], starts=terms.starts, seconds=terms.seconds,
            on_turn=bar.update,
        ).to_dict()  # fmt: skip
    terms.write([record])
    plot_growth(record, terms.about, out)
    tables.show_growth(console, record)
    shown.say(console, f"plot: {out}")
    return [record]


def run_gpu(console: Console, terms: Terms, cells: Cells, torch: bool) -> list[dict]:
    """Each cell on the CUDA device."""
    records = []
    for job, workload in tqdm(cells, unit="cell", leave=False):
        record = race_on_gpu(workload, job, torch).to_dict()
        records.append(record)
        tables.show_gpu(console, record)
        terms.write(records)
    return records

"""`minilora bench`: how fast, beside torch with PEFT, a textbook autograd and the bare matmuls."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import typer
from rich.console import Console

from minilora.bench.op_times import profile as measure_profile
from minilora.bench.race import race
from minilora.bench.workloads import JOBS, WORKLOADS, Job, Workload, runs
from minilora.cli import bench_modes as modes
from minilora.cli import bench_report as report
from minilora.cli.bench_summary import markdown as in_markdown
from minilora.cli.bench_summary import show_summary
from minilora.training.parallel import MOST_WORKERS

TEXTBOOK = ("S", "M")
PEERS = ("torch", "transformers", "peft")


def bench(
    workload: str = typer.Option(
        "", "--workload", help="Sizes: S, W, M, G, R with commas, or all.  [S,W,M,G; --busy: W,M]"
    ),
    job: str = typer.Option(
        "lora-qv", "--job", help=f"Jobs: {', '.join(JOBS)} with commas between, or all."
    ),
    threads: str = typer.Option("1,2", "--threads", help="Cores for each side (with commas)."),
    pairs: int = typer.Option(7, "--pairs", min=1, help="Undisturbed rounds to take."),
    starts: int = typer.Option(2, "--starts", min=1, help="Fresh starts of every process."),
    seconds: float = typer.Option(0.5, min=0.01, max=600, help="Length of a turn."),
    torch_logits: str = typer.Option(
        "both", "--torch-logits", help="Where torch makes logits: all, labelled, or both in turn."
    ),
    torch: bool = typer.Option(True, help="Compare with torch and PEFT where installed."),
    json_: Path | None = typer.Option(None, "--json", help="Write every figure to this file."),
    markdown: bool = typer.Option(False, "--markdown", help="End with the summary in Markdown."),
    profile: bool = typer.Option(
        False, "--profile", help="Where the time of a training step goes, by op; no race."
    ),
    busy: bool = typer.Option(
        False, "--busy", help="How much a busy neighbour slows each side; no race."
    ),
    growth: bool = typer.Option(
        False, "--growth", help="Speed by batch, length and width, memory by length; no race."
    ),
    out: Path = typer.Option(Path("growth.png"), "--out", help="--growth's plot."),
    again: list[Path] = typer.Option(
        [], "--from", help="Show the summary of such JSON files again; nothing is measured."
    ),
) -> None:
    """Measure speed and memory beside torch with PEFT, a textbook autograd, the bare matmuls."""
    if again:
        finish(Console(), *modes.read(again), markdown)
        return
    if profile + busy + growth > 1:
        raise ValueError("got more than one of --profile, --busy, --growth, expected one")
    if torch_logits not in report.LOGITS:
        raise ValueError(f"got --torch-logits {torch_logits!r}, expected all, labelled or both")
    counts, missing = thread_counts(threads), missing_peers() if torch else []
    kinds = modes.torches(torch_logits) if torch and not missing else ()
    about = report.about(bool(kinds), missing, torch_logits)
    terms = modes.Terms(counts, pairs, starts, seconds, kinds, json_, about)
    cells = chosen_cells(job, workload or ("W,M" if busy else "S,W,M,G"))
    run = run_profile if profile else modes.run_busy if busy else run_race
    measure(partial(modes.run_growth, out=out) if growth else run, terms, cells, markdown)


def measure(run: Callable, terms: modes.Terms, cells: Sequence, markdown: bool) -> None:
    """Show the terms, run one of the modes, show what it comes to."""
    console = Console()
    report.show_about(console, terms.about)
    finish(console, terms.about, run(console, terms, cells), markdown)


def finish(console: Console, about: dict, records: list[dict], markdown: bool) -> None:
    """The summary, on the terminal and for a README; nothing for what has none."""
    show_summary(console, records)
    if markdown:
        print(in_markdown(about, records), end="")


def run_race(
    console: Console, terms: modes.Terms, cells: Sequence[tuple[Job, Workload]]
) -> list[dict]:
    """Race all sides in each cell."""
    racing = [sides(workload, job, terms.counts, terms.torches) for job, workload in cells]
    times = [
        modes.estimate(workload, job, own, terms)
        for (job, workload), own in zip(cells, racing, strict=True)
    ]
    minutes = f"about {max(1, round(sum(times) / 60))} min on a quiet machine"
    console.print(f"cells to run: {len(cells)}, {minutes}")
    records = []
    for i, ((job, workload), own) in enumerate(zip(cells, racing, strict=True)):
        title = f"{workload.name} {job.name}"
        with report.progress(title, i, len(cells), terms.pairs) as on_round:
            result = race(
                workload, job, own, pairs=terms.pairs, starts=terms.starts,
                seconds=terms.seconds, on_round=on_round,
            )  # fmt: skip
        records.append(report.record(result))
        report.show(console, records[-1])
        terms.write(records)
    return records


def run_profile(
    console: Console, terms: modes.Terms, cells: Sequence[tuple[Job, Workload]]
) -> list[dict]:
    """Profile the step of each cell."""
    records = []
    for job, workload in cells:
        measured = measure_profile(workload, job)
        report.show_profile(console, workload, job, measured)
        records.append(report.profile_record(workload, job, measured))
        terms.write(records)
    return records


def chosen_cells(jobs: str, workloads: str) -> list[tuple[Job, Workload]]:
    """(job, workload) of all that the options name. Raises ValueError where that is nothing."""
    names = chosen("workload", workloads, WORKLOADS)
    found = [(JOBS[j], WORKLOADS[w]) for j in chosen("job", jobs, JOBS) for w in names]
    cells = [(job, workload) for job, workload in found if runs(workload, job)]
    if not cells:
        raise ValueError("got a full step of R alone, which the benchmark leaves out")
    return cells


def chosen(option: str, text: str, known: Sequence[str]) -> list[str]:
    """The names in `text`, "all" for every one. Raises ValueError for a name that is unknown."""
    if text == "all":
        return list(known)
    names = [name.strip() for name in text.split(",")]
    odd = [name for name in names if name not in known]
    if odd:
        raise ValueError(f"got --{option} {', '.join(odd)}, expected some of {', '.join(known)}")
    return names


def thread_counts(text: str) -> list[int]:
    """The numbers in `text`. Raises ValueError for what is no whole number in 1 to MOST_WORKERS."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= MOST_WORKERS for part in parts):
        raise ValueError(
            f"got --threads {text!r}, expected whole numbers from 1 to {MOST_WORKERS}, as in 1,2"
        )
    return sorted({int(part) for part in parts})


def missing_peers() -> list[str]:
    """What is not installed of torch's side."""
    return [name for name in PEERS if importlib.util.find_spec(name) is None]


def sides(
    workload: Workload, job: Job, counts: Sequence[int], torches: Sequence[str]
) -> list[tuple[str, int]]:
    """(kind, threads) of all that race in a cell: minilora first."""
    kinds = ["minilora", "matmul"]
    if job.kind == "step":
        everywhere = workload.labels == workload.time  # then both ways are one
        kinds += torches[:1] if everywhere else torches
        kinds += ["textbook"] if workload.name in TEXTBOOK else []
        kinds += ["full"] if job.name == "lora-qv" and runs(workload, JOBS["full"]) else []
    elif torches:
        kinds += ["torch", "transformers"] if job.kind == "generate" else ["torch"]
    return [(kind, count) for count in counts for kind in kinds]

"""`minilora bench`: how fast, beside torch with PEFT, a textbook autograd and the bare matmuls."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from minilora.baselines.op_times import profile as measure_profile
from minilora.baselines.race import race
from minilora.baselines.workloads import JOBS, WORKLOADS, Job, Workload, runs
from minilora.cli import bench_report as report
from minilora.storage import atomic_write

TEXTBOOK = ("S", "M")
PEERS = ("torch", "transformers", "peft")


def bench(
    workload: str = typer.Option(
        "S,W,M,G", "--workload", help="Sizes: S, W, M, G, R with commas between, or all."
    ),
    job: str = typer.Option(
        "lora-qv", "--job", help=f"Jobs: {', '.join(JOBS)} with commas between, or all."
    ),
    threads: str = typer.Option("1,2", "--threads", help="Cores for each side (with commas)."),
    pairs: int = typer.Option(7, "--pairs", min=1, help="Undisturbed rounds to take."),
    starts: int = typer.Option(2, "--starts", min=1, help="Fresh starts of every process."),
    seconds: float = typer.Option(0.7, "--seconds", min=0.01, help="Length of a turn."),
    torch_logits: str = typer.Option(
        "all", "--torch-logits", help="Where torch makes logits: all positions, or labelled ones."
    ),
    torch: bool = typer.Option(True, help="Compare with torch and PEFT where installed."),
    out: Path | None = typer.Option(None, "--json", help="Write every figure to this file."),
    profile: bool = typer.Option(
        False, "--profile", help="Where the time of a training step goes, by op; no race."
    ),
) -> None:
    """Measure speed and memory beside torch with PEFT, a textbook autograd, the bare matmuls."""
    counts = thread_counts(threads)
    if torch_logits not in ("all", "labelled"):
        raise ValueError(f"got --torch-logits {torch_logits!r}, expected all or labelled")
    cells = chosen_cells(job, workload)
    with_torch = torch and not missing_peers()
    console = Console()
    about = report.about(with_torch, missing_peers(), torch_logits)
    report.show_about(console, about)
    records = []
    for job_, workload_ in cells:
        if profile:
            measured = measure_profile(workload_, job_)
            report.show_profile(console, workload_, job_, measured)
            records.append(report.profile_record(workload_, job_, measured))
        else:
            racing = sides(workload_, job_, counts, with_torch)
            terms = {"pairs": pairs, "starts": starts, "seconds": seconds}
            with report.progress(workload_, job_, pairs) as on_round:
                terms["extra"] = {"torch_logits": torch_logits}
                result = race(workload_, job_, racing, **terms, on_round=on_round)
            records.append(report.record(result))
            report.show(console, records[-1])
        write(out, about, records)  # after each cell: a run that is stopped keeps what it measured
    if not profile:
        report.show_summary(console, records)


def write(out: Path | None, about: dict, records: list[dict]) -> None:
    """Everything measured so far as JSON, where a file is wanted."""
    if out is not None:
        content = json.dumps({"about": about, "results": records}, indent=1) + "\n"
        atomic_write(out, content.encode())


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
    """The numbers in `text`. Raises ValueError for what is no positive whole number."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"got --threads {text!r}, expected whole numbers above 0, as in 1,2")
    return sorted({int(part) for part in parts})


def missing_peers() -> list[str]:
    """What is not installed of torch's side."""
    return [name for name in PEERS if importlib.util.find_spec(name) is None]


def sides(
    workload: Workload, job: Job, counts: Sequence[int], with_torch: bool
) -> list[tuple[str, int]]:
    """(kind, threads) of all that race in a cell."""
    kinds = ["minilora", "matmul", *(["torch"] if with_torch else [])]
    result = [(kind, count) for count in counts for kind in kinds]
    if job.kind == "step" and workload.name in TEXTBOOK:
        result.append(("textbook", 1))
    return result

"""`minilora bench`: how fast, beside torch with PEFT, a textbook autograd and the bare matmuls."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from minilora.backend import require_device
from minilora.bench.about import LOGITS, about, missing_peers
from minilora.bench.cells import torch_kinds
from minilora.bench.gpu import require_gpu_jobs
from minilora.bench.records import read_records, summarised, write_records
from minilora.bench.workloads import JOBS, WORKLOADS, Job, Workload, runs
from minilora.cli import bench_tables as tables
from minilora.cli.bench_runs import Terms, run_busy, run_gpu, run_growth, run_profile, run_race
from minilora.cli.options import DEVICE_HELP
from minilora.storage import require_place
from minilora.training.parallel import MOST_WORKERS

GROUP = "Understand"


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
    device: str = typer.Option("cpu", "--device", help=DEVICE_HELP),
    torch: bool = typer.Option(True, help="Compare with torch and PEFT where installed."),
    json_: Path | None = typer.Option(
        None, "--json", help="Write every figure to this file; with --from, their summary."
    ),
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
    """Measure speed and memory beside torch with PEFT, a textbook autograd, the bare matmuls.

    Example: minilora bench --workload W --job lora-qv --starts 1
    """
    require_place("--json", json_)
    console = Console()
    if again:
        show_files(console, again, json_, markdown)
        return
    if profile + busy + growth > 1:
        raise ValueError("got more than one of --profile, --busy, --growth, expected one")
    if torch_logits not in LOGITS:
        raise ValueError(f"got --torch-logits {torch_logits!r}, expected all, labelled or both")
    counts, missing = thread_counts(threads), missing_peers() if torch else []
    kinds = torch_kinds(torch_logits) if torch and not missing else ()
    terms = Terms(
        counts, pairs, starts, seconds, kinds, json_,
        about=about(bool(kinds), missing, torch_logits),
        command=shlex.join(["minilora", *sys.argv[1:]]),
    )  # fmt: skip
    cells = chosen_cells(job, workload or ("W,M" if busy else "S,W,M,G"))
    if device != "cpu":
        require_device(device)
        if profile or busy or growth:
            raise ValueError(f"got --device {device} with a run that is not a race, expected one")
        require_gpu_jobs([one for one, _ in cells])
        run_gpu(console, terms, cells, bool(kinds))
        return
    tables.show_about(console, terms.about)
    if growth:
        records = run_growth(console, terms, out)
    else:
        run = run_profile if profile else run_busy if busy else run_race
        records = run(console, terms, cells)
    finish(console, terms.about, records, markdown)


def show_files(console: Console, paths: Sequence[Path], out: Path | None, markdown: bool) -> None:
    """Show files of earlier runs again, and write their summary to `out` where that is given."""
    command, about, records = read_records(paths)
    tables.show_again(console, records)
    finish(console, about, records, markdown)
    if out is not None:
        write_records(out, command, about, list(map(summarised, records)))


def finish(console: Console, about: dict, records: list[dict], markdown: bool) -> None:
    """The summary, on the terminal and for a README; nothing for what has none."""
    tables.show_summary(console, records)
    if markdown:
        print(tables.markdown(about, records), end="")


def chosen_cells(jobs: str, workloads: str) -> list[tuple[Job, Workload]]:
    """(job, workload) of all that the options name. Raises ValueError where that is nothing."""
    names = chosen("workload", workloads, WORKLOADS)
    named = [(JOBS[j], WORKLOADS[w]) for j in chosen("job", jobs, JOBS) for w in names]
    cells = [(job, workload) for job, workload in named if runs(workload, job)]
    if not cells:
        raise ValueError("got a full step of R alone, which the benchmark leaves out")
    return cells


def chosen(option: str, text: str, known: Sequence[str]) -> list[str]:
    """The names in `text`, "all" for every one. Raises ValueError for a name that is unknown."""
    if text == "all":
        return list(known)
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"got --{option} {', '.join(unknown)}, expected some of {', '.join(known)}"
        )
    return names


def thread_counts(text: str) -> list[int]:
    """The numbers in `text`. Raises ValueError for what is no whole number in 1 to MOST_WORKERS."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= MOST_WORKERS for part in parts):
        raise ValueError(
            f"got --threads {text!r}, expected whole numbers from 1 to {MOST_WORKERS}, as in 1,2"
        )
    return sorted({int(part) for part in parts})

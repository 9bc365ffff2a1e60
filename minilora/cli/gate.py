"""`minilora gate`: may it be shipped? Base and adapter on the same rows, and a verdict."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.cost import peak_memory_text, times_text
from minilora.cli.gate_report import show_gate
from minilora.cli.options import (
    BASE_DTYPE_HELP,
    BASE_OF_ADAPTER_HELP,
    DEVICE_HELP,
    RULES_HELP,
    WORKERS_HELP,
)
from minilora.cli.reporter import TableReporter
from minilora.runs.gate import GatePlan, run_gate

GROUP = "Judge"
NOT_RUN = 3
"""Exit code of a gate that gave no verdict: the verdicts are 0, 1 and 2."""

SUITE_HELP = "JSONL of what may not be lost, as evaluate's --data; may be given again."
TASK_HELP = "JSONL of the adapter's own job; may be given again."
BASELINE_HELP = (
    "An earlier gate's --json: compare with what was shipped then, and not with the base."
)
SEQUENTIAL_HELP = "Ask in an order by chance, and stop as soon as it is decided."


def gate(
    adapter: Path = typer.Option(None, "--adapter", help="What is to be shipped on the base."),
    model: Path = typer.Option(None, "--model", help="Or in its place: a merged model's folder."),
    merge: bool = typer.Option(False, "--merge", help="Merge the adapter before it is asked."),
    suite: list[Path] = typer.Option([], "--suite", help=SUITE_HELP),
    task: list[Path] = typer.Option([], "--task", help=TASK_HELP),
    baseline: Path = typer.Option(None, "--baseline", help=BASELINE_HELP),
    rules: Path = typer.Option(None, "--rules", help=RULES_HELP),
    base: str = typer.Option(None, "--base", help=BASE_OF_ADAPTER_HELP),
    base_dtype: str = typer.Option(None, "--base-dtype", help=BASE_DTYPE_HELP),
    device: str = typer.Option("cpu", "--device", help=DEVICE_HELP),
    rows: int = typer.Option(None, "--rows", help="Only the first so many of each file."),
    sequential: bool = typer.Option(False, "--sequential", help=SEQUENTIAL_HELP),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the order that --sequential asks in."),
    workers: int = typer.Option(0, "--workers", help=WORKERS_HELP),
    json_file: Path = typer.Option(None, "--json", help="Write the evidence here."),
    junit: Path = typer.Option(None, "--junit", help="Write JUnit XML here, for CI."),
) -> None:
    """Gate what you ship: exit code 0 pass, 1 fail, 2 can't tell, 3 no verdict (an error).

    Example: minilora gate --adapter tour/adapter --suite data/ward/regression.jsonl
    """
    plan = GatePlan(
        adapter=adapter,
        model=model,
        merge=merge,
        suites=tuple(suite),
        tasks=tuple(task),
        base=base,
        base_dtype=base_dtype,
        device=device,
        baseline=baseline,
        rules=rules,
        rows=rows,
        sequential=sequential,
        seed=seed,
        workers=workers,
        json_file=json_file,
        junit_file=junit,
    )
    console = Console()
    result = run_gate(plan, TableReporter(console))
    show_gate(console, result.gate, "base" if baseline is None else baseline.name)
    if sequential:
        show.say(console, f"Asked {result.asked} of {result.of} rows.")
    show.say(
        console, f"Took {times_text(result.seconds)}. Peak memory: {peak_memory_text(device)}."
    )
    raise typer.Exit(result.gate.verdict.code)

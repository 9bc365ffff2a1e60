"""`minilora sweep`: many runs from one file, and the cheapest that is as good as the best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.errors import kept_in
from minilora.cli.options import DEVICE_HELP
from minilora.runs.sweep import Candidate, SweepFile, cheapest
from minilora.runs.sweep import sweep as run_sweep
from minilora.runs.sweep.drive import LEDGER, TABLE
from minilora.runs.sweep.plot import plot_sweep
from minilora.runs.sweep.table import seed_noise
from minilora.storage import require_place

GROUP = "Adapt"


def sweep(
    file: Path = typer.Argument(..., metavar="SWEEP.toml", help="What is varied, and on what."),
    out: Path = typer.Option(..., "--out", help="Folder of ledger, adapters and table."),
    jobs: int = typer.Option(0, "--jobs", help="Processes on this machine, 0 for one a core."),
    scheduler: str = typer.Option(
        None, "--scheduler", help="Run on the workers of this Dask scheduler (tcp://HOST:PORT)."
    ),
    device: str = typer.Option("cpu", "--device", help=f"{DEVICE_HELP} One process a card."),
    gate: bool = typer.Option(
        False, "--gate", help="Throw out what gets worse at the base's own tasks (suite)."
    ),
    plot: Path = typer.Option(None, "--plot", help="Where the plot goes. Default: OUT/sweep.png."),
) -> None:
    """Run every combination that a sweep file asks for; stopped, the same command goes on.

    Example: minilora sweep data/sweep/ward.toml --out sweep
    """
    require_place("--plot", plot)
    asked, console = SweepFile.read(file), Console()
    if gate and asked.suite is None:
        raise ValueError(f"got --gate, but {file} names no suite, expected suite = FILE")
    with kept_in(out):
        swept = run_sweep(asked, out, jobs=jobs, scheduler=scheduler, device=device, bars=True)
    chosen = cheapest(swept.found, gate)
    show_found(console, asked, swept.found, chosen)
    if swept.found:
        picture = out / "sweep.png" if plot is None else plot
        plot_sweep(swept.found, chosen, picture)
        show.say(console, f"Plot in {picture}, figures in {out / TABLE}")
    show.say(console, f"{swept.ran} runs run, {swept.kept} done before; ledger {out / LEDGER}")
    if chosen is not None:
        noise = seed_noise(swept.found)
        show.say(
            console,
            f"Cheapest within seed noise of the best (two standard errors, {2 * noise:.1%}): "
            f"{name_of(chosen, swept.found)}, {chosen.trained:,} numbers",
        )
    elif swept.found:
        show.say(console, "Every combination gets worse at the base's own tasks: none is left")
    if swept.failures:
        lines = [f"{run}: {text}" for run, text in list(swept.failures.items())[:3]]
        raise ValueError(f"{len(swept.failures)} runs failed; {'; '.join(lines)}")


def name_of(candidate: Candidate, found: Sequence[Candidate]) -> str:
    """The settings in which the combinations differ, in words."""
    varied = [
        name
        for name, value in candidate.settings.items()
        if any(other.settings.get(name) != value for other in found)
    ]
    return ", ".join(f"{name} {_value(candidate.settings[name])}" for name in varied) or "all alike"


def _value(value: object) -> str:
    return "+".join(value) if isinstance(value, list) else str(value)


def show_found(
    console: Console, asked: SweepFile, found: Sequence[Candidate], chosen: Candidate | None
) -> None:
    """The table, best first by the rows to choose by."""
    headings = ["combination", "numbers", "chosen by", "reported", "range", "seconds"]
    if asked.suite is not None:
        headings.append("base's own")
    rows = []
    for one in found:
        row = [
            f"{name_of(one, found)}{'  ←' if one is chosen else ''}",
            f"{one.trained:,}",
            f"{one.chosen_by:.1%}",
            f"{sum(one.report) / len(one.report):.1%}",
            f"{min(one.report):.1%} to {max(one.report):.1%}",
            f"{one.seconds:.1f}",
        ]
        if asked.suite is not None:
            mark = " worse" if one.breaks_base else ""
            row.append(f"{sum(one.suite) / len(one.suite):.1%}{mark}")
        rows.append(row)
    if rows:
        seeds = len(found[0].choose)
        title = (
            f"{len(found)} combinations, {seeds} seeds; chosen by {asked.choose_rows} rows, "
            f"reported on {asked.report_rows} others"
        )
        show.grid(console, title, headings, rows, right=range(1, len(headings)))
        if asked.meant_to_change:
            changing = ", ".join(asked.meant_to_change)
            show.say(console, f"Meant to change, so that it makes nothing worse: {changing}")

"""`minilora curvature`: whether the best rate follows the steepest direction of the loss."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.options import BASE_HELP
from minilora.hub.bases import WARD
from minilora.runs.curvature import CurvaturePlan, geometric, measure, rank_correlation
from minilora.runs.curvature_plot import plot_curvature
from minilora.runs.tour import DATA

GROUP = "Understand"


def curvature(
    out: Path = typer.Option(..., "--out", help="Folder of ledger, table and plot."),
    data: Path = typer.Option(DATA / "cardiology.train.jsonl", "--data", help="Learnt from."),
    base: str = typer.Option(WARD, "--base", help=BASE_HELP),
    seeds: int = typer.Option(3, "--seeds", help="Trainings at each rate of each adapter."),
    steps: int = typer.Option(30, "--steps", help="Steps of each."),
    jobs: int = typer.Option(0, "--jobs", help="Processes, 0 for one a core."),
) -> None:
    """Compare each adapter's best learning rate with the largest eigenvalue of its Hessian.

    Example: minilora curvature --out curvature --seeds 1
    """
    plan = CurvaturePlan(data=data, base=base, seeds=seeds, steps=steps)
    found = measure(plan, out, jobs=jobs, bars=True)
    console = Console()
    rows = [
        (
            one.shape.name,
            f"{geometric(one.eigenvalue):.3g}",
            f"{min(one.eigenvalue, key=abs):.3g} to {max(one.eigenvalue, key=abs):.3g}",
            f"{geometric(one.best_rate):.4f}",
            f"{min(one.best_rate):g} to {max(one.best_rate):g}",
            f"{one.product:.3g}",
        )
        for one in found
    ]
    headings = ("adapter", "eigenvalue", "range", "best rate", "range", "product")
    show.grid(console, f"{seeds} seeds, {steps} steps", headings, rows, right=range(1, 6))
    correlation, p = rank_correlation(found)
    show.say(console, f"Rank correlation of eigenvalue and best rate {correlation:.2f} (p {p:.2g})")
    plot_curvature(found, out / "curvature.png")
    show.say(console, f"Figures in {out / 'curvature.json'}, plot in {out / 'curvature.png'}")

"""`minilora curvature`: whether the best rate follows the steepest direction of the loss."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.errors import kept_in
from minilora.cli.options import BASE_HELP, numbers
from minilora.hub.bases import WARD
from minilora.runs.curvature import CurvaturePlan, Trend, geometric, measure, trend
from minilora.runs.curvature_plot import plot_curvature
from minilora.runs.tour import DATA

GROUP = "Understand"


def curvature(
    out: Path = typer.Option(..., "--out", help="Folder of ledger, table and plot."),
    data: Path = typer.Option(DATA / "cardiology.train.jsonl", "--data", help="Learnt from."),
    base: str = typer.Option(WARD, "--base", help=BASE_HELP),
    rates: str = typer.Option(
        "0.00125,0.0025,0.005,0.01,0.02,0.04,0.08",
        "--rates",
        help="Rates to choose each adapter's from, with commas.",
    ),
    seeds: int = typer.Option(3, "--seeds", help="Trainings at each rate of each adapter."),
    steps: int = typer.Option(30, "--steps", help="Steps of each."),
    jobs: int = typer.Option(0, "--jobs", help="Processes, 0 for one a core."),
) -> None:
    """Compare each adapter's best learning rate with the largest eigenvalue of its Hessian.

    Example: minilora curvature --out curvature --seeds 1
    """
    plan = CurvaturePlan(
        data=data, base=base, rates=numbers("--rates", rates, float), seeds=seeds, steps=steps
    )
    with kept_in(out):
        found = measure(plan, out, jobs=jobs, bars=True)
    console = Console()
    rows = [
        (
            one.shape.name,
            f"{geometric(one.eigenvalue):.3g}",
            f"{min(one.eigenvalue, key=abs):.3g} to {max(one.eigenvalue, key=abs):.3g}",
            f"{geometric(one.best_rate):.4f}",
            f"{min(one.best_rate):g} to {max(one.best_rate):g}"
            f"{' (end)' * plan.ends_at(one.best_rate)}",
            f"{fmean(one.loss):.3f}",
            f"{one.product:.3g}",
        )
        for one in found
    ]
    headings = ("adapter", "eigenvalue", "range", "best rate", "range", "loss", "product")
    show.grid(console, f"{seeds} seeds, {steps} steps", headings, rows, right=range(1, 7))
    show.say(console, trend_text(trend(found)))
    show.say(
        console,
        "(end): the best rate is an end of the grid, so that the very best may lie beyond.",
    )
    plot_curvature(found, out / "curvature.png")
    show.say(console, f"Figures in {out / 'curvature.json'}, plot in {out / 'curvature.png'}")


def trend_text(follows: Trend) -> str:
    """How the best rate goes with the eigenvalue, in words."""
    if math.isnan(follows.exponent):
        return "All best rates are the same, or all eigenvalues: neither can follow the other."
    (least, most), (low, high) = follows.exponent_interval, follows.correlation_interval
    return (
        f"Best rate ~ eigenvalue to the {follows.exponent:.2f} [{least:.2f}..{most:.2f}] (-1 if it "
        f"went with one over it); rank correlation {follows.correlation:.2f} [{low:.2f}.."
        f"{high:.2f}]. In brackets 95 % over the shapes."
    )

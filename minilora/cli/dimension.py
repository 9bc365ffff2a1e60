"""`minilora dimension`: how few random directions a task needs, from which base and start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.errors import kept_in
from minilora.cli.options import BASE_HELP, numbers
from minilora.hub.bases import WARD
from minilora.runs.dimension import STARTS, Curve, DimensionPlan, Level, measure
from minilora.runs.dimension_plot import plot_dimension
from minilora.runs.tour import DATA

GROUP = "Understand"


def dimension(
    out: Path = typer.Option(..., "--out", help="Folder of ledger, table and plot."),
    data: Path = typer.Option(DATA / "cardiology.train.jsonl", "--data", help="Learnt from."),
    eval_data: Path = typer.Option(DATA / "cardiology.eval.jsonl", "--eval", help="Judged on."),
    base: list[str] = typer.Option([WARD], "--base", help=f"{BASE_HELP} May be given again."),
    start: list[str] = typer.Option(
        list(STARTS), "--start", help="pretrained, or random: the same model, untrained."
    ),
    dimensions: str = typer.Option(
        "10,100,1000,10000,100000", "--d", help="Dimensions to try, with commas."
    ),
    rates: str = typer.Option(
        "0.0015,0.005,0.015", "--rates", help="Rates a weight to choose each d's from, with commas."
    ),
    seeds: int = typer.Option(3, "--seeds", help="Trainings at each dimension's best rate."),
    steps: int = typer.Option(150, "--steps", help="Steps of each."),
    scaled: bool = typer.Option(
        False, "--said", help="With a trained factor a weight matrix: structure-aware."
    ),
    jobs: int = typer.Option(0, "--jobs", help="Processes, 0 for one a core."),
) -> None:
    """Train along d random directions, for each d, and say how few are enough (d90).

    Example: minilora dimension --out d90 --start pretrained --d 100,1000,10000
    """
    plan = DimensionPlan(
        data=data, eval_data=eval_data, bases=tuple(base), starts=tuple(start),
        dimensions=numbers("--d", dimensions, int), steps_a_weight=numbers("--rates", rates, float),
        seeds=seeds, steps=steps, scaled=scaled,
    )  # fmt: skip
    with kept_in(out):
        curves = measure(plan, out, jobs=jobs, bars=True)
    console = Console()
    show_curves(console, curves)
    plot_dimension(curves, out / "dimension.png")
    show.say(console, f"Figures in {out / 'dimension.json'}, plot in {out / 'dimension.png'}")


def show_curves(console: Console, curves: Sequence[Curve]) -> None:
    """A table a base and start, and its d90."""
    for curve in curves:
        rows = [("before", "", f"{curve.before:.3f}", "", f"{curve.exact_before:.1%}")]
        rows += [_row(level) for level in curve.levels]
        name = f"{curve.base}, {curve.start}"
        headings = ("d", "rate a weight", "loss", "range", "exact")
        title = f"{name}: {curve.size:,} numbers"
        show.grid(console, title, headings, rows, right=range(5))
        by_loss, between, by_exact = (
            "none of these" if d is None else f"{d:,.0f}"
            for d in (curve.d90, curve.d90_between, curve.d90_exact)
        )
        show.say(
            console,
            f"d90 of {name}: {by_loss} (loss at most {curve.threshold:.3f}), interpolated "
            f"{between}; by exact answers: {by_exact}",
        )


def _row(level: Level) -> tuple[str, ...]:
    d = "all, freely" if level.d is None else f"{level.d:,}"
    spread = f"{min(level.loss):.3f} to {max(level.loss):.3f}"
    return (
        d, f"{level.step_a_weight:g}", f"{fmean(level.loss):.3f}", spread,
        f"{fmean(level.exact):.1%}",
    )  # fmt: skip

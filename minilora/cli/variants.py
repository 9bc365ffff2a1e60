"""`minilora variants`: ways to train an adapter side by side, each at its own best rate."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.errors import kept_in
from minilora.cli.options import BASE_HELP
from minilora.hub.bases import WARD
from minilora.runs.tour import DATA
from minilora.runs.variants import FIRST, VariantsPlan, measure
from minilora.runs.variants_plot import plot_variants
from minilora.storage import require_place

GROUP = "Understand"


def variants(
    out: Path = typer.Option(..., "--out", help="Folder of ledger and table."),
    data: Path = typer.Option(DATA / "cardiology.train.jsonl", "--data", help="Learnt from."),
    eval_data: Path = typer.Option(DATA / "cardiology.eval.jsonl", "--eval", help="Answered."),
    base: str = typer.Option(WARD, "--base", help=BASE_HELP),
    seeds: int = typer.Option(3, "--seeds", help="Trainings of each at its best rate."),
    steps: int = typer.Option(60, "--steps", help="Steps of each."),
    jobs: int = typer.Option(0, "--jobs", help="Processes, 0 for one a core."),
    plot: Path = typer.Option(None, "--plot", help="PNG file to draw into."),
) -> None:
    """Compare LoRA, LoRA+, rsLoRA, LoRA-FA, DoRA, PiSSA and VeRA, each at its own best rate.

    Example: minilora variants --out variants --plot variants.png
    """
    require_place("--plot", plot)
    plan = VariantsPlan(data=data, eval_data=eval_data, base=base, seeds=seeds, steps=steps)
    with kept_in(out):
        found = measure(plan, out, jobs=jobs, bars=True)
    first = next(one for one in found if one.way.name == FIRST)
    rows = []
    for one in found:
        change, low, high = one.against(first)
        rows.append(
            (
                one.way.name,
                f"{one.rate:g}",
                f"{one.trained:,}",
                f"{fmean(one.exact):.1%}",
                f"{min(one.exact):.1%} to {max(one.exact):.1%}",
                "" if one is first else f"{change:+.1%} ({low:+.1%} to {high:+.1%})",
                f"{one.step[0]:.2f}",
            )
        )
    headings = ("way", "best rate", "trained", "exact", "seeds", f"less {FIRST} (95 %)", "step")
    console = Console()
    title = f"{len(first.right[0])} rows, {seeds} seeds, {steps} steps"
    show.grid(console, title, headings, rows, right=range(1, 7))
    show.say(console, f"Step: processor time of one, by {FIRST}'s. Figures: {out}/variants.json")
    if plot is not None:
        plot_variants(found, plot)
        show.say(console, f"Plot in {plot}")

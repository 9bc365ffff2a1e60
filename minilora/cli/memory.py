"""`minilora memory`: how many random facts an adapter holds, in bits a trained number."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.errors import kept_in
from minilora.cli.options import BASE_HELP, numbers
from minilora.cli.training_options import TARGETS_HELP, target_names
from minilora.hub.bases import WARD
from minilora.runs.memory_law import MemoryPlan, exponent, measure, most_held
from minilora.runs.memory_plot import plot_memory

GROUP = "Understand"


def memory(
    out: Path = typer.Option(..., "--out", help="Folder of ledger, table and plot."),
    base: str = typer.Option(WARD, "--base", help=BASE_HELP),
    ranks: str = typer.Option("1,2,4,8", "--r", help="Ranks to try, with commas."),
    loads: str = typer.Option(
        "0.25,0.5,1", "--loads", help="Facts taught, as multiples of 2 bits a number, with commas."
    ),
    targets: str = typer.Option("q_proj,v_proj", "--targets", help=TARGETS_HELP),
    symbols: int = typer.Option(256, "--symbols", help="Tokens that facts are drawn from."),
    rates: str = typer.Option(
        "0.005,0.015,0.03",
        "--rates",
        help="Rates, of which each rank and load takes its best; commas.",
    ),
    batch_size: int = typer.Option(128, "--batch-size", help="Facts a step."),
    passes: int = typer.Option(200, "--passes", help="Over the facts, for each adapter."),
    seeds: int = typer.Option(3, "--seeds", help="Sets of facts that are reported."),
    jobs: int = typer.Option(0, "--jobs", help="Processes, 0 for one a core."),
) -> None:
    """Teach adapters random facts, more and more, and measure how many bits they hold.

    Example: minilora memory --out memory --r 1,2 --seeds 1
    """
    plan = MemoryPlan(
        base=base, ranks=numbers("--r", ranks, int), loads=numbers("--loads", loads, float),
        target_modules=target_names(targets), symbols=symbols, batch_size=batch_size,
        rates=numbers("--rates", rates, float), passes=passes, seeds=seeds,
    )  # fmt: skip
    with kept_in(out):
        found = measure(plan, out, jobs=jobs, bars=True)
    console, best = Console(), set(most_held(found).values())
    rows = [
        (
            f"{held.r}", f"{held.trained:,}", f"{held.facts:,}",
            f"{held.facts * plan.bits_a_fact / held.trained:.2f}", f"{held.rate:g}",
            f"{fmean(held.recall):.1%}",
            f"{fmean(held.probability):.1%}",
            f"{held.bits_a_number:.2f}{' ←' if held in best else ''}",
        )
        for held in found
    ]  # fmt: skip
    headings = ("r", "numbers", "facts", "taught, bits a number", "rate", "recall", "probability",
                "held, bits a number")  # fmt: skip
    title = f"Facts of {plan.bits_a_fact:.0f} bits, {seeds} sets of them"
    show.grid(console, title, headings, rows, right=range(8))
    if math.isfinite(exponent(found)):
        show.say(console, f"The most that was held grows as r to the {exponent(found):.2f}")
    plot_memory(found, plan.bits_a_fact, out / "memory.png")
    show.say(console, f"Figures in {out / 'memory.json'}, plot in {out / 'memory.png'}")

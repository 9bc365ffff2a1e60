"""`minilora spectrum`: how many directions a change of the weights has, and which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import typer
from rich.console import Console

from minilora.analysis.spectra import ENERGY, THRESHOLD, TOP, Overlap, Spectrum
from minilora.cli import show
from minilora.cli.options import BASE_OF_ADAPTER_HELP
from minilora.cli.reporter import TableReporter
from minilora.runs.spectrum import Found, SpectrumPlan, find_spectra

GROUP = "Understand"
SIDE_HELP = "An adapter's folder, or that of a model which was trained further."
INTRUDER_HELP = "The cosine with all of W's directions below which a direction is an intruder."


def spectrum(
    a: Path = typer.Argument(..., metavar="A", help=SIDE_HELP),
    b: Path = typer.Argument(None, metavar="[B]", help="Another, to compare the subspaces."),
    base: str = typer.Option(None, "--base", help=BASE_OF_ADAPTER_HELP),
    r: int = typer.Option(4, "--r", help="Directions that amplification is taken of."),
    top: int = typer.Option(TOP, "--top", help="Directions of W + ΔW looked at for intruders."),
    threshold: float = typer.Option(THRESHOLD, "--threshold", help=INTRUDER_HELP),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the random control of intruders."),
    plot: Path = typer.Option(None, "--plot", help="Draw it as a PNG here."),
    json_file: Path = typer.Option(None, "--json", help="Also write all numbers here."),
) -> None:
    """Show singular values of ΔW, ranks, amplification and intruders; with B what both share.

    Example: minilora spectrum data/specialists/vascular data/specialists/cardiology
    """
    plan = SpectrumPlan(
        a=a, b=b, base=base, r=r, top=top, threshold=threshold, seed=seed, plot_file=plot,
        json_file=json_file,
    )  # fmt: skip
    console = Console()
    show_found(console, find_spectra(plan, TableReporter(console)))


def show_found(console: Console, found: Found) -> None:
    """A table of spectra and one of overlaps."""
    plan = found.plan
    headings = ("module", "‖ΔW‖", "rank", f"{ENERGY:.0%} in", "effective", "stable",
                f"‖UᵀWV‖, r {plan.r}", "of W's own", "random", "amplified", "random",
                f"intruders of {plan.top}", "random")  # fmt: skip
    rows = [spectrum_row(one) for one in found.spectra]
    show.grid(console, f"{plan.a} on {found.base}", headings, rows, right=range(1, 13))
    if found.overlaps:
        headings = ("module", *(f"φ({i}, {j})" for i, j in places(found.overlaps)), "whole",
                    "by chance: φ(1, 1)", "whole")  # fmt: skip
        rows = [overlap_row(one, places(found.overlaps)) for one in found.overlaps]
        title = f"What {plan.a} and {plan.b} read in common"
        show.grid(console, title, headings, rows, right=range(1, len(headings)))
    if plan.plot_file is not None:
        show.say(console, f"Wrote {plan.plot_file}.")


def spectrum_row(one: Spectrum) -> tuple[str, ...]:
    """A module as texts."""
    amplified = one.amplified
    sizes = (amplified.onto, amplified.onto_top, amplified.onto_chance)
    return (
        one.module.removeprefix("model."),
        f"{one.norm:.3f}",
        str(len(one.s)),
        str(one.energy),
        f"{one.effective:.1f}",
        f"{one.stable:.1f}",
        *(f"{x:.3f}" for x in sizes),
        f"{amplified.factor:.1f}",
        f"{amplified.chance_factor:.1f}",
        str(one.intruders),
        str(one.intruders_chance),
    )


def places(overlaps: list[Overlap]) -> list[tuple[int, int]]:
    """The corners of the grids that every module has: (1, 1), (2, 2), (4, 4), ..."""
    smallest = min(min(one.reads.shape) for one in overlaps)
    return [(k, k) for k in (1, 2, 4, 8) if k <= smallest]


def overlap_row(one: Overlap, corners: list[tuple[int, int]]) -> tuple[str, ...]:
    """A module as texts."""
    grids = [one.reads[i - 1, j - 1] for i, j in corners]
    numbers = [*grids, one.reads[-1, -1], one.chance_reads[0, 0], one.chance_reads[-1, -1]]
    return (one.module.removeprefix("model."), *(f"{x:.3f}" for x in np.array(numbers)))

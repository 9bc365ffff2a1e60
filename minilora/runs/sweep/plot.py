"""The plot of a sweep: what a combination trains against what it gets, coloured by the base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from minilora.runs.figure import figure_in
from minilora.runs.sweep.table import Candidate


def plot_sweep(found: Sequence[Candidate], chosen: Candidate | None, path: Path) -> None:
    """Trained numbers (logarithmic) against exact answers to the reported rows, as a PNG.

    Bars span the seeds. Colour is the share of the base's own tasks that is kept, where the sweep
    asked for it; the chosen one has a ring.
    """
    with figure_in(path, 8, 5) as figure:
        axes = figure.add_subplot()
        sizes = [c.trained for c in found]
        means = [100 * fmean(c.report) for c in found]
        lows = [m - 100 * min(c.report) for m, c in zip(means, found, strict=True)]
        highs = [100 * max(c.report) - m for m, c in zip(means, found, strict=True)]
        axes.errorbar(sizes, means, [lows, highs], fmt="none", ecolor="0.7", zorder=1)
        kept = [100 * fmean(c.suite) for c in found] if all(c.suite for c in found) else None
        colours = {"c": kept, "cmap": "viridis"} if kept else {"c": "tab:orange"}
        points = axes.scatter(sizes, means, s=50, zorder=2, **colours)
        if kept:
            figure.colorbar(points, label="base's own tasks, exact (%)")
        if chosen is not None:
            place = 100 * fmean(chosen.report)
            ring = dict(s=220, facecolor="none", edgecolor="red", zorder=3)
            axes.scatter([chosen.trained], [place], label="cheapest within seed noise", **ring)
            axes.legend(fontsize=9, markerscale=0.6)
        axes.set(
            xscale="log",
            xlabel="trained numbers",
            ylabel="exact answers (%)",
            title="Many cheap runs",
        )
        axes.grid(alpha=0.3)

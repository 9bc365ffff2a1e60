"""The plot of variants: exact answers by trained numbers, a point a way to train."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from minilora.runs.figure import figure_in
from minilora.runs.variants import Scored


def plot_variants(found: Sequence[Scored], path: Path) -> None:
    """Mean shares with their 95 % intervals; the colour is the processor time of a step."""
    with figure_in(path, 8, 5) as figure:
        axes = figure.add_subplot()
        trained = [one.trained for one in found]
        means = [100 * statistics.fmean(one.exact) for one in found]
        lows, highs = zip(*(one.interval for one in found), strict=True)
        spread = [[m - 100 * low for m, low in zip(means, lows, strict=True)],
                  [100 * high - m for m, high in zip(means, highs, strict=True)]]  # fmt: skip
        axes.errorbar(trained, means, spread, fmt="none", ecolor="0.7", zorder=1)
        points = axes.scatter(
            trained, means, c=[one.step[0] for one in found], cmap="viridis", zorder=2
        )
        for one, x, y in zip(found, trained, means, strict=True):
            axes.annotate(one.way.name, (x, y), (6, 4), textcoords="offset points", fontsize=8)
        axes.set(
            xscale="log",
            xlabel="trained numbers",
            ylabel="exact answers in %, with 95 % interval",
            title="Variants of LoRA, each at its best rate",
        )
        axes.grid(alpha=0.3)
        figure.colorbar(points, label="processor time of a step, LoRA is 1")

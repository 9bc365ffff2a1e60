"""The plot of intrinsic dimension: loss by the number of random directions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from minilora.runs.dimension import Curve
from minilora.runs.figure import figure_in


def plot_dimension(curves: Mapping[str, Curve], path: Path) -> None:
    """Loss by the number of random directions, a line a start, with 90 % of full training's."""
    with figure_in(path, 7, 4.5) as figure:
        axes = figure.add_subplot()
        for colour, (start, curve) in zip(("tab:orange", "tab:blue"), curves.items(), strict=False):
            levels = [level for level in curve.levels if level.d is not None]
            means = [fmean(level.loss) for level in levels]
            below = [m - min(level.loss) for m, level in zip(means, levels, strict=True)]
            above = [max(level.loss) - m for m, level in zip(means, levels, strict=True)]
            d = [level.d for level in levels]
            axes.errorbar(d, means, [below, above], fmt="o-", color=colour, label=start)
            axes.axhline(curve.threshold, color=colour, linestyle="--", linewidth=1)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="random directions d",
            ylabel="loss (nats a token)",
            title="How many directions a task needs",
        )
        axes.grid(alpha=0.3)
        axes.legend(title="dashed: 90 % of full training")

"""The plot of intrinsic dimension: loss and exact answers by the number of random directions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from minilora.runs.dimension import SHARE, Curve
from minilora.runs.figure import figure_in


def plot_dimension(curves: Sequence[Curve], path: Path) -> None:
    """Loss, left, and exact answers, right, by the number of random directions, with the seeds'
    range; a line a base and start, dashed what 90 % of its full training is.
    """
    with figure_in(path, 11, 4.5) as figure:
        left, right = figure.subplots(1, 2)
        for number, curve in enumerate(curves):
            colour, label = f"C{number}", f"{curve.base}, {curve.start} ({curve.size:,})"
            levels = [level for level in curve.levels if level.d is not None]
            d = [level.d for level in levels]
            wanted = SHARE * fmean(curve.full.exact)
            for axes, values, limit in (
                (left, [level.loss for level in levels], curve.threshold),
                (right, [level.exact for level in levels], wanted),
            ):
                means, spread = _means_and_spread(values)
                axes.errorbar(d, means, spread, fmt="o-", color=colour, label=label)
                axes.axhline(limit, color=colour, linestyle="--", linewidth=1)
        left.set(yscale="log", ylabel="loss (nats a token)")
        right.set(ylim=(-0.02, 1.02), ylabel="exact answers, share")
        figure.suptitle("How many directions a task needs")
        for axes in (left, right):
            axes.set(xscale="log", xlabel="random directions d")
            axes.grid(alpha=0.3)
        left.legend(title="dashed: 90 % of full training", fontsize=8)


def _means_and_spread(values: Sequence[Sequence[float]]) -> tuple[list, list]:
    means = [fmean(one) for one in values]
    below = [mean - min(one) for mean, one in zip(means, values, strict=True)]
    above = [max(one) - mean for mean, one in zip(means, values, strict=True)]
    return means, [below, above]

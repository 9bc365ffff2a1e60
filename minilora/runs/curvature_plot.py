"""The plot of curvature: best rate by the largest eigenvalue, a point an adapter's shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minilora.runs.curvature import Curved, geometric
from minilora.runs.figure import figure_in


def plot_curvature(found: Sequence[Curved], path: Path) -> None:
    """Geometric means over seeds on logarithmic axes, numbered as the legend names them, with a
    line of slope -1 through their middle: that of a rate that goes with one over the eigenvalue.
    """
    with figure_in(path, 9, 5) as figure:
        axes = figure.add_subplot()
        values = [geometric(c.eigenvalue) for c in found]
        rates = [geometric(c.best_rate) for c in found]
        for number, (curved, value, rate) in enumerate(zip(found, values, rates, strict=True), 1):
            low, high = min(curved.best_rate), max(curved.best_rate)
            axes.plot([value, value], [low, high], color="tab:orange", linewidth=1)
            axes.plot(
                value,
                rate,
                "o",
                color="tab:orange",
                zorder=3,
                label=f"{number}: {curved.shape.name}",
            )
            axes.annotate(str(number), (value, rate), (5, 4), textcoords="offset points")
        middle = geometric([v * r for v, r in zip(values, rates, strict=True)])
        ends = min(values), max(values)
        axes.plot(
            ends, [middle / v for v in ends], "--", color="0.6", label="rate ~ 1 / eigenvalue"
        )
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="largest eigenvalue of the Hessian at the start",
            ylabel="best rate",
            title="Does the rate follow the curvature?",
        )
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=1.5)

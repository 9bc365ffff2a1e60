"""The plot of curvature: best rate by the largest eigenvalue, a point an adapter's shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minilora.runs.curvature import Curved, geometric
from minilora.runs.figure import figure_in


def plot_curvature(found: Sequence[Curved], path: Path) -> None:
    """Geometric means over seeds on logarithmic axes, with a line of slope -1 through their middle:
    the line on which they would lie if the rate went with one over the eigenvalue."""
    with figure_in(path, 7, 5) as figure:
        axes = figure.add_subplot()
        values = [geometric(c.eigenvalue) for c in found]
        rates = [geometric(c.best_rate) for c in found]
        axes.scatter(values, rates, color="tab:orange", zorder=3)
        for curved, value, rate in zip(found, values, rates, strict=True):
            axes.annotate(
                curved.shape.name, (value, rate), (5, 4), textcoords="offset points", fontsize=8
            )
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
        axes.legend()

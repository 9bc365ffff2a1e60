"""The plot of variants: exact answers by trained numbers, a point a way to train."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from minilora.runs.figure import figure_in
from minilora.runs.variants import Scored


def plot_variants(found: Sequence[Scored], path: Path) -> None:
    """Mean shares with their 95 % intervals, numbered as the legend names them; the colour is the
    processor time of a step.
    """
    with figure_in(path, 10, 5) as figure:
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
        above = _ranks_at_one_place(trained, means)
        for number, (x, y, rank) in enumerate(zip(trained, means, above, strict=True), 1):
            place = (6 + 11 * rank, 4)  # side by side where ways lie on one another
            axes.annotate(str(number), (x, y), place, textcoords="offset points", fontsize=9)
            axes.plot([], [], " ", label=f"{number}: {found[number - 1].way.name}")
        axes.set(
            xscale="log",
            xlabel="trained numbers",
            ylabel="exact answers in %, with 95 % interval",
            title="Variants of LoRA, each at its best rate",
        )
        axes.grid(alpha=0.3)
        figure.colorbar(points, label="processor time of a step, LoRA is 1")
        figure.legend(loc="outside right center", handlelength=0, fontsize=9)


def _ranks_at_one_place(trained: Sequence[int], means: Sequence[float]) -> list[int]:
    """Of each point, how many of those before it are so near that their numbers would meet."""
    wide, high = math.log(max(trained) / min(trained) + 1), max(means) - min(means) + 1e-9
    places = [(math.log(x) / wide, y / high) for x, y in zip(trained, means, strict=True)]
    return [
        sum(abs(x - a) < 0.04 and abs(y - b) < 0.05 for a, b in places[:i])
        for i, (x, y) in enumerate(places)
    ]

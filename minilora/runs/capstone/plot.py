"""The picture of a capstone: base, prompt and adapter, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from minilora.runs.figure import figure_in

COLOURS = {"base": "#999999", "prompt": "#e6a23c", "adapter": "#1f77b4"}


def plot_scores(path: Path, shares: Mapping[str, Mapping], commonest: float) -> None:
    """Shares of exact answers with 95 % intervals, and what one answer for all gets, as a PNG."""
    with figure_in(path, 6.4, 3.4, dpi=120) as figure:
        axes = figure.add_subplot()
        for place, (name, share) in enumerate(shares.items()):
            value, (low, high) = 100 * share["exact"], (100 * end for end in share["interval"])
            axes.bar(place, value, 0.6, color=COLOURS[name])
            ends = [[value - low], [high - value]]
            axes.errorbar(place, value, ends, color="black", capsize=6, linewidth=1.5)
            axes.annotate(f"{value:.0f} %", (place, high), (0, 4), textcoords="offset points",
                          ha="center")  # fmt: skip
        label = "always the commonest answer"
        axes.axhline(100 * commonest, color="black", linestyle=":", linewidth=1, label=label)
        axes.set_xticks(range(len(shares)), shares)
        rows = next(iter(shares.values()))["of"]
        axes.set(ylabel="exact answers (%)", ylim=(0, 112), title=f"{rows} held-out rows")
        axes.set_yticks(range(0, 101, 20))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.legend(fontsize=8, loc="upper left", frameon=False)

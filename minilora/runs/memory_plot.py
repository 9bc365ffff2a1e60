"""The plot of memory: bits held by trained numbers, a line for two bits a number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from minilora.runs.figure import figure_in
from minilora.runs.memory_law import Held, most_held


def plot_memory(found: Sequence[Held], path: Path) -> None:
    """Left: the most bits held by trained numbers. Right: recall and probability by load."""
    with figure_in(path, 11, 4.5) as figure:
        left, right = figure.subplots(1, 2)
        best = list(most_held(found).values())
        sizes, bits = [h.trained for h in best], [fmean(h.bits) for h in best]
        spread = [[m - min(h.bits) for m, h in zip(bits, best, strict=True)],
                  [max(h.bits) - m for m, h in zip(bits, best, strict=True)]]  # fmt: skip
        left.errorbar(sizes, bits, spread, fmt="o-", color="tab:orange", label="measured")
        left.plot(sizes, [2 * size for size in sizes], "--", color="0.6", label="2 bits a number")
        left.set(
            xscale="log", yscale="log", xlabel="trained numbers", ylabel="bits of random facts"
        )
        left.legend()
        for held in best:
            own = [h for h in found if h.r == held.r]
            taught = [h.facts / h.trained for h in own]
            (line,) = right.plot(taught, [fmean(h.recall) for h in own], "o-", label=f"r {held.r}")
            right.plot(taught, [fmean(h.probability) for h in own], "x:", color=line.get_color())
        right.set(
            xlabel="facts taught, a trained number",
            ylabel="share",
            ylim=(-0.02, 1.02),
            title="lines: greedy recall, dots: probability",
        )
        right.legend()
        for axes in (left, right):
            axes.grid(alpha=0.3)

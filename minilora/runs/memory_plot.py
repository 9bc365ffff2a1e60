"""The plot of memory: bits held by trained numbers, a line for two bits a number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from minilora.runs.figure import figure_in
from minilora.runs.memory_law import Held, most_held


def plot_memory(found: Sequence[Held], bits_a_fact: float, path: Path) -> None:
    """Three panels: the most that was held, by trained numbers; bits a number held, by those
    taught; recall and probability, by the bits a number taught.
    """
    with figure_in(path, 15, 4.5) as figure:
        left, middle, right = figure.subplots(1, 3)
        best = list(most_held(found).values())
        sizes, bits = [h.trained for h in best], [fmean(h.bits) for h in best]
        spread = [[m - min(h.bits) for m, h in zip(bits, best, strict=True)],
                  [max(h.bits) - m for m, h in zip(bits, best, strict=True)]]  # fmt: skip
        left.errorbar(sizes, bits, spread, fmt="o-", color="tab:orange", label="measured")
        left.plot(sizes, [2 * size for size in sizes], "--", color="0.6", label="2 bits a number")
        left.set(
            xscale="log", yscale="log", xlabel="trained numbers", ylabel="bits of random facts",
            title="The most that was held",
        )  # fmt: skip
        left.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        left.minorticks_off()
        left.legend()
        reach = []
        for held in best:
            own = sorted((h for h in found if h.r == held.r), key=lambda h: h.facts)
            taught = [h.facts * bits_a_fact / h.trained for h in own]
            (line,) = middle.plot(taught, [h.bits_a_number for h in own], "o-", label=f"r {held.r}")
            right.plot(taught, [fmean(h.recall) for h in own], "o-", label=f"r {held.r}")
            right.plot(taught, [fmean(h.probability) for h in own], "x:", color=line.get_color())
            reach += taught
        whole = np.geomspace(min(reach), max(reach))
        middle.plot(whole, whole, "--", color="0.6", label="all that was taught")
        highest = max(h.bits_a_number for h in found)
        middle.set(
            xlabel="bits taught, a trained number", ylabel="bits held, a number",
            ylim=(0, max(1.5 * highest, 1e-3)), title="Held of what was taught",
        )  # fmt: skip
        middle.legend()
        right.set(
            xlabel="bits taught, a trained number", ylabel="share",
            ylim=(-0.02, 1.02), title="lines: greedy recall, dots: probability",
        )  # fmt: skip
        right.legend()
        for axes in (middle, right):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        for axes in (left, middle, right):
            axes.grid(alpha=0.3)

"""The plot of memory: bits held by trained numbers, a line for two bits a number."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from minilora.runs.memory_law import Held, most_held
from minilora.storage import atomic_write


def plot_memory(found: Sequence[Held], path: Path) -> None:
    """Left: the most bits held by trained numbers. Right: recall and probability by load."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, used once
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    best = list(most_held(found).values())
    sizes, bits = [h.trained for h in best], [fmean(h.bits) for h in best]
    spread = [[m - min(h.bits) for m, h in zip(bits, best, strict=True)],
              [max(h.bits) - m for m, h in zip(bits, best, strict=True)]]  # fmt: skip
    left.errorbar(sizes, bits, spread, fmt="o-", color="tab:orange", label="measured")
    left.plot(sizes, [2 * size for size in sizes], "--", color="0.6", label="2 bits a number")
    left.set(xscale="log", yscale="log", xlabel="trained numbers", ylabel="bits of random facts")
    left.legend()
    for held in best:
        own = [h for h in found if h.r == held.r]
        taught = [h.facts / h.trained for h in own]
        (line,) = right.plot(taught, [fmean(h.recall) for h in own], "o-", label=f"r {held.r}")
        right.plot(taught, [fmean(h.probability) for h in own], "x:", color=line.get_color())
    right.set(xlabel="facts taught, a trained number", ylabel="share", ylim=(-0.02, 1.02),
              title="lines: greedy recall, dots: probability")  # fmt: skip
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    atomic_write(path, buffer.getvalue())

"""The plots that runs leave behind, as PNG files."""

from __future__ import annotations

import io
from pathlib import Path

from minilora.storage import atomic_write
from minilora.training import History


def plot_loss(history: History, path: Path) -> None:
    """Training loss and, where it was taken, held-out loss by step, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, used once
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*history.series("loss"), linewidth=1, alpha=0.7, label="training batch")
    steps, losses = history.series("eval_loss")
    if steps:
        axes.plot(steps, losses, "o-", label="held-out sample")
    axes.set(xlabel="step", ylabel="loss (nats a token)", title="Adapting")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    atomic_write(path, buffer.getvalue())


def plot_tour(path: Path, history: History, figures: dict) -> None:
    """Training loss beside bars of scores before and after, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, used once
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    left.plot(*history.series("loss"), linewidth=1)
    left.set(xlabel="step", ylabel="loss (nats a token)", yscale="log", title="Adapting")
    left.grid(alpha=0.3)
    house = ("exact", "format_compliance", "invented_dose_rate", "leak_rate")
    names = ["exact", "format", "invented\ndoses", "leaks", *figures["before"]["base"]["groups"]]
    for shift, when, colour in ((-0.2, "before", "#999999"), (0.2, "after", "#1f77b4")):
        scores = figures[when]
        values = [scores["house"][key] or 0.0 for key in house]
        values += scores["base"]["groups"].values()
        places = [i + shift for i in range(len(values))]
        label = "base" if when == "before" else "with the adapter"
        right.bar(places, [100 * v for v in values], 0.4, color=colour, label=label)
    right.axvline(len(house) - 0.5, color="black", linewidth=0.5)
    right.set_xticks(range(len(names)), names, fontsize=8, rotation=25)
    right.set(ylabel="percent", title="House task | what the base could do", ylim=(0, 105))
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    atomic_write(path, buffer.getvalue())

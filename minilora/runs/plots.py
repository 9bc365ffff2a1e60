"""The plots that runs leave behind, as PNG files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from minilora.analysis.spectra import ENERGY, Overlap, Spectrum
from minilora.runs.figure import figure_in
from minilora.training import History


def plot_loss(history: History, path: Path) -> None:
    """Training loss and, where it was taken, held-out loss by step, as a PNG."""
    with figure_in(path, 7, 4) as figure:
        axes = figure.add_subplot()
        axes.plot(*history.series("loss"), linewidth=1, alpha=0.7, label="training batch")
        steps, losses = history.series("eval_loss")
        if steps:
            axes.plot(steps, losses, "o-", label="held-out sample")
        axes.set(xlabel="step", ylabel="loss (nats a token)", title="Adapting")
        axes.grid(alpha=0.3)
        axes.legend()


def plot_tour(path: Path, history: History, figures: dict) -> None:
    """Training loss beside bars of scores before and after, as a PNG."""
    with figure_in(path, 11, 4) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(2, 3))
        left.plot(*history.series("loss"), linewidth=1)
        left.set(xlabel="step", ylabel="loss (nats a token)", yscale="log", title="Adapting")
        left.grid(alpha=0.3)
        house = ("exact", "format_compliance", "invented_dose_rate", "leak_rate")
        names = [
            "exact",
            "format",
            "invented\ndoses",
            "leaks",
            *figures["before"]["base"]["groups"],
        ]
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


SHOWN_GRIDS = 8
"""Modules whose overlaps are drawn."""
GRIDS_A_ROW = 5


def plot_spectra(path: Path, spectra: Sequence[Spectrum]) -> None:
    """Singular values, the energy that the first of them hold, and amplification, as a PNG."""
    from matplotlib.ticker import MaxNLocator

    with figure_in(path, 13, 4) as figure:
        values, energy, amplified = figure.subplots(1, 3)
        kinds = sorted({one.module.rpartition(".")[2] for one in spectra})
        for one in spectra:
            kind = one.module.rpartition(".")[2]
            look = dict(color=f"C{kinds.index(kind)}", alpha=0.6, linewidth=1)
            numbers, squares = range(1, len(one.s) + 1), [s**2 for s in one.s]
            values.plot(numbers, [s / one.s[0] for s in one.s], **look)
            total = sum(squares)
            energy.plot(numbers, [x / total for x in itertools.accumulate(squares)], **look)
        for kind in kinds:
            values.plot([], [], color=f"C{kinds.index(kind)}", label=kind)
        values.set(xlabel="singular value, by size", ylabel="singular value / the largest")
        values.set_yscale("log")
        energy.set(xlabel="directions", ylabel="share of ‖ΔW‖²", ylim=(0, 1.02))
        for axes in (values, energy):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        energy.axhline(ENERGY, color="black", linewidth=0.5, label=f"{ENERGY:.0%} of it")
        energy.legend(fontsize=8)
        values.legend(fontsize=8)
        places = range(1, len(spectra) + 1)
        for label, key, mark in (
            ("ΔW's directions", "factor", "o"),
            ("random", "chance_factor", "x"),
        ):
            amplified.plot(
                places, [getattr(one.amplified, key) for one in spectra], mark, label=label
            )
        amplified.set(xlabel="module, in the order of the table", ylabel="‖ΔW‖ / ‖UᵀWV‖")
        amplified.set(yscale="log", title="Amplification")
        amplified.xaxis.set_major_locator(MaxNLocator(integer=True))
        amplified.legend(fontsize=8)
        for axes in (values, energy, amplified):
            axes.grid(alpha=0.3)


def plot_overlaps(path: Path, overlaps: Sequence[Overlap], names: tuple[str, str]) -> None:
    """φ(i, j) of what two changes read, module by module, and what chance would give, as a PNG."""
    from matplotlib.ticker import MaxNLocator

    shown = overlaps[:SHOWN_GRIDS]
    columns = min(GRIDS_A_ROW, len(shown) + 1)
    rows = -(-(len(shown) + 1) // columns)
    with figure_in(path, 2.8 * columns + 1, 2.8 * rows) as figure:
        every = figure.subplots(rows, columns, squeeze=False).ravel()
        panels = every[: len(shown) + 1]
        for axes in every[len(panels) :]:
            axes.remove()
        grids = [(one.module.removeprefix("model."), one.reads) for one in shown]
        grids.append(("random subspaces", shown[0].chance_reads))
        for axes, (title, grid) in zip(panels, grids, strict=True):
            extent = (0.5, grid.shape[1] + 0.5, 0.5, grid.shape[0] + 0.5)
            image = axes.imshow(grid, vmin=0, vmax=1, origin="lower", extent=extent, aspect="auto")
            axes.set_title(title, fontsize=8)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(integer=True))
        figure.supxlabel(f"j, first directions of {names[1]}", fontsize=9)
        figure.supylabel(f"i, first directions of {names[0]}", fontsize=9)
        figure.colorbar(image, ax=list(panels), label="φ(i, j)")


def plot_confusions(
    path: Path, names: Sequence[str], panels: Mapping[str, Mapping[tuple[str, str], int]]
) -> None:
    """Where notes of each place (rows) were sent (columns), a panel a router, as a PNG.

    panels: title -> how many notes of (place, sent).
    """
    with figure_in(path, 6 * len(panels), 5.5) as figure:
        every = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (title, counts) in zip(every, panels.items(), strict=True):
            table = [[counts.get((place, sent), 0) for sent in names] for place in names]
            most = max(map(max, table))
            axes.imshow(table, cmap="Blues", vmin=0)
            for i, row in enumerate(table):
                for j, count in enumerate(row):
                    colour = "white" if count > most / 2 else "black"
                    axes.text(j, i, count or "", ha="center", va="center", color=colour)
            axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
            axes.set_yticks(range(len(names)), names)
            axes.set(xlabel="sent to", title=title)
        every[0].set_ylabel("belongs to")

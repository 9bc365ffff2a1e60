"""How cost grows, drawn: a PNG from the record of growth.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora.runs.figure import figure_in

MIB = 1 << 20
JOBS = {"lora-qv": "LoRA step", "full": "full step"}
COLOURS = {"minilora": "#1f77b4", "torch": "#d62728", "torch-labelled": "#d62728"}
UNITS = {"batch": "rows", "length": "tokens a row", "width": "hidden size"}


def plot_growth(record: dict, about: dict[str, str], out: Path) -> None:
    """Four panels as a PNG: tokens/s by batch, length and width; memory by length."""
    with figure_in(out, 11, 8.5) as figure:
        panels = figure.subplots(2, 2).ravel()
        for axes, axis in zip(panels, UNITS, strict=False):
            draw_rates(axes, axis, record)
        draw_memory(panels[3], record)
        base, cores = record["base"], record["threads"]
        sizes = f"{base['batch']} x {base['length']} tokens, width {base['width']}"
        figure.suptitle(
            f"How cost grows, from {sizes}, {base['layers']} layers "
            f"({cores} cores, {about['dtype']})\n{about['CPU']}",
            fontsize=10,
        )


def draw_rates(axes: Any, axis: str, record: dict) -> None:
    """Tokens/s of every side and job; thin lines: what the matmuls' flops alone would give."""
    columns = record["axes"][axis]
    values = columns["values"]
    for kind in record["kinds"]:
        for job, style in zip(JOBS, ("o-", "s--"), strict=True):
            label = f"{kind}, {JOBS[job]}"
            rates = columns[f"{kind} {job} tokens/s"]
            axes.plot(values, rates, style, color=COLOURS[kind], markersize=4, label=label)
    for job in JOBS:
        label = "by matmul work alone" if job == "full" else None
        rates = columns[f"expected {job} tokens/s"]
        axes.plot(values, rates, color="#555555", linewidth=0.7, label=label)
    frame(axes, values, f"Speed by {axis}", f"{axis} ({UNITS[axis]})", "tokens/s")


def draw_memory(axes: Any, record: dict) -> None:
    """Memory of a LoRA step above the loaded model, and lines that grow as T and as T squared."""
    lengths = record["axes"]["length"]["values"]
    for kind in record["kinds"]:
        growth = [max(m["growth"], 1) / MIB for m in record["memory"][kind]]
        axes.plot(lengths, growth, "o-", color=COLOURS[kind], markersize=4, label=kind)
    first = max(record["memory"]["minilora"][0]["growth"], 1) / MIB
    for power, style in ((1, "-"), (2, ":")):
        line = [first * (length / lengths[0]) ** power for length in lengths]
        label = f"as length{'' if power == 1 else ' squared'}"
        axes.plot(lengths, line, style, color="#555555", linewidth=0.7, label=label)
    frame(axes, lengths, "Memory of a LoRA step by length", "length (tokens a row)",
          "MiB above the loaded model")  # fmt: skip


def frame(axes: Any, values: list[int], title: str, across: str, up: str) -> None:
    """Both axes logarithmic; ticks across at the measured values, up at 1, 2, 5, 10, ..."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set(xscale="log", yscale="log", title=title, xlabel=across, ylabel=up)
    axes.set_xticks(values, [str(value) for value in values])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_tick_params(which="minor", length=0)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)

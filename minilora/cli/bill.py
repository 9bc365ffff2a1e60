"""`minilora bill`: the memory that training takes, by kind, for full training and LoRA."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import typer
from rich.console import Console

from minilora.analysis.bill import METHODS, SHAPES, Batch, Bill, bill_of, counted_bill, prepared
from minilora.cli import show
from minilora.cli.options import BASE_HELP
from minilora.hub.bases import WARD, open_base
from minilora.limits import require_count
from minilora.runs.figure import figure_in
from minilora.storage import require_place

GROUP = "Understand"
KINDS = ("weights", "adapter", "gradients", "optimizer", "activations")
COUNTED_AT_MOST = 4 << 30
"""Bytes up to which `--count` trains for a step: more would fill a small machine."""


def bill(
    base: str = typer.Option(WARD, "--base", help=BASE_HELP),
    shape: str = typer.Option(
        None, "--shape", help=f"Predict for these sizes instead: {', '.join(SHAPES)}."
    ),
    rank: int = typer.Option(8, "--r", help="Rank of the adapters."),
    rows: int = typer.Option(8, "--rows", help="Rows of a batch (of a piece of one)."),
    time: int = typer.Option(128, "--time", help="Tokens in a row."),
    labels: int = typer.Option(None, "--labels", help="Labelled tokens at its end. Default: all."),
    count: bool = typer.Option(
        False, "--count", help="Take a step of each and count its live arrays beside."
    ),
    plot: Path = typer.Option(None, "--plot", help="Draw the bills into this PNG."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, for programs."),
) -> None:
    """Show the bytes of weights, gradients, optimizer and activations that training takes.

    Example: minilora bill --shape gpt-3 --r 4 --rows 1 --time 2048
    """
    require_count("--r", rank, 1)
    require_place("--plot", plot)
    if shape is not None and shape not in SHAPES:
        raise ValueError(f"got --shape {shape!r}, expected one of {', '.join(SHAPES)}")
    if shape is not None and count:
        raise ValueError("got --count with --shape, expected a --base, which has weights to count")
    batch = Batch(rows, time, time if labels is None else labels)
    config = SHAPES[shape] if shape else open_base(base)[0].config
    bills = {name: bill_of(config, batch, name, rank) for name in METHODS}
    counted = _counted(base, batch, rank, bills) if count else {}
    if as_json:
        both = {"predicted": bills, "counted": counted}
        told = {k: {n: b.to_dict() for n, b in x.items()} for k, x in both.items()}
        typer.echo(json.dumps({"of": shape or base, **told}, indent=2))
    else:
        _show(Console(), shape or base, batch, bills, counted)
    if plot is not None:
        draw(bills, shape or base, plot)


def _counted(base: str, batch: Batch, rank: int, bills: dict[str, Bill]) -> dict[str, Bill]:
    counted = {}
    for name, predicted in bills.items():
        if predicted.total > COUNTED_AT_MOST:
            continue
        method = METHODS[name]
        model, _ = open_base(base, method.base_dtype)
        optimizer = prepared(model, method, rank, np.random.default_rng(0))
        counted[name] = counted_bill(model, batch, optimizer)
    return counted


def _show(
    console: Console,
    name: str,
    batch: Batch,
    bills: dict[str, Bill],
    counted: dict[str, Bill],
) -> None:
    unit, bytes_each = unit_of(bills)

    def cell(held: int) -> str:
        return f"{held / bytes_each:,.{0 if held >= 1000 * bytes_each else 1}f}"

    headings = [unit, "base", "A, B", "grads", "Adam", "kept", "all"]
    rows = [[method, *map(cell, own.to_dict().values())] for method, own in bills.items()]
    if counted:
        headings.append("counted")
        for row, method in zip(rows, bills, strict=True):
            row.append(cell(counted[method].total) if method in counted else "too large")
    title = f"{name}: training on {batch.rows} rows of {batch.time} tokens"
    show.grid(console, title, headings, rows, right=range(1, len(headings)))
    show.say(console, "kept: activations that the graph keeps for the backward pass")


def unit_of(bills: Mapping[str, Bill]) -> tuple[str, int]:
    """The largest unit of which the largest bill has 20 or more, and its bytes."""
    largest = max(own.total for own in bills.values())
    units = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
    fitting = [name for name, size in units.items() if largest >= 20 * size]
    name = fitting[0] if fitting else "KiB"
    return name, units[name]


def draw(bills: dict[str, Bill], name: str, path: Path) -> None:
    """A bar a method, of the kinds of memory one on the other."""
    unit, bytes_each = unit_of(bills)
    with figure_in(path, 8, 0.5 * len(bills) + 1.6, dpi=150) as figure:
        axes, left = figure.add_subplot(), np.zeros(len(bills))
        colours = ("0.65", "tab:orange", "tab:red", "tab:purple", "tab:blue")
        for kind, colour in zip(KINDS, colours, strict=True):
            widths = np.array([getattr(own, kind) for own in bills.values()]) / bytes_each
            axes.barh(list(bills), widths, left=left, color=colour, label=kind)
            left += widths
        axes.invert_yaxis()
        axes.set(xlabel=unit, title=f"The bill of training: {name}")
        axes.legend(loc="lower right")

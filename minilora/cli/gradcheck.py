"""`minilora gradcheck`: gradients against finite differences, planted mistakes against that."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from minilora.gradients.case import Case
from minilora.gradients.cases import all_cases
from minilora.gradients.gradcheck import Row
from minilora.gradients.mutants import Mutant, run_mutants

GROUP = "Understand"


def gradcheck(
    op: str = typer.Option("", "--op", help="Check only this op, layer or model, by its name."),
    mutants: bool = typer.Option(
        False, "--mutants", help="Plant wrong gradients, and check that each is rejected."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of inputs, cotangents, directions."),
) -> None:
    """Compare every hand-written gradient with finite differences; exit code 1 if one is wrong.

    Example: minilora gradcheck --mutants
    """
    console, began = Console(), time.perf_counter()
    cases = chosen_cases(op, seed)
    rng = np.random.default_rng(seed)
    if mutants:
        planted = [mutant for case in cases for mutant in run_mutants(case, rng)]
        good = show_mutants(console, planted, time.perf_counter() - began)
    else:
        rows = [(case, row) for case in cases for row in case.check(rng).rows]
        good = show_rows(console, rows, time.perf_counter() - began, every_variant=bool(op))
    raise typer.Exit(0 if good else 1)


def chosen_cases(op: str, seed: int) -> list[Case]:
    """All cases, or those of one op. Raises ValueError naming the ops where there is none."""
    cases = all_cases(seed)
    chosen = [case for case in cases if not op or case.op.lower() == op.lower()]
    if not chosen:
        names = ", ".join(dict.fromkeys(case.op for case in cases))
        raise ValueError(f"got --op {op!r}, expected one of {names}")
    return chosen


def _short(name: str) -> str:
    """A parameter's name without the part that counts layers."""
    return re.sub(r"^model\.(layers\.\d+\.)?", "", name)


def _worst_of_variants(rows: list[tuple[Case, Row]]) -> Iterator[tuple[Case, Row, float]]:
    """(case, row, seconds of all) for the worst row of each op and input, over all layers."""
    groups: dict[tuple[str, str], list[tuple[Case, Row]]] = {}
    for case, row in rows:
        groups.setdefault((case.op, _short(row.input)), []).append((case, row))
    for group in groups.values():
        case, row = max(group, key=lambda pair: (not pair[1].ok, pair[1].error))
        yield case, row, sum(row.seconds for _, row in group)


def show_rows(
    console: Console, rows: list[tuple[Case, Row]], seconds: float, every_variant: bool
) -> bool:
    """Print the report's table and its last line; return whether all rows passed."""
    shown: Iterable[tuple[Case, Row, float]] = _worst_of_variants(rows)
    if every_variant:
        shown = [(case, row, row.seconds) for case, row in rows]
    table = Table("op", "input", title="Gradients against central differences", box=box.SIMPLE)
    table.add_column("worst relative error", justify="right")
    table.add_column("worst element")
    table.add_column("time", justify="right")
    for case, row, spent in shown:
        place = "direction" if row.index is None else str(list(row.index))
        if not row.ok:
            place += f": {row.analytic:.6g}, expected {row.numeric:.6g}. {row.problem}"
        names = (case.name if every_variant else case.op), _short(row.input)
        cells = (*names, f"{row.error:.1e}", place, f"{spent * 1e3:.1f} ms")
        table.add_row(*map(escape, cells), style=None if row.ok else "bold red")
    console.print(table)
    failed = [row for _, row in rows if not row.ok]
    worst = max(row.error for _, row in rows)
    console.print(
        f"{len(rows)} gradients, {len(failed)} wrong; worst relative error {worst:.1e} "
        f"(limit {rows[0][1].tolerance:.0e}), {seconds:.1f} s"
    )
    return not failed


def show_mutants(console: Console, planted: list[Mutant], seconds: float) -> bool:
    """Print mutants planted and caught by op, and each survivor; return whether none survived."""
    table = Table("op", title="Planted mistakes", box=box.SIMPLE)
    for heading in ("mutants", "caught"):
        table.add_column(heading, justify="right")
    by_name = lambda mutant: (mutant.op.lower(), mutant.op)  # noqa: E731
    for op, group in groupby(sorted(planted, key=by_name), key=lambda m: m.op):
        mine = list(group)
        caught = sum(mutant.caught for mutant in mine)
        style = None if caught == len(mine) else "bold red"
        table.add_row(op, str(len(mine)), str(caught), style=style)
    console.print(table)
    survivors = [mutant for mutant in planted if not mutant.caught]
    for mutant in survivors:
        console.print(escape(f"survived: {mutant.op} {mutant.input}: {mutant.mistake}"))
    console.print(f"{len(planted)} planted, {len(survivors)} survived, {seconds:.1f} s")
    return not survivors

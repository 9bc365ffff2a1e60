"""`minilora diff`: what two adapters, or an adapter and its base, do differently, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.cost import times_text
from minilora.cli.options import (
    BASE_DTYPE_HELP,
    BASE_OF_ADAPTER_HELP,
    DEVICE_HELP,
    RAW_HELP,
    WORKERS_HELP,
)
from minilora.cli.reporter import TableReporter
from minilora.lora.deltas import ModuleDiff, compare_files, text_of_tensors
from minilora.runs.diff import Diff, DiffPlan
from minilora.runs.diff import diff as find_diff
from minilora.runs.diff_page import because, cause_rows, score_rows, short

GROUP = "Judge"
SHOWN_CHANGES = 3
SIDE_HELP = "An adapter's folder, REV:PATH of one in git, or __base__."
CAUSES_HELP = (
    "For how many changed answers a cause is looked for. Default: as many as take minutes."
)


def diff(
    a: str = typer.Argument(..., metavar="A", help=SIDE_HELP),
    b: str = typer.Argument(None, metavar="B", help=SIDE_HELP),
    data: Path = typer.Option(None, "--data", help="Prompts with answers; without: ΔW alone."),
    base: str = typer.Option(None, "--base", help=BASE_OF_ADAPTER_HELP),
    base_dtype: str = typer.Option(None, "--base-dtype", help=BASE_DTYPE_HELP),
    device: str = typer.Option("cpu", "--device", help=DEVICE_HELP),
    rows: int = typer.Option(None, "--rows", help="Only the first so many. Default: all."),
    causes: int = typer.Option(None, "--causes", help=CAUSES_HELP),
    raw: bool = typer.Option(False, "--raw", help=RAW_HELP),
    workers: int = typer.Option(0, "--workers", help=WORKERS_HELP),
    json_file: Path = typer.Option(None, "--json", help="Also write all of it here."),
    html_file: Path = typer.Option(None, "--html", help="Also write a page here, one file."),
    text: bool = typer.Option(
        False,
        "--text",
        help="Show the file A (.safetensors) as text, or compare the files A and B.",
    ),
) -> None:
    """Compare what two adapters do: settings, ΔW, scores, the answers that changed, and why.

    Example: minilora diff __base__ data/specialists/vascular --data data/ward/vascular.eval.jsonl
    """
    if text:
        if data is not None:
            raise ValueError("got --text and --data, expected one of them")
        if b is None:
            typer.echo(text_of_tensors(a), nl=False)
        else:
            show_modules(Console(), "BA, without the scaling", (a, b), compare_files(a, b))
        return
    if b is None:
        raise ValueError("got A alone, expected A and B (__base__ stands for no adapter)")
    plan = DiffPlan(
        a=a, b=b, data=data, base=base, base_dtype=base_dtype, device=device, rows=rows,
        causes=causes, raw=raw, workers=workers, json_file=json_file, html_file=html_file,
    )  # fmt: skip
    console = Console()
    show_diff(console, find_diff(plan, TableReporter(console)))


def show_diff(console: Console, found: Diff) -> None:
    """Settings, modules, scores, some of the answers that changed, and their causes."""
    names = found.names
    told = found.to_dict()
    if found.settings:
        cells = [(key, *map(_plain, pair)) for key, pair in found.settings.items()]
        show.grid(console, "Settings that differ", ("", *names), cells)
    show_modules(console, f"ΔW, base {found.base}", names, found.modules)
    if found.answered is None:
        return
    cells = [(name, *values) for name, values in score_rows(told["scores"])]
    title = f"{told['rows']} rows of {told['data']}, greedy answers"
    show.grid(console, title, ("", *names), cells, right=(1, 2))
    changed = told["changed"]
    show.say(
        console,
        f"{len(changed)} answers changed: {told['wrong_to_right']} from wrong to right, "
        f"{told['right_to_wrong']} from right to wrong.",
    )
    for one in changed[:SHOWN_CHANGES]:
        show_change(console, told, one)
    if len(changed) > SHOWN_CHANGES:
        show.say(console, f"{len(changed) - SHOWN_CHANGES} more: --json and --html have them all.")
    causes = told["causes"]
    if causes["of"]:
        title = f"What {causes['of']} of {len(changed)} changed answers hang on"
        cells = [(name, str(alone), str(some)) for name, alone, some in cause_rows(causes)]
        show.grid(console, title, ("module", "on it alone", "on a set with it"), cells, (1, 2))
        show.say(console, f"Whole answers that are the other side's then: {causes['whole']}.")
    show.say(console, f"Took {times_text(found.seconds)}.")


def show_modules(
    console: Console, title: str, names: tuple[str, str], modules: Sequence[ModuleDiff]
) -> None:
    """The modules with norms and subspaces; long names stand in a line, not in the columns."""
    headings = ("module", "‖A‖", "‖B‖", "‖B - A‖", "cosine", "φ reads", "φ writes", "by chance")
    show.say(console, f"A: {names[0]}\nB: {names[1]}")
    show.grid(console, title, headings, map(module_row, modules), right=range(1, 8))


def module_row(one: ModuleDiff) -> tuple[str, ...]:
    """A module as texts."""
    chance = "-" if one.chance is None else ", ".join(f"{x:.3f}" for x in one.chance)
    numbers = (*one.norms, one.change, one.cosine, one.reads, one.writes)
    return (short(one.module), *("-" if x is None else f"{x:.3f}" for x in numbers), chance)


def show_change(console: Console, told: dict, one: dict) -> None:
    """A changed answer side by side, where the two part, and what it hangs on."""
    names = told["a"], told["b"]
    show.grid(console, one["source"], names, [(one["a"], one["b"])])
    parting = one["parting"]
    cells = [
        (_token(parting[side]), f"{parting[side]['in_a']:.4f}", f"{parting[side]['in_b']:.4f}")
        for side in ("a", "b")
    ]
    headings = (f"token {parting['shared'] + 1}", *(f"p in {name}" for name in names))
    show.grid(console, "", headings, cells, right=(1, 2))
    if one["cause"]:
        show.say(console, because(one["cause"], told))


def _token(choice: dict) -> str:
    return repr(choice["text"]) if choice["text"] else "end of the answer"


def _plain(value: object) -> str:
    return "-" if value is None else str(value)

"""`minilora compose`: several adapters of one base as one, and what that does to their tasks."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.cost import times_text
from minilora.cli.options import BASE_DTYPE_HELP, BASE_OF_ADAPTER_HELP, DEVICE_HELP, WORKERS_HELP
from minilora.cli.reporter import TableReporter
from minilora.cli.scores import percent
from minilora.lora.joining import METHODS
from minilora.runs.compose import Composed, ComposePlan, Task, WeightedAdapter
from minilora.runs.compose import compose as run

GROUP = "Judge"
SHOWN_MODULES = 5

PARTS_HELP = "Adapters with weights, 1 where none is given; a negative one takes a task away."
HOW_HELP = (
    f"How to join them: {', '.join(METHODS)}. cat is the exact sum, of the ranks' sum; linear adds "
    "A's and B's on their own, which is no sum of the changes."
)
EVAL_HELP = (
    "A task to evaluate, by the name of its adapter (JSONL as for evaluate); a task of another "
    "name is asked of all. May be given again."
)


def compose(
    adapters: list[str] = typer.Argument(..., metavar="NAME=DIR[:WEIGHT]...", help=PARTS_HELP),
    out: Path = typer.Option(..., "--out", help="Folder to write the joined adapter to."),
    how: str = typer.Option("cat", "--how", help=HOW_HELP),
    rank: int = typer.Option(None, "--rank", help="Rank of the result, for svd at least."),
    density: float = typer.Option(
        0.5, "--density", help="Share of entries that ties, dare and knots keep."
    ),
    seed: int = typer.Option(0, "--seed", help="Of dare's draws."),
    tasks: list[str] = typer.Option([], "--eval", metavar="NAME=FILE", help=EVAL_HELP),
    rows: int = typer.Option(None, "--rows", help="Only the first so many of each task."),
    base: str = typer.Option(None, "--base", help=BASE_OF_ADAPTER_HELP),
    base_dtype: str = typer.Option(None, "--base-dtype", help=BASE_DTYPE_HELP),
    device: str = typer.Option("cpu", "--device", help=DEVICE_HELP),
    workers: int = typer.Option(0, "--workers", help=WORKERS_HELP),
    json_file: Path = typer.Option(None, "--json", help="Also write report and scores here."),
) -> None:
    """Join adapters of one base into one, and evaluate every task that this touches.

    Each task's score is shown for the base, for each adapter alone and for the composition, and
    as a share of what its own adapter gets alone.

    Example: minilora compose a=data/specialists/cardiology b=data/specialists/vascular --out both
    """
    plan = ComposePlan(
        parts=tuple(_part(text) for text in adapters),
        out=out,
        how=how,
        rank=rank,
        density=density,
        seed=seed,
        tasks=tuple(_task(text) for text in tasks),
        rows=rows,
        base=base,
        base_dtype=base_dtype,
        device=device,
        workers=workers,
        json_file=json_file,
    )
    console = Console()
    result = run(plan, TableReporter(console))
    show_report(console, result)
    if result.touched is not None:
        show_forecast(console, result)
        show_tasks(console, result)
    show.say(console, f"Took {times_text(result.seconds)}.")


def _part(text: str) -> WeightedAdapter:
    """NAME=DIR or NAME=DIR:WEIGHT; a folder that is there may hold ":" in its name."""
    name, mark, rest = text.partition("=")
    if not mark or not name or not rest or not name.isprintable():
        raise ValueError(f"got {text!r}, expected NAME=DIR or NAME=DIR:WEIGHT")
    folder, colon, weight = rest.rpartition(":")
    try:
        number = float(weight)
    except ValueError:
        colon = ""
    if not colon or Path(rest).exists():
        return WeightedAdapter(name, Path(rest).expanduser())
    return WeightedAdapter(name, Path(folder).expanduser(), number)


def _task(text: str) -> Task:
    name, mark, file = text.partition("=")
    if not mark or not name or not file:
        raise ValueError(f"got --eval {text!r}, expected NAME=FILE")
    return Task(name, Path(file).expanduser())


def show_report(console: Console, result: Composed) -> None:
    """What was joined, and how far the result is from the exact sum."""
    report, adapter = result.report, result.adapter
    parts = zip(report.names, report.weights, strict=True)
    rows = [
        ("joined", ", ".join(f"{name} at {weight:g}" for name, weight in parts)),
        ("how", report.how),
        ("modules", str(len(report.modules))),
        ("ranks", ", ".join(str(r) for r in sorted({one.rank for one in report.modules}))),
        ("size", show.size(adapter.nbytes)),
        ("error against the exact sum", f"{report.error:.2%}"),
    ]
    show.pairs(console, f"Wrote {result.plan.out}", rows)
    worst = sorted(report.modules, key=lambda one: -one.error)[:SHOWN_MODULES]
    if report.error > 1e-6:
        cells = [
            (one.module, str(one.rank), f"{one.error:.2%}", f"{one.energy_lost:.2%}")
            for one in worst
        ]
        title = f"{len(worst)} modules with the largest error"
        show.grid(
            console, title, ("module", "rank", "error", "energy lost by rank"), cells,
            right=(1, 2, 3),
        )  # fmt: skip


def show_forecast(console: Console, result: Composed) -> None:
    """How each adapter disturbs each other, as it could be known before."""
    rows = [
        (
            a,
            b,
            f"{one.on_inputs:.2f}",
            f"{one.cosine:+.3f}",
            *("-" if x is None else f"{x:.2f}" for x in (one.reads, one.writes)),
        )
        for (a, b), one in result.forecast.items()
    ]
    if rows:
        headings = ("task of", "disturbed by", "|dW_b x| / |dW_a x|", "cosine", "reads", "writes")
        show.grid(console, "Forecast", headings, rows, right=(2, 3, 4, 5))


def show_tasks(console: Console, result: Composed) -> None:
    """One row a task: base, each adapter alone, the composition, and that as a share of alone."""
    found = result.touched
    headings = ("task", "rows", "base", *found.alone, result.plan.how, "of its adapter alone")
    rows = [
        (
            task,
            str(count),
            percent(found.base[task]),
            *(percent(scores[task]) for scores in found.alone.values()),
            percent(found.composed[task]),
            percent(found.normalised(task)),
        )
        for task, count in found.rows.items()
    ]
    show.grid(console, "Right answers", headings, rows, right=range(1, len(headings)))
    show.pairs(
        console,
        "Over all tasks",
        [
            ("of each adapter alone, mean", percent(found.mean_normalised)),
            ("of each adapter alone, least", percent(found.worst_normalised)),
            ("right answers over the rows of all tasks", percent(found.jointly)),
        ],
    )

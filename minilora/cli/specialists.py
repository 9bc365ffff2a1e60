"""`minilora specialists`: an adapter for every ward, by one command."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.options import WORKERS_HELP
from minilora.cli.reporter import TableReporter
from minilora.cli.scores import percent
from minilora.runs.specialists import Specialist, SpecialistsPlan, share_interval, train_specialists
from minilora.ward import HOUSE_FORMATS

GROUP = "Adapt"
DEFAULT = SpecialistsPlan()
WARDS_HELP = f"One of {', '.join(HOUSE_FORMATS)}; may be given again. Default: all of them."


def specialists(
    out: Path = typer.Option(DEFAULT.out, "--out", help="Folder for the adapters and their card."),
    wards: list[str] = typer.Option(list(DEFAULT.wards), "--ward", help=WARDS_HELP),
    data: Path = typer.Option(DEFAULT.data, "--data", help="Folder of the ward's files."),
    steps: int = typer.Option(DEFAULT.steps, "--steps", help="Training steps of each."),
    lr: float = typer.Option(DEFAULT.lr, "--lr", help="Peak learning rate."),
    r: int = typer.Option(DEFAULT.r, "--r", help="Rank."),
    eval_rows: int = typer.Option(None, "--eval-rows", help="Judge on the first so many notes."),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of A and of the order of the data."),
    workers: int = typer.Option(0, "--workers", help=WORKERS_HELP),
) -> None:
    """Train an adapter for each ward of the hospital on one base, and score all of them.

    Example: minilora specialists --out wards --ward vascular
    """
    console = Console()
    plan = SpecialistsPlan(
        out=out,
        wards=tuple(wards),
        data=data,
        steps=steps,
        lr=lr,
        r=r,
        eval_rows=eval_rows,
        seed=seed,
        workers=workers,
    )
    made = train_specialists(plan, TableReporter(console))
    headings = ("ward, its rule", "exact", "in format", "invented", "rule broken")
    title = f"{len(made)} adapters on one base: held-out notes (95 % interval)"
    show.grid(console, title, headings, map(row, made), right=(1, 2, 3, 4))
    show.say(console, f"Wrote {out}: an adapter a ward, README.md and specialists.json.")


def row(one: Specialist) -> tuple[str, ...]:
    """A specialist's line of the table."""
    cells = (cell(*share) for share in one.shares().values())
    return f"{one.ward}\n{one.after.rule}", *cells


def cell(share: float | None, of: int) -> str:
    """A share with its interval."""
    interval = share_interval(share, of)
    if interval is None:
        return "-"
    low, high = interval
    return f"{percent(share)}\n{low:.1%}–{high:.1%}"

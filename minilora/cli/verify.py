"""`minilora verify`: trains an adapter again and compares it bit by bit."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.cost import times_text
from minilora.cli.options import BASE_OF_ADAPTER_HELP
from minilora.cli.reporter import TableReporter
from minilora.runs.verify import Stretch, Verdict, Verified, VerifyPlan
from minilora.runs.verify import verify as run_verify

GROUP = "Judge"
SEGMENTS_HELP = (
    "Train again so many stretches between checkpoints of adapt --keep-checkpoints. Default: all."
)
WORDS = {
    Verdict.VERIFIED: "verified",
    Verdict.REFUTED: "REFUTED",
    Verdict.CANT_TELL: "can't tell",
}


def verify(
    adapter: Path = typer.Argument(..., metavar="DIR", help="Adapter folder."),
    data: Path = typer.Option(..., "--data", help="What it was trained on."),
    replay_data: Path = typer.Option(None, "--replay-data", help="What was replayed, if a file."),
    segments: int = typer.Option(None, "--segments", help=SEGMENTS_HELP),
    base: str = typer.Option(None, "--base", help=BASE_OF_ADAPTER_HELP),
    json_file: Path = typer.Option(None, "--json", help="Also write the result here."),
) -> None:
    """Train an adapter again and compare: exit code 0 verified, 1 refuted, 2 can't tell.

    Example: minilora verify my-adapter --data data/ward/cardiology.train.jsonl
    """
    plan = VerifyPlan(
        adapter=adapter, data=data, replay_data=replay_data, segments=segments, base=base,
        json_file=json_file,
    )  # fmt: skip
    console = Console()
    result = run_verify(plan, TableReporter(console))
    show_verified(console, result)
    raise typer.Exit(result.verdict.value)


def show_verified(console: Console, result: Verified) -> None:
    """What is another here, what was trained again, what is wrong, and the verdict."""
    if result.others:
        rows = [(name, str(then), str(now)) for name, (then, now) in result.others.items()]
        show.grid(console, "Another than then", ("", "then", "here"), rows)
    if result.stretches:
        rows = [stretch_row(one) for one in result.stretches]
        show.grid(console, "Trained again", ("steps", "compared with", "largest difference"), rows)
    for fault in result.faults:
        show.say(console, fault)
    show.say(console, f"{result.plan.adapter}: {WORDS[result.verdict]}.")
    if result.verdict is Verdict.CANT_TELL:
        show.say(
            console,
            "The bits differ, and so does what made them; the same kernel can be asked for with "
            "OPENBLAS_CORETYPE.",
        )
    show.say(console, f"Took {times_text(result.seconds)}.")


def stretch_row(one: Stretch) -> tuple[str, str, str]:
    """A stretch as texts."""
    difference = "none, bit for bit" if one.difference == 0 else f"{one.difference:.2e}"
    return f"{one.first} to {one.last}", one.what, difference

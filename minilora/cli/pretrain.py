"""`minilora pretrain`: train the ward's base on the general corpus, from nothing."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.options import WORKERS_HELP
from minilora.cli.reporter import TableReporter
from minilora.cli.scores import percent
from minilora.runs import PretrainPlan, run

GROUP = "Make"
DEFAULT = PretrainPlan(out=Path("base"))
MOST_DOCUMENTS, WIDEST, MOST_LAYERS = 10_000_000, 4096, 100
"""Far beyond what NumPy trains in a day; a mistyped number beyond them would end without memory."""


def pretrain(
    out: Path = typer.Option(..., "--out", help="Folder to write; the run itself goes to OUT.run."),
    documents: int = typer.Option(
        DEFAULT.documents, min=100, max=MOST_DOCUMENTS, help="Size of the corpus."
    ),
    hidden_size: int = typer.Option(
        DEFAULT.hidden_size, min=8, max=WIDEST, help="Width of the model."
    ),
    vocab_size: int = typer.Option(
        DEFAULT.vocab_size, min=300, help="Tokens of the tokenizer that is made."
    ),
    layers: int = typer.Option(DEFAULT.layers, min=1, max=MOST_LAYERS, help="Number of blocks."),
    steps: int = typer.Option(DEFAULT.steps, min=1, help="Training steps."),
    batch_size: int = typer.Option(DEFAULT.batch_size, min=1, help="Documents a step."),
    lr: float = typer.Option(DEFAULT.lr, help="Peak learning rate."),
    seed: int = typer.Option(DEFAULT.seed, min=0, help="Seed of corpus, weights and order."),
    workers: int = typer.Option(0, "--workers", help=WORKERS_HELP),
    start: Path = typer.Option(
        None, "--continue-from", help="A base to train further; its sizes and tokenizer hold."
    ),
    resume: bool = typer.Option(False, "--resume", help="Continue from OUT.run."),
) -> None:
    """Pretrain the ward's base on synthetic notes, and write it as a Hugging Face folder.

    Example: minilora pretrain --out my-base --documents 2000 --steps 100
    """
    plan = PretrainPlan.of_width(
        hidden_size,
        out=out,
        documents=documents,
        vocab_size=vocab_size,
        layers=layers,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        workers=workers,
        start=str(start) if start else "",
        resume=resume,
    )
    console = Console()
    result = run(plan, TableReporter(console))
    score = result.after.suite
    rows = [(group, percent(x), str(score.counts[group])) for group, x in score.groups.items()]
    rows.append(("all", percent(score.exact), str(score.count)))
    headings = ("group", "exact", "prompts")
    show.grid(console, "held-out cases", headings, rows, right=(1, 2))
    minutes = sum(step["seconds"] for step in result.history) / 60
    typer.echo(f"{len(result.history)} steps in {minutes:.1f} minutes; written to {out}")

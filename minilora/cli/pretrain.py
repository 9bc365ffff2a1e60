"""`minilora pretrain`: train the ward's base on the general corpus, from nothing."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from minilora.runs.pretrain import PretrainConfig
from minilora.runs.pretrain import pretrain as train_base

DEFAULT = PretrainConfig()
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
    layers: int = typer.Option(DEFAULT.layers, min=1, max=MOST_LAYERS, help="Number of blocks."),
    steps: int = typer.Option(DEFAULT.steps, min=1, help="Training steps."),
    batch_size: int = typer.Option(DEFAULT.batch_size, min=1, help="Documents a step."),
    lr: float = typer.Option(DEFAULT.lr, help="Peak learning rate."),
    seed: int = typer.Option(DEFAULT.seed, min=0, help="Seed of corpus, weights and order."),
    workers: int = typer.Option(0, min=0, help="Processes; 0: one a core."),
    start: Path = typer.Option(
        None, "--continue-from", help="A base to train further; its sizes and tokenizer hold."
    ),
    resume: bool = typer.Option(False, "--resume", help="Continue from OUT.run."),
) -> None:
    """Pretrain the ward's base on synthetic notes, and write it as a Hugging Face folder."""
    head = 32
    config = PretrainConfig(
        documents=documents,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        layers=layers,
        heads=max(1, hidden_size // head),
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        workers=workers,
        start=str(start) if start else "",
    )
    score, history = train_base(out, config, resume=resume)
    table = Table("group", "exact", "prompts", title="held-out cases")
    for group, exact in score.groups.items():
        table.add_row(group, f"{exact:.1%}", str(score.counts[group]))
    table.add_row("all", f"{score.exact:.1%}", str(score.count))
    Console().print(table)
    minutes = sum(r["seconds"] for r in history.records) / 60
    typer.echo(f"{len(history.records)} steps in {minutes:.1f} minutes; written to {out}")

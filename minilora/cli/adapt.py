"""`minilora adapt`: trains a LoRA adapter on your data and saves it as a PEFT folder."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import adapt_report as report
from minilora.cli.options import BASE_HELP, DEVICE_HELP, TEXT_HELP, WORKERS_HELP
from minilora.cli.training_options import (
    BASE_DTYPE_HELP,
    BATCH_HELP,
    LR_HELP,
    REPLAY_DATA_HELP,
    REPLAY_HELP,
    STEPS_HELP,
    SUITE_HELP,
    TARGETS_HELP,
    listed,
    target_names,
)
from minilora.hub.bases import WARD
from minilora.runs import AdaptPlan, defaults, run
from minilora.runs.adapt import LONGEST

GROUP = "Adapt"
DATA_HELP = (
    "JSONL, a JSON array or a table (prompt and completion, messages, Alpaca's or ShareGPT's keys, "
    "or text), or a text file."
)
EVAL_ROWS_HELP = (
    "Judge on the first so many held-out examples only. Default: all, or "
    f"{defaults.JUDGED} where all would take minutes."
)
LENGTH_HELP = f"Tokens of an example. Default: the base's limit, at most {LONGEST}."

KEEP_HELP = "Leave all checkpoints in OUT.run, for `minilora why` and `minilora verify`."

ACTIVATED_HELP = (
    "Act from the tokens on that open the assistant's turn: prompts stay the base's, and one "
    "reading of a prompt serves every such adapter."
)

DORA_HELP = "DoRA: train the lengths of a weight's rows beside their directions."
PISSA_HELP = "PiSSA: start at the weights' largest directions; the adapter has rank 2 r."
VERA_HELP = (
    "VeRA: train two vectors a module around random matrices that all share; wants a larger --r "
    "and --lr."
)
TOKENS_HELP = "Tokens whose rows of embedding and head are trained too, with commas."
TABLES_HELP = "Tables that are trained whole: embed_tokens, lm_head, with commas."
LORA_PLUS_HELP = "LoRA+: B learns at so many times --lr, A at --lr."
FREEZE_A_HELP = "LoRA-FA: A stays as it was drawn, and B alone is trained."


def adapt(
    data: Path = typer.Option(..., "--data", help=DATA_HELP),
    out: Path = typer.Option(..., "--out", help="Adapter folder to write; the run's is OUT.run."),
    text: bool = typer.Option(False, "--text", help=TEXT_HELP),
    eval_data: Path = typer.Option(None, "--eval", help="Default: a tenth of --data, held out."),
    eval_rows: int = typer.Option(None, "--eval-rows", help=EVAL_ROWS_HELP),
    base: str = typer.Option(WARD, "--base", help=BASE_HELP),
    base_dtype: str = typer.Option("float32", "--base-dtype", help=BASE_DTYPE_HELP),
    device: str = typer.Option("cpu", "--device", help=DEVICE_HELP),
    r: int = typer.Option(8, "--r", help="Rank."),
    alpha: float = typer.Option(16, "--alpha", help="lora_alpha; the update is times alpha / r."),
    targets: str = typer.Option(None, "--targets", help=TARGETS_HELP),
    dropout: float = typer.Option(0.0, "--dropout", help="Dropout before A."),
    rslora: bool = typer.Option(False, "--rslora", help="Scale by alpha / sqrt(r)."),
    activated: bool = typer.Option(False, "--activated", help=ACTIVATED_HELP),
    dora: bool = typer.Option(False, "--dora", help=DORA_HELP),
    lora_plus: float = typer.Option(1.0, "--lora-plus", metavar="RATIO", help=LORA_PLUS_HELP),
    freeze_a: bool = typer.Option(False, "--freeze-a", help=FREEZE_A_HELP),
    pissa: bool = typer.Option(False, "--pissa", help=PISSA_HELP),
    vera: bool = typer.Option(False, "--vera", help=VERA_HELP),
    tokens: str = typer.Option("", "--tokens", help=TOKENS_HELP),
    tables: str = typer.Option("", "--tables", help=TABLES_HELP),
    steps: int = typer.Option(None, "--steps", help=STEPS_HELP),
    batch_size: int = typer.Option(None, "--batch-size", help=BATCH_HELP),
    lr: float = typer.Option(None, "--lr", help=LR_HELP),
    max_length: int = typer.Option(None, "--max-length", help=LENGTH_HELP),
    replay: float = typer.Option(0.0, "--replay", help=REPLAY_HELP),
    replay_data: Path = typer.Option(None, "--replay-data", help=REPLAY_DATA_HELP),
    suite: Path = typer.Option(None, "--suite", help=SUITE_HELP),
    gate: bool = typer.Option(True, "--gate/--no-gate", help="End with the gate's verdict."),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of A, order, dropout, split."),
    workers: int = typer.Option(0, "--workers", help=WORKERS_HELP),
    resume: bool = typer.Option(False, "--resume", help="Continue the stopped run of OUT.run."),
    keep_checkpoints: bool = typer.Option(False, "--keep-checkpoints", help=KEEP_HELP),
) -> None:
    """Train a LoRA adapter on your data, compare before and after, and save it for PEFT.

    Example: minilora adapt --data data/ward/cardiology.train.jsonl --out my-adapter
    """
    plan = AdaptPlan(
        out=out,
        data=data,
        as_text=text,
        eval_data=eval_data,
        eval_rows=eval_rows,
        base=base,
        base_dtype=base_dtype,
        device=device,
        r=r,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # whole, as PEFT writes it
        target_modules=None if targets is None else target_names(targets),
        lora_dropout=dropout,
        use_rslora=rslora,
        activated=activated,
        use_dora=dora,
        loraplus_lr_ratio=lora_plus,
        freeze_a=freeze_a,
        pissa=pissa,
        vera=vera,
        tokens=listed(tokens),
        tables=listed(tables),
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        max_length=max_length,
        replay=replay,
        replay_data=replay_data,
        suite=suite,
        gate=gate,
        seed=seed,
        workers=workers,
        resume=resume,
        keep_checkpoints=keep_checkpoints,
    )
    console = Console()
    try:
        result = run(plan, report.AdaptReporter(console))
    except KeyboardInterrupt:
        if plan.folder.is_running():
            text = f"\nthe run so far is in {plan.folder.path}; --resume continues it"
            typer.echo(text, err=True)
        raise
    report.show_result(console, result)

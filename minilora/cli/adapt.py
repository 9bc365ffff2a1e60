"""`minilora adapt`: trains a LoRA adapter on your data and saves it as a PEFT folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import typer
from rich.console import Console

from minilora.cli import adapt_report as report
from minilora.cli.adapt_data import File, house_records, read_file, sample_of, split
from minilora.cli.adapt_run import DIVERGED, FINISHED, Judge, RunFolder, plot_loss
from minilora.cli.bases import BASE_HELP, WARD, open_base, public_name, require_free
from minilora.hub import Tokenizer
from minilora.lora import ALL_LINEAR, LoRAConfig, attach, base_fingerprint, save_adapter
from minilora.lora.peft_format import CONFIG, SIDECAR, TENSORS
from minilora.nn import BASE_DTYPES, Transformer
from minilora.training import (
    AdamW,
    Batches,
    DivergedError,
    Example,
    History,
    TrainingConfig,
    fit,
)

PASSES, FEWEST_STEPS, MOST_STEPS = 3, 50, 1000
LR_TIMES_WIDTH, HIGHEST_LR = 1.92, 0.015
LONGEST = 1024
WATCHED = 32
"""Held-out examples whose loss is taken during the run."""

DATA_HELP = "JSONL (prompt and completion, or messages, or text) or a text file."
STEPS_HELP = f"Default: {PASSES} passes, but {FEWEST_STEPS} to {MOST_STEPS} steps."
LR_HELP = (
    f"Peak learning rate. Default: {LR_TIMES_WIDTH} / width of the base, at most {HIGHEST_LR}."
)
LENGTH_HELP = f"Tokens of an example. Default: the base's limit, at most {LONGEST}."
BASE_DTYPE_HELP = (
    f"How the frozen base is kept: {', '.join(BASE_DTYPES)} (5 bits a number, embedding 8.5); a "
    "layer's numbers are made for each product."
)
TARGETS_HELP = f"Names of linear layers, with commas between, or {ALL_LINEAR}."


@dataclass(frozen=True)
class Plan:
    """All that decides a run."""

    base: str
    lora: LoRAConfig
    training: TrainingConfig
    batch_size: int
    max_length: int
    train: list[Example]
    held_out: list[Example]
    data: File
    eval_data: File | None
    base_dtype: str = "float32"

    def settings(self, model: Transformer) -> dict:
        """What must be equal to continue a stopped run, JSON-ready."""
        shown = {k: getattr(self.training, k) for k in ("steps", "lr", "seed", "warmup")}
        return {
            "base_fingerprint": base_fingerprint(model),
            "base_dtype": self.base_dtype,
            "data_sha256": self.data.sha256,
            "eval_sha256": self.eval_data.sha256 if self.eval_data else None,
            **asdict(self.lora),
            **shown,
            "batch_size": self.batch_size,
            "max_length": self.max_length,
        }


def adapt(
    data: Path = typer.Option(..., "--data", help=DATA_HELP),
    out: Path = typer.Option(..., "--out", help="Adapter folder to write; the run's is OUT.run."),
    eval_data: Path = typer.Option(None, "--eval", help="Default: a tenth of --data, held out."),
    base: str = typer.Option(WARD, "--base", help=BASE_HELP),
    base_dtype: str = typer.Option("float32", "--base-dtype", help=BASE_DTYPE_HELP),
    r: int = typer.Option(8, "--r", help="Rank."),
    alpha: float = typer.Option(16, "--alpha", help="lora_alpha; the update is times alpha / r."),
    targets: str = typer.Option("q_proj,v_proj", "--targets", help=TARGETS_HELP),
    dropout: float = typer.Option(0.0, "--dropout", help="Dropout before A."),
    rslora: bool = typer.Option(False, "--rslora", help="Scale by alpha / sqrt(r)."),
    steps: int = typer.Option(None, "--steps", help=STEPS_HELP),
    batch_size: int = typer.Option(16, "--batch-size", help="Examples a step."),
    lr: float = typer.Option(None, "--lr", help=LR_HELP),
    max_length: int = typer.Option(None, "--max-length", help=LENGTH_HELP),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of A, order, dropout, split."),
    workers: int = typer.Option(0, "--workers", help="Processes; 0: one a core, at most 4."),
    resume: bool = typer.Option(False, "--resume", help="Continue the stopped run of OUT.run."),
) -> None:
    """Train a LoRA adapter on your data, compare before and after, and save it for PEFT."""
    console = Console()
    require_free(out, CONFIG, (CONFIG, TENSORS, SIDECAR), "an adapter of minilora's to replace")
    run = RunFolder(out)
    run.check(resume)
    lora = LoRAConfig(r, whole(alpha), target_names(targets), dropout, rslora)
    model, tokenizer = open_base(base, base_dtype)
    length = checked_length(max_length, model)
    files = [read_file(p, tokenizer, length, console) for p in (data, eval_data) if p]
    plan = make_plan(base, lora, files, model, (steps, batch_size, lr, length, seed, workers))
    plan = replace(plan, base_dtype=base_dtype)
    try:
        execute(console, plan, model, tokenizer, run, out, resume)
    except KeyboardInterrupt:
        if run.read():
            typer.echo(f"\nthe run so far is in {run.path}; --resume continues it", err=True)
        raise


def whole(x: float) -> float | int:
    """A number that has no fraction as an int, as PEFT writes lora_alpha."""
    return int(x) if x.is_integer() else x


def target_names(text: str) -> tuple[str, ...] | str:
    """`--targets` as LoRAConfig takes it."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return ALL_LINEAR if names == (ALL_LINEAR,) else names


def checked_length(max_length: int | None, model: Transformer) -> int:
    """The longest example in tokens. Raises ValueError beyond what the base can read."""
    limit = model.config.max_position_embeddings
    if max_length is None:
        return min(limit, LONGEST)
    if not 1 <= max_length <= limit:
        raise ValueError(f"got --max-length {max_length}, expected 1 to the base's limit {limit}")
    return max_length


def make_plan(
    base: str, lora: LoRAConfig, files: list[File], model: Transformer, numbers: tuple
) -> Plan:
    """Fill in the defaults that depend on data and base. Raises ValueError for odd numbers."""
    steps, batch_size, lr, max_length, seed, workers = numbers
    data, eval_data = files[0], files[1] if len(files) > 1 else None
    train, held_out = data.examples, eval_data.examples if eval_data else []
    if eval_data is None:
        train, held_out = split(data.examples, seed)
    a_pass = len(Batches(train, batch_size, seed))
    if steps is None:
        steps = min(max(PASSES * a_pass, FEWEST_STEPS), MOST_STEPS)
    if lr is None:
        lr = min(round(LR_TIMES_WIDTH / model.config.hidden_size, 5), HIGHEST_LR)
    every = max(1, steps // 10)
    training = TrainingConfig(
        steps=steps,
        lr=lr,
        warmup=min(20, max(steps, 0) // 10),
        workers=workers,
        seed=seed,
        eval_every=every if held_out else 0,
        checkpoint_every=every,
    )
    return Plan(base, lora, training, batch_size, max_length, train, held_out, data, eval_data)


def execute(
    console: Console,
    plan: Plan,
    model: Transformer,
    tokenizer: Tokenizer,
    run: RunFolder,
    out: Path,
    resume: bool,
) -> None:
    """Judge, train, judge again, save and show."""
    limit = model.config.max_position_embeddings
    houses = house_records(plan.eval_data.path, tokenizer, limit) if plan.eval_data else []
    judge = Judge(tokenizer, plan.held_out, houses)
    settings = plan.settings(model)
    rows_of_base = report.base_rows(plan, model)
    # Attached first, as that checks the targets; B = 0 leaves every output as the base's.
    attach(model, plan.lora, np.random.default_rng(plan.training.seed))
    optimizer = AdamW(model.named_parameters())
    report.show_plan(console, plan, model, optimizer, rows_of_base, houses)
    run.begin(settings, resume)
    before = judge(model, "before")
    try:
        history = train(plan, model, judge, optimizer, run, resume)
        after = judge(model, "after")
    except DivergedError:
        run.mark(DIVERGED)
        raise
    evaluation = {"before": before, "after": after, "on": report.judged_on(plan)}
    samples = report.answer_samples(model, tokenizer, pick_samples(plan, tokenizer, limit))
    plot_loss(history, run.path / "loss.png")
    provenance = {
        "base_dtype": plan.base_dtype,
        "data": plan.data.about(),
        "eval": plan.eval_data.about() if plan.eval_data else None,
        "held_out": len(plan.held_out) if plan.eval_data is None else 0,
        "training": {**asdict(plan.training), "batch_size": plan.batch_size},
        "max_length": plan.max_length,
        "evaluation": evaluation,
    }
    save_adapter(model, out, base_name=public_name(plan.base), provenance=provenance)
    run.mark(FINISHED)
    report.show_result(console, evaluation, samples)
    report.show_speed(console, plan, history)
    report.show_files(console, plan, out, run.path)


def train(
    plan: Plan,
    model: Transformer,
    judge: Judge,
    optimizer: AdamW,
    run: RunFolder,
    resume: bool,
) -> History:
    """fit in the run's folder, with the loss of some held-out examples in the history."""
    return fit(
        model,
        Batches(plan.train, plan.batch_size, plan.training.seed, judge.tokenizer.pad_id),
        plan.training,
        optimizer=optimizer,
        out_dir=run.path,
        resume=resume,
        on_eval=lambda step: {"eval_loss": judge.loss(model, WATCHED)},
        label="adapting",
    )


def pick_samples(plan: Plan, tokenizer: Tokenizer, limit: int) -> list:
    """Two samples from what was held out, or from the training data where nothing was."""
    file = plan.eval_data or plan.data
    found = (
        sample_of(tokenizer, example, file.records[example.source], limit)
        for example in plan.held_out or plan.train
    )
    return [sample for sample, _ in zip(filter(None, found), range(2), strict=False)]

"""`minilora adapt`: trains a LoRA adapter on your data and saves it as a PEFT folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import typer
from rich.console import Console

from minilora.cli import adapt_report as report
from minilora.cli import show
from minilora.cli.cost import Clock
from minilora.cli.options import BASE_HELP, DEVICE_HELP
from minilora.evaluation.house import house_records
from minilora.evaluation.judge import Judge
from minilora.hub.bases import WARD, open_base, public_name
from minilora.lora import ALL_LINEAR, LoRAConfig, attach, base_fingerprint
from minilora.lora.peft_format import CONFIG, SIDECAR, TENSORS
from minilora.nn import BASE_DTYPES, Transformer, storage
from minilora.runs import defaults
from minilora.runs.data import File, UnusableDataError, read_file, sample_of, split
from minilora.runs.folder import DIVERGED, FINISHED, RunFolder, require_free
from minilora.runs.plots import plot_loss
from minilora.text import Example, Tokenizer
from minilora.training import AdamW, Batches, DivergedError, History, TrainingConfig, fit

LONGEST, CHECKPOINTS = 1024, 10

DATA_HELP = "JSONL (prompt and completion, or messages, or text) or a text file."
BATCH_HELP = f"Examples a step. Default: {defaults.BATCH}, or {defaults.SMALL_BATCH} on a big base."
STEPS_HELP = (
    f"Default: {defaults.PASSES} passes, but {defaults.FEWEST_STEPS} to {defaults.MOST_STEPS} "
    "steps, and fewer on a big base: as many as take minutes."
)
LR_HELP = (
    f"Peak learning rate. Default: {defaults.LR_TIMES_WIDTH} / width of the base, at most "
    f"{defaults.HIGHEST_LR}; {defaults.BIG_LR_TIMES_WIDTH} / width on a big base."
)
EVAL_ROWS_HELP = (
    "Judge on the first so many held-out examples only. Default: all, or "
    f"{defaults.JUDGED} where all would take minutes."
)
LENGTH_HELP = f"Tokens of an example. Default: the base's limit, at most {LONGEST}."
BASE_DTYPE_HELP = (
    f"How the frozen base is kept: {', '.join(BASE_DTYPES)} (5 bits a number, embedding 8.5); a "
    "layer's numbers are made for each product."
)
TARGETS_HELP = (
    f"Names of linear layers, with commas between, or {ALL_LINEAR}. Default: {defaults.TARGETS}, "
    f"or {defaults.BIG_TARGETS} on a big base (width {defaults.BIG_WIDTH} or more)."
)


@dataclass(frozen=True)
class Plan:
    """All that decides a run; `held_out` are the first of the `held_out_of` held-out examples.

    size: the base's parameters.
    """

    base: str
    lora: LoRAConfig
    training: TrainingConfig
    batch_size: int
    max_length: int
    train: list[Example]
    held_out: list[Example]
    held_out_of: int
    size: int
    data: File
    eval_data: File | None
    base_dtype: str = "float32"
    device: str = "cpu"

    @property
    def lines(self) -> int | None:
        """Lines of the eval file that are judged; None for all, and for a text without lines."""
        number = self.held_out[-1].source.rpartition(":")[2] if self.held_out else ""
        if len(self.held_out) == self.held_out_of or not number.isdigit():
            return None
        return int(number)

    def settings(self, model: Transformer) -> dict:
        """What must be equal to continue a stopped run, JSON-ready."""
        shown = {k: getattr(self.training, k) for k in ("steps", "lr", "seed", "warmup")}
        return {
            "base_fingerprint": base_fingerprint(model),
            "base_dtype": self.base_dtype,
            "device": self.device,
            "data_sha256": self.data.sha256,
            "eval_sha256": self.eval_data.sha256 if self.eval_data else None,
            **asdict(self.lora),
            **shown,
            "batch_size": self.batch_size,
            "max_length": self.max_length,
        }

    def provenance(self, evaluation: dict) -> dict:
        """What the adapter's sidecar says of its making."""
        return {
            "base_dtype": self.base_dtype,
            "device": self.device,
            "data": self.data.about(),
            "eval": self.eval_data.about() if self.eval_data else None,
            "held_out": self.held_out_of if self.eval_data is None else 0,
            "judged": len(self.held_out),
            "training": {**asdict(self.training), "batch_size": self.batch_size},
            "max_length": self.max_length,
            "evaluation": evaluation,
        }


def adapt(
    data: Path = typer.Option(..., "--data", help=DATA_HELP),
    out: Path = typer.Option(..., "--out", help="Adapter folder to write; the run's is OUT.run."),
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
    steps: int = typer.Option(None, "--steps", help=STEPS_HELP),
    batch_size: int = typer.Option(None, "--batch-size", help=BATCH_HELP),
    lr: float = typer.Option(None, "--lr", help=LR_HELP),
    max_length: int = typer.Option(None, "--max-length", help=LENGTH_HELP),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of A, order, dropout, split."),
    workers: int = typer.Option(0, "--workers", help="Processes; 0: one a core, at most 4."),
    resume: bool = typer.Option(False, "--resume", help="Continue the stopped run of OUT.run."),
) -> None:
    """Train a LoRA adapter on your data, compare before and after, and save it for PEFT."""
    console, clock = Console(), Clock()
    require_free(out, CONFIG, (CONFIG, TENSORS, SIDECAR), "an adapter of minilora's to replace")
    run = RunFolder(out)
    run.check(resume)
    # Checked before the base is opened, which can take a while; its width may choose the targets.
    lora = LoRAConfig(
        r, whole(alpha), target_names(ALL_LINEAR if targets is None else targets), dropout, rslora
    )
    model, tokenizer = open_base(base, base_dtype, device)
    if targets is None:
        names = target_names(defaults.default_targets(model.config.hidden_size))
        lora = replace(lora, target_modules=names)
    length = checked_length(max_length, model)
    files = [read_shown(p, tokenizer, length, console) for p in (data, eval_data) if p]
    numbers = (steps, batch_size, lr, length, seed, workers, eval_rows)
    plan = make_plan(base, lora, files, model, numbers)
    plan = replace(plan, base_dtype=base_dtype, device=device)
    clock.lap("opening")
    with telling_how_to_continue(run):
        execute(console, plan, model, tokenizer, run, out, resume, clock)


def read_shown(path: Path, tokenizer: Tokenizer, max_length: int, console: Console) -> File:
    """`read_file`, with a table of what in the file can't be used."""
    try:
        file = read_file(path, tokenizer, max_length)
    except UnusableDataError as error:
        show.problems(console, error.path, error.problems)
        raise
    show.problems(console, path, file.problems)
    return file


@contextlib.contextmanager
def telling_how_to_continue(run: RunFolder) -> Iterator[None]:
    """Where Ctrl-C stops it, say where the run is."""
    try:
        yield
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
    steps, batch_size, lr, max_length, seed, workers, eval_rows = numbers
    data, eval_data = files[0], files[1] if len(files) > 1 else None
    train, held_out = data.examples, eval_data.examples if eval_data else []
    if eval_data is None:
        train, held_out = split(data.examples, seed)
    size = sum(count for count, _ in storage(model).values())
    judged = defaults.judged_rows(size, held_out, eval_rows)
    if batch_size is None:
        batch_size = defaults.default_batch(size, train)
    Batches(train, batch_size, seed)  # refuses an odd size before it is divided by
    if steps is None:
        steps = defaults.default_steps(size, train, batch_size)
    if lr is None:
        lr = defaults.default_lr(model.config.hidden_size)
    watchings = defaults.watchings(steps, batch_size)
    training = TrainingConfig(
        steps=steps,
        lr=lr,
        warmup=min(20, max(steps, 0) // 10),
        workers=workers,
        seed=seed,
        eval_every=max(1, steps // watchings) if held_out else 0,
        checkpoint_every=max(1, steps // CHECKPOINTS),
    )
    parts = (train, held_out[:judged], len(held_out), size, data, eval_data)
    return Plan(base, lora, training, batch_size, max_length, *parts)


def execute(
    console: Console,
    plan: Plan,
    model: Transformer,
    tokenizer: Tokenizer,
    run: RunFolder,
    out: Path,
    resume: bool,
    clock: Clock,
) -> None:
    """Judge, train, judge again, save and show."""
    limit = model.config.max_position_embeddings
    file = plan.eval_data
    houses = house_records(file.path, tokenizer, limit, plan.lines) if file else []
    rows = defaults.loss_rows(plan.size, plan.held_out) if houses else len(plan.held_out)
    judge = Judge(tokenizer, plan.held_out[:rows], houses)
    settings = plan.settings(model)
    rows_of_base = report.base_rows(plan, model)
    # Attached first, as that checks the targets; B = 0 leaves every output as the base's.
    handle = attach(model, plan.lora, np.random.default_rng(plan.training.seed))
    optimizer = AdamW(model.named_parameters())
    report.show_plan(console, plan, model, optimizer, rows_of_base, houses)
    run.begin(settings, resume)
    before = judge(model, "before")
    clock.lap("judging before")
    try:
        history = train(plan, model, judge, optimizer, run, resume)
        clock.lap("training")
        after = judge(model, "after")
    except DivergedError:
        run.mark(DIVERGED)
        raise
    evaluation = {"before": before, "after": after, "on": report.judged_on(plan)}
    samples = pick_samples(plan, tokenizer, limit)
    answered = report.answer_samples(model, tokenizer, samples, judge.given)
    plot_loss(history, run.path / "loss.png")
    adapter = handle.adapter(
        base_name=public_name(plan.base), provenance=plan.provenance(evaluation)
    )
    adapter.write(out)
    run.mark(FINISHED)
    clock.lap("judging after and saving")
    report.show_result(console, evaluation, answered)
    report.show_speed(console, plan, history)
    report.show_cost(console, clock, plan.device)
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
    watched = defaults.watched_rows(plan.training.steps, plan.batch_size)
    return fit(
        model,
        Batches(plan.train, plan.batch_size, plan.training.seed, judge.tokenizer.pad_id),
        plan.training,
        optimizer=optimizer,
        out_dir=run.path,
        resume=resume,
        on_eval=lambda step: {"eval_loss": judge.loss(model, watched)},
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

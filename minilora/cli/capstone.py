"""`minilora capstone`: adapts something of your own, step by step, and writes a card to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.cost import peak_memory_text, times_text
from minilora.cli.options import BASE_HELP, DEVICE_HELP, RULES_HELP, WORKERS_HELP, utf8
from minilora.cli.reporter import TableReporter
from minilora.cli.training_options import (
    BASE_DTYPE_HELP,
    BATCH_HELP,
    LR_HELP,
    REPLAY_DATA_HELP,
    REPLAY_HELP,
    STEPS_HELP,
    SUITE_HELP,
    TARGETS_HELP,
    target_names,
)
from minilora.hub.bases import WARD
from minilora.runs.capstone import CapstonePlan, Part, StepReporter, missing, run_capstone
from minilora.runs.capstone.card import ARMS, PAGE, percent, verdict
from minilora.runs.capstone.missing import State
from minilora.runs.capstone.plan import SHOTS
from minilora.runs.capstone.rows import HELD_OUT_SHARE, LEAST_ROWS
from minilora.runs.capstone.steps import STEPS, Step

GROUP = "Adapt"
DATA_HELP = f"Your rows, {LEAST_ROWS} or more: JSONL, a JSON array or a table, as adapt's --data."
EVAL_HELP = f"Rows to score on. Default: one in {HELD_OUT_SHARE} of --data, held out."
INSTRUCTION_HELP = "The prompt that is to be beaten: what the base is asked to do, in words."


def capstone(
    data: Path = typer.Option(..., "--data", help=DATA_HELP),
    out: Path = typer.Option(..., "--out", help="Folder of the card and of all that it tells of."),
    eval_data: Path = typer.Option(None, "--eval", help=EVAL_HELP),
    base: str = typer.Option(WARD, "--base", help=BASE_HELP),
    base_dtype: str = typer.Option("float32", "--base-dtype", help=BASE_DTYPE_HELP),
    device: str = typer.Option("cpu", "--device", help=DEVICE_HELP),
    instruction: str = typer.Option(None, "--instruction", help=INSTRUCTION_HELP),
    shots: int = typer.Option(SHOTS, "--shots", help="Worked examples in the longest prompt."),
    suite: Path = typer.Option(None, "--suite", help=SUITE_HELP),
    rules: Path = typer.Option(None, "--rules", help=RULES_HELP),
    title: str = typer.Option("", "--title", help="Of the card."),
    r: int = typer.Option(8, "--r", help="Rank."),
    alpha: float = typer.Option(16, "--alpha", help="lora_alpha; the update is times alpha / r."),
    targets: str = typer.Option(None, "--targets", help=TARGETS_HELP),
    steps: int = typer.Option(None, "--steps", help=STEPS_HELP),
    batch_size: int = typer.Option(None, "--batch-size", help=BATCH_HELP),
    lr: float = typer.Option(None, "--lr", help=LR_HELP),
    replay: float = typer.Option(0.0, "--replay", help=REPLAY_HELP),
    replay_data: Path = typer.Option(None, "--replay-data", help=REPLAY_DATA_HELP),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the division, A and the order."),
    workers: int = typer.Option(0, "--workers", help=WORKERS_HELP),
    check: bool = typer.Option(False, "--check", help="Run nothing: say what is missing."),
) -> None:
    """Adapt something of your own: prompt, data check, adapter, intervals, gate, and a card.

    Stopped at any moment, the same command goes on. --check has exit code 1 where a part is
    missing.

    Example: minilora capstone --data notebooks/worked/bookings.csv --out my-capstone
    """
    plan = CapstonePlan(
        data=data,
        out=out,
        eval_data=eval_data,
        base=base,
        base_dtype=base_dtype,
        device=device,
        instruction=None if instruction is None else utf8("--instruction", instruction),
        shots=shots,
        suite=suite,
        rules=rules,
        title=utf8("--title", title),
        r=r,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,
        target_modules=None if targets is None else target_names(targets),
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        replay=replay,
        replay_data=replay_data,
        seed=seed,
        workers=workers,
    )
    console = Console()
    if check:
        parts = missing(plan)
        show_parts(console, parts)
        raise typer.Exit(int(any(part.state is State.MISSING for part in parts)))
    done = run_capstone(plan, StepTable(console))
    rows = [
        (ARMS[name], *percent(share)) for name, share in done.records["scores"]["shares"].items()
    ]
    title = "Exact answers on the held-out rows"
    show.grid(console, title, ("", "right", "exact", "95 % interval"), rows, right=(1, 2, 3))
    show.say(console, verdict(done.records))
    show.say(console, f"Took {times_text(done.seconds)}. Peak memory: {peak_memory_text(device)}.")
    show.say(console, f"The card: {done.card} and {done.card.with_name(PAGE)}")


class StepTable(TableReporter, StepReporter):
    """Says of each step that it begins, or that it was done before."""

    def begins(self, step: Step) -> None:
        """A line with the step's place."""
        place = STEPS.index(step) + 1
        show.say(self.console, f"{place} of {len(STEPS)}: {step.words}")

    def ended(self, step: Step, record: Mapping, kept: bool) -> None:
        """A line where there was nothing to do; the findings of the rows."""
        if kept:
            show.say(
                self.console, f"{STEPS.index(step) + 1} of {len(STEPS)}: {step.name}, done before"
            )
        for one in record.get("findings", ()):
            show.say(self.console, f"   {one['kind']}: {one['text']}")


def show_parts(console: Console, parts: Sequence[Part]) -> None:
    """A line for each part, what is missing last."""
    order = list(State)
    rows = [
        (p.name, p.state.value, p.text) for p in sorted(parts, key=lambda p: order.index(p.state))
    ]
    show.grid(console, "How the capstone stands", ("part", "", "what there is to say"), rows)
    count = sum(part.state is State.MISSING for part in parts)
    show.say(
        console, f"Missing: {count} part{'s'[: count > 1]}." if count else "Nothing is missing."
    )

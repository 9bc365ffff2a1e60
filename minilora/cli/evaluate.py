"""`minilora evaluate`: scores base, prompts and adapters on the same prompts, side by side."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.adapters import named_adapters
from minilora.cli.cost import peak_memory_text, times_text
from minilora.cli.options import (
    BASE_DTYPE_HELP,
    BASE_OF_ADAPTER_HELP,
    DEVICE_HELP,
    RAW_HELP,
    TEXT_HELP,
    WORKERS_HELP,
    utf8,
)
from minilora.cli.reporter import TableReporter
from minilora.cli.scores import comparison
from minilora.evaluation.cases import HOUSE
from minilora.runs.compare import ComparePlan, Comparison, compare

GROUP = "Judge"
SHOWN_WRONG = 2

DATA_HELP = (
    "JSONL: prompt and completion, or messages that end with the answer to compare with; "
    "of a text, the loss."
)
INSTRUCTION_HELP = (
    "Also ask the base with this at the end of each prompt. "
    f"{HOUSE}: the ward's house format in words, in place of its bare instruction."
)
SHOTS_HELP = "Also ask the base after so many worked examples, as earlier turns of the chat."


def evaluate(
    data: Path = typer.Option(..., "--data", help=DATA_HELP),
    base: str = typer.Option(None, "--base", help=BASE_OF_ADAPTER_HELP),
    base_dtype: str = typer.Option(None, "--base-dtype", help=BASE_DTYPE_HELP),
    device: str = typer.Option("cpu", "--device", help=DEVICE_HELP),
    adapter: list[str] = typer.Option(
        [], "--adapter", metavar="[NAME=]DIR", help="An adapter to score; may be given again."
    ),
    rows: int = typer.Option(None, "--rows", help="Only the first so many. Default: all."),
    instruction: str = typer.Option(None, "--instruction", help=INSTRUCTION_HELP),
    shots: int = typer.Option(None, "--shots", help=SHOTS_HELP),
    examples: Path = typer.Option(None, "--examples", help="JSONL that the shots are taken from."),
    raw: bool = typer.Option(False, "--raw", help=RAW_HELP),
    text: bool = typer.Option(False, "--text", help=TEXT_HELP),
    workers: int = typer.Option(0, "--workers", help=WORKERS_HELP),
    json_file: Path = typer.Option(None, "--json", help="Also write scores and answers here."),
) -> None:
    """Evaluate what you ship: greedy answers, compared with the expected ones.

    The base always has a column, so that an adapter stands beside what a prompt gets.

    Example: minilora evaluate --adapter tour/adapter --data data/ward/cardiology.eval.jsonl
    """
    plan = ComparePlan(
        data=data,
        adapters=tuple(named_adapters(adapter)),
        base=base,
        base_dtype=base_dtype,
        device=device,
        rows=rows,
        instruction=None if instruction is None else utf8("--instruction", instruction),
        shots=shots,
        examples=examples,
        raw=raw,
        as_text=text,
        workers=workers,
        json_file=json_file,
    )
    console = Console()
    result = compare(plan, TableReporter(console))
    show_table(console, result)
    show.say(
        console, f"Took {times_text(result.seconds)}. Peak memory: {peak_memory_text(device)}."
    )


def show_table(console: Console, result: Comparison) -> None:
    """One column a variant, and some answers of the last that are wrong."""
    data, cases, columns = result.plan.data, result.cases, result.columns
    # A file of one ward has its exact answers in the ward's rows.
    whole = len(columns[0].house) == 1 and all(case.ward for case in cases)
    scores = [one.to_dict() for one in columns]
    if whole:
        scores = [{k: v for k, v in one.items() if k != "exact"} for one in scores]
    table = list(comparison(*scores))
    if cases:
        table += [
            ("tokens of a prompt, mean", *(f"{one.prompt_tokens:.0f}" for one in columns)),
            ("seconds for all", *(f"{one.seconds:.1f}" for one in columns)),
        ]
    title = f"{len(cases)} prompts of {data.name}, greedy answers"
    headings = ("", *(one.variant.name for one in columns))
    show.grid(console, title, headings, table, right=range(1, len(headings)))
    last = columns[-1]
    wrong = [
        (Path(case.source).name, case.expected, text)
        for case, text in zip(cases, last.outputs, strict=True)
        if case.expected.strip() != text
    ]
    if wrong:
        title = f"{last.variant.name}: {min(len(wrong), SHOWN_WRONG)} of {len(wrong)} that differ"
        show.grid(console, title, ("line", "expected", "answer"), wrong[:SHOWN_WRONG])

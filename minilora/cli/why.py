"""`minilora why`: which training notes taught an adapter an answer, and which are suspect."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.cost import times_text
from minilora.cli.options import BASE_OF_ADAPTER_HELP, DEVICE_HELP, TEXT_HELP
from minilora.cli.reporter import TableReporter
from minilora.runs.why import RANKINGS, Why, WhyPlan
from minilora.runs.why import why as find_why
from minilora.text.rows import row_number

GROUP = "Understand"
SUSPECTS_HELP = (
    "Rank in place of an answer: this share of the notes, those that pull most against --eval."
)


def why(
    adapter: Path = typer.Option(..., "--adapter", help="Adapter folder."),
    data: Path = typer.Option(..., "--data", help="What it was trained on."),
    eval_data: Path = typer.Option(None, "--eval", help="Rows to ask about, or to trust."),
    row: int = typer.Option(None, "--row", help="The line of --eval whose answer is asked about."),
    prompt: str = typer.Option(None, "--prompt", help="Or a prompt of your own."),
    answer: str = typer.Option(None, "--answer", help="Default: the adapter's own answer."),
    suspects: float = typer.Option(None, "--suspects", help=SUSPECTS_HELP),
    by: str = typer.Option("influence", "--by", help=f"Rank suspects by {', '.join(RANKINGS)}."),
    rows: int = typer.Option(None, "--rows", help="Trust the first so many of --eval alone."),
    clean: Path = typer.Option(None, "--clean", help="Write --data without the suspects here."),
    checkpoints: int = typer.Option(3, "--checkpoints", help="How many of the run's to look at."),
    top: int = typer.Option(5, "--top", min=1, max=20, help="Notes that are shown."),
    text: bool = typer.Option(False, "--text", help=TEXT_HELP),
    base: str = typer.Option(None, "--base", help=BASE_OF_ADAPTER_HELP),
    device: str = typer.Option("cpu", "--device", help=DEVICE_HELP),
    json_file: Path = typer.Option(None, "--json", help="Also write all scores here."),
) -> None:
    """Rank the training notes by what they have to do with an answer (TracIn).

    Example: minilora why --adapter my-adapter --data my.jsonl --eval held.jsonl --row 7
    """
    plan = WhyPlan(
        adapter=adapter, data=data, as_text=text, eval_data=eval_data, rows=rows, row=row,
        prompt=prompt, answer=answer, suspects=suspects, by=by, clean=clean, moments=checkpoints,
        base=base, device=device, json_file=json_file,
    )  # fmt: skip
    console = Console()
    show_why(console, find_why(plan, TableReporter(console)), top)


def show_why(console: Console, found: Why, top: int) -> None:
    """What was asked, the notes with the highest scores, and those that pull the other way."""
    asked, plan = found.asked, found.plan
    if asked is not None:
        rows = [("prompt", asked.prompt), ("answer", asked.answer)]
        if asked.is_wrong:
            rows.append(("expected", asked.expected))
        show.pairs(console, "Asked about", rows)
        title = "Notes that taught it most"
        if asked.is_wrong:
            title = "Notes that taught it most, rather than the expected answer"
    else:
        count = round(plan.suspects * len(found.notes))
        title = f"The first of {count} suspects among {len(found.notes)} notes, by {plan.by}"
    cells = [
        (str(row_number(n.source)), f"{n.score:.3g}", f"{n.cosine:+.3f}", f"{n.loss:.3f}",
         n.prompt, n.completion)
        for n in found.notes[:top]
    ]  # fmt: skip
    headings = ("line", "score", "cosine", "loss", "prompt", "completion")
    show.grid(console, title, headings, cells, right=(0, 1, 2, 3))
    if found.steps:
        show.say(console, f"Over the checkpoints after {', '.join(map(str, found.steps))} steps.")
    else:
        text = "From the adapter's last numbers alone; adapt --keep-checkpoints leaves the run's."
        show.say(console, text)
    if found.left is not None:
        show.say(console, f"Wrote {plan.clean} with the other {found.left} lines.")
    show.say(console, f"Took {times_text(found.seconds)}.")

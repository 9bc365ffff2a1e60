"""`minilora tour`: the main job on real input, from the base's habit to an adapter that lost it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from minilora.cli import show
from minilora.cli.gate_report import verdict_line
from minilora.cli.options import WORKERS_HELP
from minilora.cli.reporter import TableReporter
from minilora.cli.scores import tour_rows
from minilora.runs import TourPlan, TourResult, run
from minilora.storage import require_place
from minilora.ward import HOUSE_FORMATS
from minilora.ward.rules import gives_dose

GROUP = "Course"
DEFAULT = TourPlan()
WARD_HELP = f"One of {', '.join(HOUSE_FORMATS)}."
READING = (
    "The base, prompted: asked for the house's lines by name.{prompted}\n"
    "The adapter saw nothing but the house task. The base's bits are the same, and yet base and "
    "adapter\ntogether answer other questions worse: frozen storage is not frozen "
    "behaviour. Test what you ship."
)


def tour(
    out: Path = typer.Option(DEFAULT.out, "--out", help="Folder for adapter, model and plot."),
    ward: str = typer.Option(DEFAULT.ward, "--ward", help=WARD_HELP),
    steps: int = typer.Option(DEFAULT.steps, "--steps", min=1, help="Training steps."),
    lr: float = typer.Option(DEFAULT.lr, "--lr", help="Peak learning rate."),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of A and of the order of the data."),
    workers: int = typer.Option(0, "--workers", help=WORKERS_HELP),
    svg: Path = typer.Option(None, "--svg", help="Keep notes, answers and scores as a picture."),
) -> None:
    """Adapt the ward's base to a hospital's discharge notes with LoRA, and measure all of it.

    Example: minilora tour --ward pediatrics
    """
    require_place("--svg", svg)
    console = Console(record=svg is not None)
    plan = TourPlan(out=out, ward=ward, steps=steps, lr=lr, seed=seed, workers=workers)
    result = run(plan, TourReporter(console, ward))
    before, after = result.before, result.after
    house = (before.house[ward], result.prompted, after.house[ward])
    titles = ("", "base", "base, prompted", "adapted")
    rows = tour_rows(house, (before.suite, after.suite))
    show.grid(console, f"{ward}: held-out notes", titles, rows, right=(1, 2, 3))
    knows = result.prompted.format_compliance > 0.5
    gets = " That gets the format, and not the rule." if knows else ""
    if svg is not None:
        show.save_svg(console, svg, "python3 minilora tour")
    show.say(console, READING.format(prompted=gets))
    show.say(console, verdict_line(result.gate))
    show.pairs(console, "What it took", bill(result))
    show.say(console, next_steps(out, sum(result.seconds.values())))


class TourReporter(TableReporter):
    """Prints the note, and what base and adapter answer to it."""

    def __init__(self, console: Console, ward: str) -> None:
        super().__init__(console)
        self.ward = ward

    def asking(self, record: Mapping) -> None:
        """The note, with the drugs that it gives no dose for."""
        missing = ", ".join(record["facts"]["no_dose"])
        title = f"A note from {self.ward} that no model has seen (no dose: {missing})"
        self.console.print(Panel(Text(record["prompt"]), title=title, title_align="left"))

    def answered(self, when: str, record: Mapping, output: str) -> None:
        """The answer, and whether it makes up a dose."""
        title = "The base answers" if when == "before" else "With the adapter"
        guessed = [drug for drug in record["facts"]["no_dose"] if gives_dose(output, drug)]
        verdict = f"invents a dose of {', '.join(guessed)}" if guessed else "invents no dose"
        style = "red" if guessed else "green"
        title = f"{title}: {verdict}"
        self.console.print(Panel(Text(output), title=title, title_align="left", border_style=style))


def bill(result: TourResult) -> list[tuple[str, str]]:
    """Parameters and bytes, and the promises that were checked."""
    sizes, merge = result.sizes, result.merge
    full = show.size(8 * sizes.base)
    return [
        ("parameters of the base, frozen", f"{sizes.base:,}"),
        ("parameters trained", f"{sizes.trained:,} ({sizes.trained / sizes.base:.2%})"),
        ("base in memory", show.size(4 * sizes.base)),
        ("adapter", show.size(4 * sizes.trained)),
        (
            "optimizer state (full training needs 8 bytes a parameter)",
            f"{show.size(sizes.optimizer_bytes)} ({full})",
        ),
        ("base after training, and after merge and unmerge", "bit-identical (sha256)"),
        (
            "merged against adapted logits",
            f"{merge.from_adapted / merge.largest:.1e} of the largest",
        ),
    ]


def next_steps(out: Path, seconds: float) -> str:
    """What was written, and where to go from here."""
    adapter = show.typed(f"{out}/adapter")
    lines = [
        f"Done in {seconds:.0f} s. Written to {out}:",
        f"  {out}/adapter   the adapter, a PEFT folder (`minilora info {adapter}`)",
        f"  {out}/merged    base and adapter as one ordinary model",
        f"  {out}/tour.png  loss and scores",
        "",
        "Next:",
        f"  python3 minilora generate --adapter {adapter} --prompt-file note.txt",
        "  python3 minilora adapt --data your.jsonl --out my-adapter   your own data",
        "  python3 minilora gradcheck                                  every gradient, checked",
        "  python3 minilora learn                                      the course, from chapter 0",
    ]
    return "\n".join(lines)

"""`minilora steering`: four adapters that steer one answer, joined in every way."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.cost import times_text
from minilora.cli.options import WORKERS_HELP
from minilora.cli.scores import percent
from minilora.runs.steering import JOINT, Steering, SteeringPlan, steer
from minilora.ward.steering import RULES

GROUP = "Understand"


def steering(
    out: Path = typer.Option(Path("steering"), "--out", help="Folder for result and adapters."),
    seeds: int = typer.Option(3, "--seeds", min=1, help="Adapters of each rule."),
    steps: int = typer.Option(150, "--steps", min=1, help="Training steps of an adapter."),
    asked: int = typer.Option(80, "--asked", min=1, help="Held-out notes that are reported."),
    workers: int = typer.Option(0, "--workers", help=f"Of the answers. {WORKERS_HELP}"),
) -> None:
    """Four adapters for one answer (domain, tone, safety, customer), joined in every way.

    Each rule is trained alone, and all at once; rates, weights and densities are chosen on other
    notes. Then the forecast of who disturbs whom is held against what was lost.

    Example: minilora steering --out steering
    """
    console = Console()
    plan = SteeringPlan(
        out=out, seeds=tuple(range(seeds)), steps=steps, asked=asked, workers=workers
    )
    result = steer(plan, lambda text: show.say(console, text))
    show_result(console, result)
    show.say(console, f"Took {times_text(result.seconds)}. {out}: result, plot and adapters.")


def show_result(console: Console, result: Steering) -> None:
    """Methods by what is kept of each rule, then the forecast's correlations."""
    title = f"{result.plan.asked} held-out notes, median over the seeds [least to most]"
    headings = ("", *RULES, "of alone", "all four", "exact")
    alone = [spread([kept.rules[rule] for kept in result.alone[rule]]) for rule in RULES]
    rows = [
        ("base", *(percent(result.base.rules[rule]) for rule in RULES), "", "", ""),
        ("each alone", *alone, "", "", ""),
    ]
    for name in (*result.methods, JOINT):
        kept = result.of(name)
        rows.append(
            (
                name,
                *(spread([one.rules[rule] for one in kept]) for rule in RULES),
                spread(result.normalised(name)),
                spread([one.jointly for one in kept]),
                spread([one.exact for one in kept]),
            )
        )
    show.grid(console, title, headings, rows, right=range(1, len(headings)))
    measures = [(name, f"{rho:+.2f}") for name, rho in result.correlations.items()]
    title = f"Forecast against loss: rank correlation over {len(result.pairs)} pairs"
    show.pairs(console, title, measures)


def spread(values: list[float]) -> str:
    """Median and range of shares, in percent."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return f"{middle:.0%} [{ordered[0]:.0%} to {ordered[-1]:.0%}]"

"""`minilora route`: which adapter a text is for, or none of them."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.adapters import named_adapters
from minilora.cli.prompt import read_prompt
from minilora.evaluation.paired import wilson
from minilora.hub.bases import WARD_BASE
from minilora.hub.several import NamedAdapter
from minilora.runs.routing import (
    MARK,
    NONE,
    Routing,
    RoutingPlan,
    adapters_in,
    measure_routing,
    open_bank,
)
from minilora.serving import LossRouter, LossSettings, RuleRouter
from minilora.text.answers import answers, prompt_ids

GROUP = "Serve"
SPECIALISTS, MEASURED = WARD_BASE.parent / "specialists", WARD_BASE.parent / "router" / MARK
BANK_HELP = "Folder of adapters, one a folder. Default: the ward's specialists."
BY_HELP = "What the loss is of: prompt, or answer (its first tokens)."
RULES_HELP = "JSON file with a regular expression a name, to route by rule; needs no adapters."
MEASURE_HELP = "Choose the settings on mixed notes of the ward, and count errors on 600 others."


def route(
    prompt: str = typer.Option(None, "--prompt", help="The text."),
    prompt_file: Path = typer.Option(
        None, "--prompt-file", help="UTF-8 file with the text (default: standard input)."
    ),
    bank: Path = typer.Option(SPECIALISTS, "--bank", help=BANK_HELP),
    adapter: list[str] = typer.Option(
        [], "--adapter", metavar="[NAME=]DIR", help="Adapters to choose from, in place of --bank."
    ),
    by: str = typer.Option(None, "--by", help=BY_HELP),
    tokens: int = typer.Option(None, "--tokens", help="First tokens of an answer."),
    threshold: float = typer.Option(
        None, "--threshold", help="Nats a token above which the text is for none of them."
    ),
    rules: Path = typer.Option(None, "--rules", help=RULES_HELP),
    answer: bool = typer.Option(False, "--answer", help="Let the chosen adapter answer as well."),
    measure: bool = typer.Option(False, "--measure", help=MEASURE_HELP),
    out: Path = typer.Option(Path("router"), "--out", help="Folder for what --measure finds."),
) -> None:
    """Say which adapter a text is for: by rule, or by the lowest loss; or that it is for none."""
    console = Console()
    if rules is not None:
        if answer or measure:
            raise ValueError("got --rules with --answer or --measure, expected it without them")
        router = RuleRouter(read_rules(rules))
        show.say(console, router.route(read_prompt(prompt, prompt_file)).name or NONE)
        return
    chosen = named_adapters(adapter) if adapter else adapters_in(bank)
    if measure:
        show_measured(console, measure_routing(RoutingPlan(adapters=tuple(chosen), out=out), True))
        show.say(console, f"Wrote {out}: {MARK}, README.md and confusion.png.")
        return
    text = read_prompt(prompt, prompt_file)
    settings = settings_for(chosen, by, tokens, threshold)
    opened, tokenizer = open_bank(chosen)
    (choice,) = LossRouter(opened, settings).route([prompt_ids(tokenizer, text)])
    show.say(console, choice.name or NONE)
    rows = [(name, f"{loss:.4f}") for name, loss in choice.losses.items()]
    title = f"Loss of the {settings.by}"
    show.grid(console, title, ("adapter", "nats a token"), rows, right=(1,))
    if answer and choice.name is not None:
        opened.use(choice.name)
        show.say(console, answers(opened.model, tokenizer, [text])[0])


def settings_for(
    chosen: list[NamedAdapter], by: str | None, tokens: int | None, threshold: float | None
) -> LossSettings:
    """What was asked for; what was not is as measured for the ward's specialists, or a default.

    The measured threshold fits those adapters and those settings alone.
    """
    usual = LossSettings()
    ours = all(one.folder is not None and one.folder.parent == SPECIALISTS for one in chosen)
    if ours and MEASURED.is_file():
        usual = LossSettings(**json.loads(MEASURED.read_text("utf-8"))["settings"])
    changed = by not in (None, usual.by) or tokens not in (None, usual.tokens)
    if threshold is None and not changed:
        threshold = usual.threshold
    return LossSettings(by or usual.by, usual.tokens if tokens is None else tokens, threshold)


def read_rules(path: Path) -> dict[str, str]:
    """The rules of a JSON file. Raises ValueError where it is no object of texts."""
    try:
        rules = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(rules, dict):
        raise ValueError(f"{path} holds no object, expected a regular expression a name")
    return rules


def show_measured(console: Console, result: Routing) -> None:
    """Accuracy of each router, and the confusion of the best by loss."""
    rows = []
    for one in (*result.by_loss, result.by_rule):
        low, high = wilson(one.right, one.of)
        name = "by rule" if one is result.by_rule else f"by loss of the {one.name}"
        share = f"{one.right / one.of:.1%}"
        rows.append((name, f"{one.right} of {one.of}", share, f"{low:.1%}–{high:.1%}"))
    show.grid(console, "Notes sent to their place", ("", "right", "", "95 %"), rows, (1, 2, 3))
    show.say(console, f"Chosen on other notes: {result.chosen}.")
    best = next(one for one in result.by_loss if one.name == result.chosen.by)
    wrong = [
        (place, sent, str(count)) for (place, sent), count in best.counts.items() if place != sent
    ]
    show.grid(console, "What went wrong", ("belongs to", "sent to", "notes"), sorted(wrong), (2,))

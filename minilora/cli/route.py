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
from minilora.hub.several import NamedAdapter
from minilora.runs.routing import (
    MARK,
    NONE,
    SPECIALISTS,
    SPECIALISTS_CENTRES,
    Routing,
    RoutingPlan,
    adapters_in,
    measure_routing,
    open_bank,
)
from minilora.serving import Centres, LossRouter, LossSettings, RuleRouter
from minilora.text.answers import answers, prompt_ids

GROUP = "Serve"
MEASURED = SPECIALISTS_CENTRES.parent / MARK
BANK_HELP = "Folder of adapters, one a folder. Default: the ward's specialists."
BY_HELP = (
    "reading: the centre nearest to what the base makes of the text; prompt, answer: the lowest "
    "loss of the text, or of an answer's first tokens. Default: reading where centres are there."
)
ROUTER_HELP = "Centres for --by reading. Default: those of the ward's specialists."
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
    router: Path = typer.Option(None, "--router", help=ROUTER_HELP),
    tokens: int = typer.Option(None, "--tokens", help="First tokens of an answer."),
    threshold: float = typer.Option(
        None, "--threshold", help="Nats a token above which the text is for none of them."
    ),
    rules: Path = typer.Option(None, "--rules", help=RULES_HELP),
    answer: bool = typer.Option(False, "--answer", help="Let the chosen adapter answer as well."),
    measure: bool = typer.Option(False, "--measure", help=MEASURE_HELP),
    out: Path = typer.Option(Path("router"), "--out", help="Folder for what --measure finds."),
) -> None:
    """Say which adapter a text is for: by rule, or by the lowest loss; or that it is for none.

    Example: minilora route --bank data/specialists --prompt-file note.txt
    """
    console = Console()
    if rules is not None:
        if answer or measure:
            raise ValueError("got --rules with --answer or --measure, expected it without them")
        by_rule = RuleRouter(read_rules(rules))
        show.say(console, by_rule.route(read_prompt(prompt, prompt_file)).name or NONE)
        return
    chosen = named_adapters(adapter) if adapter else adapters_in(bank)
    if measure:
        show_measured(console, measure_routing(RoutingPlan(adapters=tuple(chosen), out=out), True))
        show.say(console, f"Wrote {out}: {MARK}, README.md and confusion.png.")
        return
    text = read_prompt(prompt, prompt_file)
    centres = centres_for(chosen, by, router)
    settings = None if centres else settings_for(chosen, by, tokens, threshold)
    opened, tokenizer = open_bank(chosen)
    ids = [prompt_ids(tokenizer, text)]
    if centres is not None:
        kept = centres.threshold if threshold is None else threshold
        (choice,) = centres.with_threshold(kept).route(opened, ids)
        title, unit = "Distance of the base's reading", "from the centre"
    else:
        (choice,) = LossRouter(opened, settings).route(ids)
        title, unit = f"Loss of the {settings.by}", "nats a token"
    show.say(console, choice.name or NONE)
    rows = [(name, f"{value:.4f}") for name, value in choice.losses.items()]
    show.grid(console, title, ("adapter", unit), rows, right=(1,))
    if answer and choice.name is not None:
        opened.use(choice.name)
        show.say(console, answers(opened.model, tokenizer, [text])[0])


def ours(chosen: list[NamedAdapter]) -> bool:
    """Whether these are the ward's specialists, for which a router was measured."""
    return all(one.folder is not None and one.folder.parent == SPECIALISTS for one in chosen)


def centres_for(chosen: list[NamedAdapter], by: str | None, router: Path | None) -> Centres | None:
    """The centres to route by, None for a router by loss.

    Raises ValueError for --by reading without centres, or centres of names that are not chosen.
    """
    path = router or (SPECIALISTS_CENTRES if ours(chosen) else None)
    if by not in (None, "reading") or path is None or not (router or path.is_file()):
        if by == "reading":
            raise ValueError("got --by reading, expected --router with the centres of a router")
        if router is not None:
            raise ValueError(f"got --router and --by {by}, expected --by reading")
        return None
    centres = Centres.read(path)
    missing = sorted(set(centres.names) - {one.name for one in chosen})
    if missing:
        raise ValueError(f"{path} has centres of {', '.join(missing)}, expected adapters of these")
    return centres


def settings_for(
    chosen: list[NamedAdapter], by: str | None, tokens: int | None, threshold: float | None
) -> LossSettings:
    """What was asked for; what was not is as measured for the ward's specialists, or a default.

    The measured threshold fits those adapters and those settings alone.
    """
    usual = LossSettings()
    if ours(chosen) and MEASURED.is_file():
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
    for name, one in result.ways.items():
        low, high = wilson(one.right, one.of)
        share = f"{one.right / one.of:.1%}"
        rows.append((name, f"{one.right} of {one.of}", share, f"{low:.1%}–{high:.1%}"))
    show.grid(console, "Notes sent to their place", ("", "right", "", "95 %"), rows, (1, 2, 3))
    show.say(console, f"Chosen on other notes: {result.chosen}.")
    counts = result.by_reading.counts
    wrong = [(place, sent, str(n)) for (place, sent), n in counts.items() if place != sent]
    if wrong:
        headings = ("belongs to", "sent to", "notes")
        show.grid(console, "By reading, what went wrong", headings, sorted(wrong), (2,))

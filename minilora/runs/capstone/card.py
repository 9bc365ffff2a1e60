"""The card of a capstone: what was adapted, what it is worth and what it cost, on one page.

What it says is put together once, from the records of the steps, and written as Markdown and as
HTML; both show the same picture.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from minilora import __version__
from minilora.evaluation.cases import read_cases
from minilora.runs.capstone.plan import CapstonePlan
from minilora.runs.capstone.plot import plot_scores
from minilora.storage import atomic_write

PICTURE, MARKDOWN, PAGE = "scores.png", "card.md", "card.html"
ARMS = {
    "base": "base, asked plainly",
    "prompt": "base, best prompt",
    "adapter": "base with the adapter",
}
TOLD = {"base": "plain base", "prompt": "best prompt"}
SAMPLES = 4
ALT = "Exact answers of base, prompt and adapter, with 95 % intervals."

Records = Mapping[str, Mapping]


@dataclass(frozen=True)
class Section:
    """A part of the card: sentences, and a table where there are headings."""

    heading: str
    lines: Sequence[str]
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    picture: bool = False


def write_card(plan: CapstonePlan, records: Records) -> Path:
    """Draw the picture and write the card in both forms; the Markdown's path."""
    plot_scores(plan.out / PICTURE, records["scores"]["shares"], records["rows"]["commonest"])
    title = plan.title or f"{plan.data.stem} on {Path(records['rows']['base']).name}"
    parts = sections(plan, records)
    picture = (plan.out / PICTURE).read_bytes()
    atomic_write(plan.out / PAGE, page(title, parts, picture).encode())
    atomic_write(plan.out / MARKDOWN, markdown(title, parts).encode())
    return plan.out / MARKDOWN


# -- what it says ----------------------------------------------------------------------------------


def sections(plan: CapstonePlan, records: Records) -> list[Section]:
    """The parts of the card, in their order."""
    return [
        Section("", [verdict(records)], picture=True),
        _scores(records),
        _gate(records),
        _rows(plan, records),
        _prompt(plan, records),
        _made(plan, records),
        _samples(plan, records),
    ]


def verdict(records: Records) -> str:
    """What it comes to: is the adapter better than the prompt, and may it be shipped?"""
    changes = records["scores"]["changes"]
    over = "prompt" if "prompt" in changes else "base"
    told = TOLD[over]
    change, (low, high) = changes[over]["change"], changes[over]["interval"]
    span = f"{points(change)} (95 % interval {points(low)} to {points(high)})"
    if low > 0:
        better = f"The adapter beats the {told} by {span}"
    elif high < 0:
        better = f"The {told} beats the adapter: the change is {span}"
    else:
        better = f"The rows don't tell the adapter from the {told}: the change is {span}"
    gate = records["gate"]
    task = "" if gate["suites"] else ", on the task alone: nothing was asked that may not be lost"
    rows = records["scores"]["shares"]["adapter"]["of"]
    return f"{better}, on {rows} held-out rows. Gate: {gate['verdict']}{task}."


def points(change: float) -> str:
    """A change of a share, in points."""
    return f"{100 * change:+.0f} points"


def percent(share: Mapping) -> tuple[str, str, str]:
    """Right of how many, the share, and its interval."""
    low, high = share["interval"]
    return f"{share['right']} of {share['of']}", f"{share['exact']:.1%}", f"{low:.1%} to {high:.1%}"


def _scores(records: Records) -> Section:
    scores = records["scores"]
    rows = [(ARMS[name], *percent(scores["shares"][name])) for name in scores["shares"]]
    common = records["rows"]["commonest"]
    rows.append(("always the commonest answer", "", f"{common:.1%}", ""))
    lines = ["Right is what is equal to the expected answer, to the last character."]
    lines += [
        f"The adapter's change from the {TOLD[name]}: {points(one['change'])} (95 % interval "
        f"{points(one['interval'][0])} to {points(one['interval'][1])})."
        for name, one in scores["changes"].items()
    ]
    before, after = records["adapter"]["loss"]
    lines.append(
        f"Loss on the held-out answers: {before:.3f} before, {after:.3f} after, in nats a token."
    )
    return Section("Scores on the held-out rows", lines, ("", "right", "exact", "95 %"), rows)


def _gate(records: Records) -> Section:
    gate = records["gate"]
    rows = [
        (
            m["name"],
            str(m["rows"]),
            f"{m['before']:.1%}",
            f"{m['after']:.1%}",
            f"{points(m['change'])} [{points(m['interval'][0])}, {points(m['interval'][1])}]",
            f"{m['drop']:.0%}",
            m["verdict"],
        )
        for m in gate["metrics"]
    ]
    lines = [f"Base and merged model on the same rows. Verdict: {gate['verdict']}."]
    if not gate["suites"]:
        lines.append(
            "Nothing was asked that the base could do before, so this says nothing of what was "
            "lost elsewhere."
        )
    headings = ("", "rows", "base", "merged", "change", "may lose", "verdict")
    return Section("The gate", lines, headings, rows)


def _rows(plan: CapstonePlan, records: Records) -> Section:
    told = records["rows"]
    middle, longest = told["tokens"]
    lines = [
        f"{told['train']} rows to learn from and {told['held_out']} held out, of {plan.data.name}"
        + ("" if plan.eval_data is None else f" and {plan.eval_data.name}")
        + f"; {middle} tokens in the middle, {longest} at most. Rows of one prompt or one patient "
        "are on the same side."
    ]
    rows = [(one["kind"], str(one["count"]), one["text"]) for one in told["findings"]]
    if not rows:
        lines.append("The check found no duplicates, contradictions, leaks or unusable rows.")
    return Section("The rows", lines, ("found", "rows", "what") if rows else (), rows)


def _prompt(plan: CapstonePlan, records: Records) -> Section:
    told = records["prompt"]
    lines = [f"Chosen by {told['chosen_on']} training rows: {told['chosen'] or 'none has room'}."]
    if plan.instruction is not None:
        lines.append(f"The instruction: {plan.instruction}")
    rows = [
        (
            one["name"],
            "no room" if one["exact"] is None else f"{one['exact']:.1%}",
            "" if one["tokens"] is None else str(one["tokens"]),
        )
        for one in told["tried"]
    ]
    return Section("The prompt that is to be beaten", lines, ("", "exact", "tokens"), rows)


def _made(plan: CapstonePlan, records: Records) -> Section:
    adapter, merged, reload = (records[name] for name in ("adapter", "merged", "reload"))
    settings = adapter["settings"]
    targets = adapter["targets"]
    targets = targets if isinstance(targets, str) else ", ".join(targets)
    replay = adapter["replay"]
    if reload["by"] == "peft":
        read = "PEFT and transformers load the folder"
    else:
        read = f"Read again by minilora itself ({reload['why']})"
    kept = "" if plan.base_dtype == "float32" else f", kept in {plan.base_dtype}"
    on = "" if plan.device == "cpu" else f" on the {plan.device.upper()}"
    rows = [
        ("base", f"{records['rows']['base']}{kept}, {records['rows']['base_fingerprint']}"),
        ("adapter", adapter["fingerprint"]),
        ("merged weights", merged["fingerprint"]),
        ("model.safetensors", f"sha256:{merged['sha256']}"),
        *((name, f"sha256:{digest}") for name, digest in records["rows"]["sha256"].items()),
        ("trained", f"{adapter['trained']:,} numbers, {adapter['trained'] / adapter['of']:.2%} of "
                    f"the base's: r {plan.r}, alpha {plan.lora_alpha:g}, {targets}"),
        ("training", f"{settings['steps']} steps of {settings['batch_size']} rows, rate "
                     f"{settings['lr']:g}, seed {settings['seed']}, {adapter['seconds']} s{on}"),
        ("replay", "none" if replay is None else f"{replay['rows']} rows of {replay['of']}"),
        ("loaded again", f"{read}: logits within {reload['difference']:.1e} of ours, where the "
                         f"largest is {reload['largest']:.3g}"),
        ("merged", f"logits within {merged['from_adapted']:.1e} of base and adapter, "
                   f"{merged['from_base']:.3g} from the base's; "
                   f"{records['gate']['merged_otherwise']} answers differ"),
    ]  # fmt: skip
    made = f"Made by minilora {__version__}."
    return Section("How it was made", [made], ("", ""), rows)


def _samples(plan: CapstonePlan, records: Records) -> Section:
    """Held-out rows, the first that the adapter gets wrong among them where there is one."""
    cases = read_cases(plan.held_out_file).cases
    outputs = {**records["prompt"]["outputs"], "adapter": records["scores"]["outputs"]}
    wrong = [i for i, c in enumerate(cases) if c.expected.strip() != outputs["adapter"][i]]
    places = list(dict.fromkeys([*range(SAMPLES - len(wrong[:1])), *wrong[:1]]))
    names = [name for name in ("prompt", "base") if name in outputs][:1] + ["adapter"]
    rows = [
        tuple(
            map(
                printable,
                (cases[i].messages[-1]["content"], cases[i].expected)
                + tuple(outputs[name][i] for name in names),
            )
        )
        for i in places
    ]
    lines = [f"{len(wrong)} of {len(cases)} answers of the adapter are wrong."]
    headings = ("asked", "expected", *(ARMS[name] for name in names))
    return Section("Answers", lines, headings, rows)


def printable(text: str) -> str:
    """A text whose characters can all be shown: a model's answer may hold any byte."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


# -- Markdown --------------------------------------------------------------------------------------


def markdown(title: str, parts: Sequence[Section]) -> str:
    """The card as Markdown, with the picture beside it."""
    lines = [f"# {_plain(title)}", ""]
    for part in parts:
        if part.heading:
            lines += [f"## {part.heading}", ""]
        for line in part.lines:
            lines += [_plain(line), ""]
        if part.picture:
            lines += [f"![{ALT}]({PICTURE})", ""]
        if part.headings:
            lines += [_line(part.headings), _line(["---"] * len(part.headings))]
            lines += [_line(row) for row in part.rows] + [""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    text = html.escape(text.strip(), quote=False)
    for mark in "\\`*_[]|#":
        text = text.replace(mark, f"\\{mark}")
    return "<br>".join(text.split("\n"))


# -- HTML ------------------------------------------------------------------------------------------

PAGE_TEXT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: #8885; --soft: #666; }
@media (prefers-color-scheme: dark) { :root { --soft: #aaa; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.lead { font-size: 1.1rem; } .wide { overflow-x: auto; }
img { max-width: 100%; height: auto; background: white; border-radius: .4rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left;
 vertical-align: top; white-space: pre-line; overflow-wrap: anywhere; min-width: 4rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for part in parts %}
{% if part.heading %}<h2>{{ part.heading }}</h2>{% endif %}
{% for line in part.lines %}<p{% if part.picture %} class="lead"{% endif %}>{{ line }}</p>
{% endfor %}
{% if part.picture %}<img src="data:image/png;base64,{{ picture }}" alt="{{ alt }}">{% endif %}
{% if part.headings %}<div class="wide"><table><tr>
{%- for cell in part.headings %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in part.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endif %}
{% endfor %}
</body>
</html>
"""


def page(title: str, parts: Sequence[Section], picture: bytes) -> str:
    """The card as one HTML page: no script, no request, every text escaped, the picture in it."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(PAGE_TEXT).render(
        title=title, parts=parts, alt=ALT, picture=base64.b64encode(picture).decode()
    )

"""A diff as one HTML page: no script, no request, every text escaped, in light and dark."""

from __future__ import annotations

from collections.abc import Mapping

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ d.a }} and {{ d.b }}</title>
<style>
:root { color-scheme: light dark; --line: #8885; --a: #fbe3d3; --b: #d5ecdc; --soft: #666; }
@media (prefers-color-scheme: dark) { :root { --a: #4a2f1d; --b: #1d3d29; --soft: #aaa; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left;
  vertical-align: top; }
td { overflow-wrap: anywhere; } td.k { white-space: nowrap; overflow-wrap: normal; }
div.wide { overflow-x: auto; } h1 { overflow-wrap: anywhere; font-size: 1.5rem; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font: 14px/1.45 monospace; }
mark.a { background: var(--a); color: inherit; } mark.b { background: var(--b); color: inherit; }
.soft { color: var(--soft); } article { border-top: 2px solid var(--line); padding-top: .5rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
@media (max-width: 45rem) { .pair { grid-template-columns: 1fr; } }
</style>
</head>
<body>
<h1>{{ d.a }} <span class="soft">and</span> {{ d.b }}</h1>
<p class="soft">base {{ d.base }}{% if "data" in d %}, {{ d.rows }} rows of {{ d.data }}{% endif %}
</p>
{% if d.scores %}
<h2>Scores</h2>
<table><tr><th></th><th class="n">{{ d.a }}</th><th class="n">{{ d.b }}</th></tr>
{% for name, values in score_rows %}<tr><td>{{ name }}</td>
{% for value in values %}<td class="n">{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table>
<p>{{ d.changed|length }} answers changed: {{ d.wrong_to_right }} from wrong to right,
{{ d.right_to_wrong }} from right to wrong.</p>
{% if d.causes.of %}
<table><tr><th>of {{ d.causes.of }} changed answers, those that hang on</th>
<th class="n">it alone</th><th class="n">a set with it</th></tr>
{% for name, alone, together in cause_rows %}<tr><td>{{ name }}</td><td class="n">{{ alone }}</td>
<td class="n">{{ together }}</td></tr>
{% endfor %}</table>
<p>Whole answers that are the other side's then: {{ d.causes.whole }}.</p>
{% endif %}{% endif %}
<h2>ΔW by module</h2>
<p class="soft">A: {{ d.a }}, B: {{ d.b }}. φ: what both read, and write, in common (1 all, 0
nothing).</p>
<div class="wide"><table><tr><th>module</th><th class="n">‖A‖</th><th class="n">‖B‖</th>
<th class="n">‖B - A‖</th><th class="n">cosine</th><th class="n">φ reads</th>
<th class="n">φ writes</th><th class="n">φ by chance</th></tr>
{% for m in d.modules %}<tr><td class="k">{{ short(m.module) }}</td>
<td class="n">{{ m.norms[0]|num }}</td>
<td class="n">{{ m.norms[1]|num }}</td><td class="n">{{ m.change|num }}</td>
<td class="n">{{ m.cosine|num }}</td><td class="n">{{ m.reads|num }}</td>
<td class="n">{{ m.writes|num }}</td><td class="n">
{%- if m.chance %}{{ m.chance[0]|num }}, {{ m.chance[1]|num }}{% else %}-{% endif %}</td></tr>
{% endfor %}</table></div>
<h2>Settings that differ</h2>
<div class="wide"><table><tr><th></th><th>{{ d.a }}</th><th>{{ d.b }}</th></tr>
{% for key, pair in d.settings.items() %}<tr><td class="k">{{ key }}</td>
{% for value in pair %}<td>{{ "-" if value is none else value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% if d.changed %}
<h2>Answers that changed</h2>
{% for c in d.changed %}
<article>
<p><b>{{ c.source }}</b></p>
<details><summary>prompt and expected answer</summary><pre>{{ c.prompt }}</pre><hr>
<pre>{{ c.expected }}</pre></details>
<div class="pair">
<div><p>{{ d.a }}{{ ", right" if c.right[0] }}</p>{{ text(c.a, c.parting, "a") }}</div>
<div><p>{{ d.b }}{{ ", right" if c.right[1] }}</p>{{ text(c.b, c.parting, "b") }}</div>
</div>
<table><tr><th>they part after {{ c.parting.shared }} tokens</th>
<th class="n">in {{ d.a }}</th><th class="n">in {{ d.b }}</th></tr>
{% for side in ("a", "b") %}{% set t = c.parting[side] %}
<tr><td><mark class="{{ side }}">{{ t.text|quoted if t.text else "end of the answer" }}</mark></td>
<td class="n">{{ "%.4f"|format(t.in_a) }}</td><td class="n">{{ "%.4f"|format(t.in_b) }}</td></tr>
{% endfor %}</table>
{% if c.cause %}<p>{{ because(c.cause, d) }}</p>
{% if c.cause.modules %}<details><summary>the whole answer then</summary>
<pre>{{ c.cause.answer_without }}</pre></details>{% endif %}{% endif %}
</article>
{% endfor %}
{% endif %}
</body>
</html>
"""


def page(told: Mapping) -> str:
    """The page of a diff, as `Diff.to_dict` tells it."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["quoted"] = repr
    environment.filters["num"] = lambda x: "-" if x is None else f"{x:.3f}"
    marked = environment.from_string(
        '<pre>{{ before }}<mark class="{{ side }}">{{ after }}</mark></pre>'
    )

    def text(answer: str, parting: Mapping, side: str):
        shared = parting["text"].lstrip()
        cut = len(shared) if answer.startswith(shared) else 0
        return Markup(marked.render(before=answer[:cut], after=answer[cut:], side=side))

    scores = told.get("scores") or []
    return environment.from_string(PAGE).render(
        d={"scores": None, "changed": None, **told},
        score_rows=score_rows(scores) if scores else [],
        cause_rows=cause_rows(told["causes"]) if scores else [],
        because=because,
        short=short,
        text=text,
    )


def score_rows(scores: list[Mapping]) -> list[tuple[str, list[str]]]:
    """Name -> the value of each side, as texts."""
    rows = []
    first = scores[0]
    if "exact" in first:
        rows.append(("exact answers", [f"{one['exact']:.1%}" for one in scores]))
    for ward in first.get("house", {}):
        for name, key in (
            ("in the house format", "format_compliance"),
            ("invented doses", "invented_dose_rate"),
            ("leaks of name or phone", "leak_rate"),
        ):
            values = [one["house"][ward][key] for one in scores]
            cells = ["-" if value is None else f"{value:.1%}" for value in values]
            rows.append((f"{ward}: {name}", cells))
    if "loss" in first:
        rows.append(("loss (nats a token)", [f"{one['loss']:.4f}" for one in scores]))
    return rows


def cause_rows(causes: Mapping) -> list[tuple[str, int, int]]:
    """Module -> answers that hang on it alone, and on a set that it is in; from the most on."""
    rows = [(short(name), *counts) for name, counts in causes["modules"].items()]
    rows = [row for row in rows if row[1] or row[2]]
    return sorted(rows, key=lambda row: (-row[1], -row[2]))


def short(module: str) -> str:
    """A module's name without what all of a decoder's have in common."""
    return module.removeprefix("model.")


def because(cause: Mapping, told: Mapping) -> str:
    """A cause as a sentence; told: the diff, as `Diff.to_dict` tells it."""
    modules = cause["modules"]
    if not modules:
        return "No set of modules was found that brings the other token back."
    word, own = ("With", f" of {told['a']}") if told["both_adapters"] else ("Without", "")
    if len(modules) == 1:
        others = len(cause["single"]) - 1
        more = f" ({others} other{'s'[: others > 1]} would do it alone)" if others else ""
        return f"{word} {short(modules[0])}{own} the other token comes back{more}."
    names = ", ".join(map(short, modules))
    return f"No single module does it. {word} {names}{own} together the other token comes back."

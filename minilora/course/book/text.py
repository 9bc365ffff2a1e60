"""Markdown, formulas and code as HTML."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from minilora.course.claims import HOLDS, REFUTED

HEADING = re.compile(r"<h([1-6])>(.*?)</h\1>", re.DOTALL)
TAG = re.compile(r"<(/?)([a-z0-9]+)[^>]*>", re.IGNORECASE)
LIGHT, DARK = "xcode", "github-dark"
"""Colours of code in Pygments; both are legible on the page's grey (a ratio of 4.5 or more)."""


ENVIRONMENTS = {"gathered": "matrix", "aligned": "align*"}
"""What stands for environments that the converter would take for words of one line."""

LONG = 50
"""From so many characters on, a formula inside a line may be wider than a telephone."""


@dataclass(frozen=True)
class Section:
    """One heading and the text below it, as the search knows them; anchor: "" for the opening."""

    anchor: str
    title: str
    text: str


@functools.cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    def math(latex: str, options: dict[str, bool]) -> str:
        return formula(latex, block=options["display_mode"])

    parser = MarkdownIt("commonmark", {"html": False, "highlight": _highlighted}).enable("table")
    parser.use(dollarmath_plugin, renderer=math, allow_digits=True)
    parser.add_render_rule("blockquote_open", _quote)
    parser.add_render_rule("table_open", lambda *_: "<div class='scroll'><table>")
    parser.add_render_rule("table_close", lambda *_: "</table></div>")
    return parser


@functools.cache
def _docstrings() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("zero").enable(["backticks", "code", "list"])


def _quote(renderer: Any, tokens: list[Any], index: int, *rest: Any) -> str:
    """A claim's box has its verdict as its class."""
    level, words = tokens[index].level, []
    for token in tokens[index + 1 :]:
        if token.type == "blockquote_close" and token.level == level:
            break
        words.append(token.content)
    text = "\n".join(words).lstrip()
    kind = next((w for w in (HOLDS, REFUTED) if f"**{w}**" in text), "")
    if not text.startswith("**Claim.**"):
        return "<blockquote>"
    return f"<blockquote class='claim {kind}'>"


def formula(latex: str, *, block: bool = False) -> str:
    """LaTeX as MathML. Raises ValueError for a command or an environment that has none here."""
    from latex2mathml.commands import MATRICES
    from latex2mathml.converter import convert

    latex = " ".join(latex.split())
    plainer = re.sub(r"\\\\\[\d+pt\]", r"\\\\", latex)  # the distance of lines is the style sheet's
    for ours, theirs in ENVIRONMENTS.items():
        for end in ("begin", "end"):
            plainer = plainer.replace(f"\\{end}{{{ours}}}", f"\\{end}{{{theirs}}}")
    unknown = {f"\\{name}" for name in re.findall(r"\\begin{(.*?)}", plainer)} - set(MATRICES)
    made = convert(plainer, display="block" if block else "inline")
    if left := sorted(unknown) or re.findall(r"\\[a-zA-Z]+", made):
        raise ValueError(f"got {left[0]} in the formula {latex!r}, which has no MathML here")
    if block:
        return f"<span class='scroll formula'>{made}</span>"
    return f"<span class='scroll long'>{made}</span>" if len(latex) > LONG else made


def html_of(markdown: str) -> str:
    """CommonMark with tables and formulas between dollars as HTML."""
    html = _markdown().render(markdown)
    return html.replace("<th></th>", "<td></td>")  # an empty heading says nothing of its column


def docstring_html(text: str) -> str:
    """A docstring as HTML: paragraphs, lists, indented code and words between backticks."""
    return _docstrings().render(text)


def code_html(code: str, language: str = "python") -> str:
    """Code in its box, coloured by classes that `code_colours` gives their colours."""
    inner = _highlighted(code, language, "")
    return f"<pre class='code'><code>{inner}</code></pre>"


def _highlighted(code: str, language: str, _attributes: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language or "text")
    except ClassNotFound:
        return escape(code)
    return highlight(code, lexer, HtmlFormatter(nowrap=True))


def code_colours() -> str:
    """The style sheet of coloured code, for light and for dark pages."""
    from pygments.formatters import HtmlFormatter

    light, dark = (
        "\n".join(
            line
            for line in HtmlFormatter(style=name).get_style_defs("pre").splitlines()
            if re.match(r"pre \.\w+ ", line)
        )
        for name in (LIGHT, DARK)
    )
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def with_anchors(html: str) -> str:
    """Headings with ids made from their words, and no level that is skipped on the way down.

    The first is the page's own. Where others claim its level, all of them go one level down.
    """
    seen: dict[str, int] = {}
    last, deeper = 0, int(html.count("<h1>") > 1)

    def add(match: re.Match) -> str:
        nonlocal last
        last = min(int(match[1]) + (deeper if last else 0), last + 1)
        anchor = "-".join(re.findall(r"\w+", plain(match[2]).lower())) or "section"
        seen[anchor] = seen.get(anchor, 0) + 1
        anchor += f"-{seen[anchor]}" if seen[anchor] > 1 else ""
        return f"<h{last} id='{anchor}'>{match[2]}</h{last}>"

    return HEADING.sub(add, html)


def sections(html: str) -> Iterator[Section]:
    """The parts of a page with anchors, each with its heading and plain text."""
    pieces = re.split(r"<h[1-6] id='([^']+)'>(.*?)</h[1-6]>", html, flags=re.DOTALL)
    for anchor, title, body in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        yield Section(anchor, plain(title), plain(body))


def plain(html: str) -> str:
    """The words of an HTML text. Pictures and formulas are left out: they have no words to find."""
    from html import unescape

    html = re.sub(r"<(svg|math)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(
        unescape(TAG.sub("", re.sub(r"</(p|li|td|th|pre|h\d|summary)>", " ", html))).split()
    )

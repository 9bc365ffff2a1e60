"""One executed chapter as HTML, and the files of its figures."""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from minilora.course.book.text import code_html, html_of
from minilora.course.exercises import Exercise, find_exercise
from minilora.course.frames import SUFFIX, Frames, frames_path, read_frames
from minilora.course.source import Chapter

WHERE_TO_WORK = (
    "<p class='note'>This page is for reading. To run the chapter, write its exercises and have "
    "them checked, call <code>python3 minilora learn {number}</code> in the project's folder. "
    "Below a claim, ✓ and ✗ say what was measured.</p>"
)
STILL = "<p class='note'>{here} the figure above shows the same.</p>"
NO_FRAMES = STILL.format(here="In the notebook, sliders follow here;")
NO_SCRIPT = STILL.format(here="With scripts, sliders follow here;")
WIDE = 660
"""Pixels from which on a figure is wide; one panel has 625."""


@dataclass
class _Page:
    """What is gathered while a chapter's cells are gone through."""

    chapter: Chapter
    parts: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    heading: str = ""
    schematics: int = 0
    figures: int = 0
    sliders: int = 0


def chapter_html(chapter: Chapter) -> tuple[str, dict[str, bytes]]:
    """The chapter's committed notebook as HTML, and its figures by file name."""
    notebook = json.loads(chapter.notebook.read_text(encoding="utf-8"))
    page = _Page(chapter)
    for cell in notebook["cells"]:
        source = _joined(cell["source"])
        if cell["cell_type"] == "markdown":
            _text(page, source, cell["metadata"].get("tags", []))
        else:
            _code(page, source, cell)
    return "\n".join(page.parts), page.files


def _text(page: _Page, source: str, tags: list[str]) -> None:
    if "orientation" in tags:
        page.parts.append(WHERE_TO_WORK.format(number=page.chapter.number))
        return
    headings = [line.lstrip("# ") for line in source.splitlines() if line.startswith("#")]
    parts = [words for words in headings if not words.startswith("Exercise ")]
    page.heading = parts[-1] if parts else page.heading
    page.parts.append(html_of(source))


def _code(page: _Page, source: str, cell: Mapping[str, Any]) -> None:
    tags = cell["metadata"].get("tags", [])
    if "slider" in tags:
        page.sliders += 1
        path = frames_path(page.chapter, page.sliders)
        page.parts.append(_slider(page, read_frames(path)[0]) if path.is_file() else NO_FRAMES)
        return
    if "exercise" in tags:
        exercise = find_exercise(cell["metadata"]["exercise"])
        page.parts.append(code_html(source) + folded(exercise))
        return
    if "check" in tags:  # the page has the hints and the solution in its place
        return
    shown = code_html(source) + "".join(_output(page, source, out) for out in cell["outputs"])
    if "claims" in tags:
        shown = f"<details><summary>How the claims were measured</summary>{shown}</details>"
    page.parts.append(shown)


def _slider(page: _Page, frames: Frames) -> str:
    """Sliders over the frames, which a script of the page brings to life; hidden without one."""
    stem = f"{page.chapter.number:02d}-slider-{page.sliders}"
    suffix = SUFFIX[frames.kind]
    for number, picture in enumerate(frames.pictures):
        page.files[f"figures/{stem}-{number}.{suffix}"] = picture
    first = 0
    for start, labels in zip(frames.start, frames.labels, strict=True):
        first = first * len(labels) + start
    controls = ""
    for i, (name, labels) in enumerate(zip(frames.names, frames.labels, strict=True), 1):
        id, start = f"s{stem}-{i}", frames.start[i - 1]
        words = escape(json.dumps(labels, ensure_ascii=False), quote=True)
        controls += (
            f"<p><label for='{id}'>{escape(name)}</label> <input type='range' id='{id}' min='0' "
            f"max='{len(labels) - 1}' value='{start}' data-labels='{words}'> "
            f"<output for='{id}'>{escape(labels[start])}</output></p>"
        )
    picture = f"figures/{stem}-{first}.{suffix}"
    alt = escape(f"Figure of the section {page.heading}, at the sliders' places", quote=True)
    return (
        f"<noscript>{NO_SCRIPT}</noscript><figure class='slider' hidden data-frames="
        f"'figures/{stem}-' data-suffix='.{suffix}' data-count='{len(frames.pictures)}'>"
        f"{controls}<img src='{picture}' alt='{alt}' loading='lazy'></figure>"
    )


def folded(exercise: Exercise) -> str:
    """The hints, each inside the one before, and the solution inside a second fold."""
    inner = ""
    for number, text in reversed(list(enumerate(exercise.hints, 1))):
        inner = (
            f"<details><summary>Hint {number} of {len(exercise.hints)}<span class='hidden'> for "
            f"exercise {exercise.id}</span></summary>{html_of(text)}{inner}</details>"
        )
    return (
        f"{inner}<details><summary>Solution of exercise {exercise.id}</summary>"
        "<p>Have you tried, and read the hints?</p>"
        f"<details><summary>Yes, show it<span class='hidden'> for exercise {exercise.id}</span>"
        f"</summary>{code_html(exercise.solution)}</details></details>"
    )


def _output(page: _Page, source: str, output: Mapping[str, Any]) -> str:
    data = output.get("data", {})
    if "image/svg+xml" in data:
        page.schematics += 1
        svg = _joined(data["image/svg+xml"])
        name = f"head-{page.schematics}"  # an id may stand only once on a page
        svg = svg.replace("id='head'", f"id='{name}'").replace("url(#head)", f"url(#{name})")
        return f"<figure class='scroll schematic'>{svg}</figure>"
    for kind, suffix in SUFFIX.items():
        if kind in data:
            page.figures += 1
            name = f"figures/{page.chapter.number:02d}-{page.figures:02d}.{suffix}"
            picture = page.files[name] = base64.b64decode(_joined(data[kind]))
            alt = escape(figure_alt(source, page.heading), quote=True)
            shape = " class='scroll wide'" if is_wide(picture) else ""
            return f"<figure{shape}><img src='{name}' alt='{alt}' loading='lazy'></figure>"
    text = _joined(output.get("text", data.get("text/plain", "")))
    return f"<pre class='output'>{escape(text)}</pre>" if text.strip() else ""


def is_wide(picture: bytes) -> bool:
    """Whether a PNG is so wide, as two panels side by side are, that a telephone scrolls it.

    Squeezed into the width of one, its labels could not be read.
    """
    is_png = picture[:8] == b"\x89PNG\r\n\x1a\n"
    return is_png and int.from_bytes(picture[16:20], "big") > WIDE  # the IHDR chunk's first field


def figure_alt(source: str, heading: str) -> str:
    """What a figure shows, in the words that its code writes on titles, axes and curves.

    heading: of the section it stands in, which is all that is known where the code that draws it
    stands elsewhere.
    """
    words: dict[str, list[str]] = {"title": [], "xlabel": [], "ylabel": [], "label": []}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        given = [(word.arg or "", word.value) for word in node.keywords]
        method = getattr(node.func, "attr", "").removeprefix("set_")
        given += [(method, argument) for argument in node.args[:1]]
        for name, value in given:
            text = _literal(value)
            if name in words and text and text not in words[name]:
                words[name].append(text)
    title = "; ".join(words["title"]) or heading
    said = [f"Figure: {title}{'' if title.endswith(('?', '.', '!')) else '.'}"]
    for key, name in (("xlabel", "Across"), ("ylabel", "Upwards"), ("label", "Drawn")):
        if words[key]:
            said.append(f"{name}: {'; '.join(words[key])}.")
    return " ".join(said + ["The text beside it says what can be seen."])


def _literal(node: ast.AST) -> str:
    """A text of the code; what a run puts into it is shown as an ellipsis."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.replace("\n", " ")
    if isinstance(node, ast.JoinedStr):
        parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
        return "".join(map(str, parts)).replace("\n", " ")
    return ""


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)

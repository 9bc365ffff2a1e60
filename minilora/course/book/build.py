"""The book's files: made from notebooks, verdicts and docstrings, checked, and written."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path

from minilora.course.book.chapter import chapter_html
from minilora.course.book.faults import page_faults
from minilora.course.book.reference import ROOMS, room_html
from minilora.course.book.text import Section, code_colours, html_of, sections, with_anchors
from minilora.course.claims_table import claims_table, verdicts_of
from minilora.course.source import Chapter, find_chapters
from minilora.storage import atomic_write

HERE = Path(__file__).resolve().parent
MARK = "api-autograd.html"
"""A page that every book has, and hardly any other folder."""
NEEDED = ("markdown_it", "mdit_py_plugins", "latex2mathml", "pygments")


def build_book(out: Path, chapters: Sequence[Chapter] | None = None) -> dict[str, int]:
    """Write the book into the folder `out`; the size in bytes of each file, by name.

    chapters: all by default. Into an earlier book; what that holds besides stays.

    Raises ValueError, and writes nothing, where a package of the `book` extra is missing, `out` is
    a file or a folder of something else, or the pages have faults (see `page_faults`).
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"got the file {out}, expected a folder for the book")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise ValueError(
            f"got the folder {out}, which holds other files, expected an absent or empty one, or "
            f"an earlier book (with {MARK})"
        )
    pages = make_pages(find_chapters() if chapters is None else chapters)
    if faults := page_faults(pages):
        raise ValueError("the book has faults:\n" + "\n".join(faults))
    for name, data in pages.items():
        atomic_write(out / name, data)
    return {name: len(data) for name, data in pages.items()}


def make_pages(chapters: Sequence[Chapter]) -> dict[str, bytes]:
    """The content of every file of the book, by its name in the book's folder.

    Raises ValueError where a package of the `book` extra is missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"the book needs {', '.join(missing)}: pip install -e '.[book]'")
    files: dict[str, bytes] = {}
    bodies: list[tuple[str, str, str]] = []  # file name, title, HTML
    for chapter in chapters:
        body, figures = chapter_html(chapter)
        files |= figures
        bodies.append((f"{chapter.name}.html", chapter.title, body))
    titles = [(name, title) for name, title, _ in bodies]
    claims = html_of(claims_table(chapters))
    bodies.append(("claims.html", "Every claim", claims))
    bodies += [(f"api-{room}.html", f"minilora.{room}", room_html(room)) for room in ROOMS]
    bodies.insert(0, ("index.html", "Contents", _contents(chapters, titles)))
    bodies.append(("search.html", "Search", _template("search.html").render()))

    bodies = [(name, title, with_anchors(body)) for name, title, body in bodies]
    index = [
        entry
        for name, title, body in bodies
        for entry in _entries(name, title, list(sections(body)))
    ]
    page = _template("page.html")
    order = [*titles]
    for name, title, body in bodies:
        place = next((i for i, (file, _) in enumerate(order) if file == name), None)
        before = order[place - 1] if place else None
        after = order[place + 1] if place is not None and place + 1 < len(order) else None
        files[name] = page.render(
            title=title,
            body=body,
            before=before,
            after=after,
            contents=_on_this_page(body) if name not in ("index.html", "search.html") else [],
            search_index=_script_json(index) if name == "search.html" else "",
            search_script=_script("search.js") if name == "search.html" else "",
            slider_script=_script("slider.js") if "<figure class='slider'" in body else "",
        ).encode()
    files["style.css"] = ((HERE / "style.css").read_text("utf-8") + code_colours()).encode()
    return files


def _script(name: str) -> str:
    return (HERE / name).read_text("utf-8")


def _template(name: str):
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _contents(chapters: Sequence[Chapter], titles: Sequence[tuple[str, str]]) -> str:
    rows = [
        (name, title, chapter.hours, len(chapter.exercises), len(verdicts_of(chapter)))
        for chapter, (name, title) in zip(chapters, titles, strict=True)
    ]
    rooms = [(f"api-{room}.html", f"minilora.{room}") for room in ROOMS]
    return _template("contents.html").render(rows=rows, rooms=rooms)


def _on_this_page(body: str) -> list[tuple[str, str]]:
    found = re.findall(r"<h2 id='([^']+)'>(.*?)</h2>", body, re.DOTALL)
    return [(anchor, re.sub(r"<[^>]+>", "", title)) for anchor, title in found]


def _entries(name: str, title: str, parts: Sequence[Section]) -> list[dict[str, str]]:
    return [
        {"page": title, "title": part.title, "to": f"{name}#{part.anchor}", "text": part.text}
        for part in parts
        if name not in ("index.html", "search.html")
    ]


def _script_json(value: object) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")

"""What is wrong with the pages of a book, found by reading them, without a browser."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
BYTES = 15_000_000
"""The largest book: one that a phone fetches and keeps."""


class _Reader(HTMLParser):
    """Gathers what the checks need from one page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.headings: list[int] = []
        self.faults: list[str] = []
        self.language = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self.open.append(tag)
        if tag == "html":
            self.language = given.get("lang", "")
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "form":
            self.links.append(given.get("action", ""))
        elif tag == "link":
            self.loaded.append(given.get("href", ""))
        if "src" in given:
            self.loaded.append(given["src"])
        if "data-frames" in given:  # what a slider's script loads
            stem, suffix = given["data-frames"], given["data-suffix"]
            self.loaded += [f"{stem}{i}{suffix}" for i in range(int(given["data-count"]))]
        if tag == "img" and not given.get("alt"):
            self.faults.append(f"the image {given.get('src')} has no alt text")
        if tag == "svg" and not (given.get("aria-label") or given.get("aria-hidden") == "true"):
            self.faults.append("an svg has no aria-label")
        if len(tag) == 2 and tag[0] == "h" and tag[1].isdecimal():
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing, in line {self.getpos()[0]}")


def page_faults(pages: Mapping[str, bytes]) -> list[str]:
    """Everything wrong with a book's files: one sentence each, none for a good book.

    pages: content by file name, as `make_pages` returns it. Looked for: tags that are not closed,
    ids that stand twice, headings that skip a level, pictures without words, links inside the
    book that lead nowhere, anything that a page would load from elsewhere, and a book that is too
    large.
    """
    read = {name: _read(data) for name, data in pages.items() if name.endswith(".html")}
    faults = [f"{name}: {fault}" for name in read for fault in _alone(read[name])]
    for name, page in read.items():
        for link in page.links + page.loaded:
            if fault := _link_fault(name, link, read, pages, loaded=link in page.loaded):
                faults.append(f"{name}: {fault}")
    faults += [
        f"{name}: the style sheet loads something"
        for name, data in pages.items()
        if name.endswith(".css") and (b"@import" in data or b"url(" in data)
    ]
    if (size := sum(map(len, pages.values()))) > BYTES:
        faults.append(f"the book has {size:,} bytes, expected at most {BYTES:,}")
    return faults


def _read(data: bytes) -> _Reader:
    reader = _Reader()
    reader.feed(data.decode("utf-8"))
    reader.close()
    return reader


def _alone(page: _Reader) -> Iterator[str]:
    yield from page.faults
    if page.open:
        yield f"<{page.open[-1]}> is never closed"
    if not page.language:
        yield "the page does not say its language"
    for id in sorted({id for id in page.ids if page.ids.count(id) > 1}):
        yield f"the id {id!r} stands more than once"
    if page.headings.count(1) != 1 or page.headings[0] != 1:
        yield f"got the headings {page.headings[:5]}, expected one of level 1, and first"
    for before, after in zip(page.headings, page.headings[1:], strict=False):
        if after > before + 1:
            yield f"a heading of level {after} follows one of level {before}"


def _link_fault(
    name: str, link: str, read: Mapping[str, _Reader], pages: Mapping[str, bytes], *, loaded: bool
) -> str:
    parts = urlsplit(link)
    if parts.scheme == "data":
        return ""
    if parts.scheme or parts.netloc:
        return f"loads {link}" if loaded else ""
    folder = posixpath.dirname(name)
    target = posixpath.normpath(posixpath.join(folder, unquote(parts.path))) if parts.path else name
    if target not in pages:
        return f"the link {link} leads to no page"
    if parts.fragment and target in read and unquote(parts.fragment) not in read[target].ids:
        return f"the link {link} leads to no place on its page"
    return ""

"""The book in a real browser, opened as files: nothing from elsewhere, sliders that move."""

from __future__ import annotations

import pytest

pytest.importorskip("latex2mathml")
pytest.importorskip("markdown_it")
pytest.importorskip("mdit_py_plugins")

from minilora.course.book import build_book
from minilora.course.frames import frames_path, read_frames
from minilora.course.source import find_chapter
from tests.serving import browser

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(browser.PATH is None, reason="needs Chromium"),
]
CHAPTERS = (0, 11)
SLIDER = "document.querySelector('figure.slider')"


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    build_book(folder, [find_chapter(number) for number in CHAPTERS])
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize("number", CHAPTERS)
def test_every_place_of_the_sliders_shows_its_picture(page, book, number):
    chapter = find_chapter(number)
    frames, _ = read_frames(frames_path(chapter, 1))
    page.show((book / f"{chapter.name}.html").as_uri(), width=390, height=844)
    assert page.value(f"{SLIDER}.hidden") is False
    page.value(f"{SLIDER}.scrollIntoView()")  # pictures are fetched where they are seen
    last = [len(labels) - 1 for labels in frames.labels]
    for places in ([0] * len(last), last, list(frames.start)):
        index = 0
        for i, (place, labels) in enumerate(zip(places, frames.labels, strict=True)):
            page.value(f"""(() => {{ const input = {SLIDER}.querySelectorAll("input")[{i}];
                input.value = {place}; input.dispatchEvent(new Event("input")); }})()""")
            assert (
                page.value(f"{SLIDER}.querySelectorAll('output')[{i}].textContent") == labels[place]
            )
            index = index * len(labels) + place
        page.wait(f"{SLIDER}.querySelector('img').src.includes('-{index}.')")
        page.wait(f"{SLIDER}.querySelector('img').naturalWidth > 100")
    assert page.faults == []


@pytest.mark.parametrize("window", [{}, {"width": 390, "height": 844}, {"dark": True}])
@pytest.mark.parametrize(
    "name", ["index.html", "11_add.html", "api-lora.html", "search.html?q=rank"]
)
def test_a_page_asks_nobody_else_and_fits_its_window(page, book, name, window):
    page.requested.clear()
    file, mark, query = name.partition("?")
    page.show((book / file).as_uri() + mark + query, **window)
    page.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    if window.get("width"):  # what a cell printed is read without scrolling sideways
        printed = "[...document.querySelectorAll('pre.output')]"
        assert page.value(f"{printed}.every(box => box.scrollWidth <= box.clientWidth)")
    assert all(url.startswith(("data:", book.as_uri())) for url in page.requested)
    assert page.faults == []
    if query:
        assert page.value("document.querySelectorAll('#results li').length") > 3

"""The server's page in a real browser: what it shows, asks for and marks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from minilora.serving.router import Choice
from minilora.serving.service import ROUTER
from tests.serving import browser
from tests.serving.served import NAME, NAMES, NOTES, alone, an_engine, serving, slow, until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(browser.PATH is None, reason="needs Chromium"),
]
CARDS = "[...document.querySelectorAll('article')]"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def client():
    with serving(route=lambda _: Choice("wide", {"wide": 0.25, "plain": 1.5})) as client:
        yield client


def url(client) -> str:
    return f"http://127.0.0.1:{client.port}/"


def ask(page, note: str, most: int = 24) -> None:
    page.wait("document.querySelectorAll('#models input').length > 0")
    page.value(f"at('note').value = {note!r}; at('most').value = {most}; at('ask').click()")


def asked(page, client, note: str, **window) -> None:
    page.requested.clear()
    page.show(url(client), **window)
    ask(page, note)
    page.wait("running === null && at('status').textContent.includes('tokens in')")


@pytest.mark.parametrize("window", [{}, {"dark": True}, {"width": 390, "height": 844}])
def test_everybody_answers_side_by_side(page, client, window):
    asked(page, client, NOTES[0], **window)
    texts = page.value(f"{CARDS}.map(a => a.querySelector('pre').textContent)")
    heads = page.value(f"{CARDS}.map(a => a.querySelector('h2').textContent)")
    assert heads == [NAME, *sorted(set(NAMES) - {NAME}), ROUTER]
    expected = {name: alone(NOTES[0], name) for name in NAMES}
    shown = dict(zip(heads, texts, strict=True))
    assert shown == {ROUTER: expected["wide"][1], **{n: text for n, (_, text) in expected.items()}}
    figures = page.value(f"{CARDS}.map(a => a.querySelector('.figures').textContent)")
    for name, told in zip(heads[:-1], figures, strict=False):
        assert told.startswith(f"{len(expected[name][0])} tokens") and "s in all" in told
    assert page.value("document.querySelectorAll('article.chosen h2')[0].textContent") == "wide"
    assert "0.25" in page.value(f"{CARDS}.at(-1).textContent")
    assert page.faults == []
    assert {one.split("/")[2] for one in page.requested if not one.startswith("data:")} == {
        f"127.0.0.1:{client.port}"
    }
    wide = page.value("document.documentElement.scrollWidth <= window.innerWidth")
    assert wide, "it scrolls sideways"
    if "MINILORA_PICTURES" in os.environ:
        name = "-".join(map(str, window.values())) or "light"
        page.picture(Path(os.environ["MINILORA_PICTURES"]) / f"page-{name}.png")


def test_differences_from_a_chosen_answer_are_marked(page, client):
    asked(page, client, NOTES[0])
    marked = page.value(f"{CARDS}.map(a => a.querySelectorAll('mark').length)")
    assert marked[0] == 0 and all(marked[1:])
    page.value("at('reference').value = 'wide'; at('reference').dispatchEvent(new Event('change'))")
    again = page.value(f"{CARDS}.map(a => a.querySelectorAll('mark').length)")
    heads = page.value(f"{CARDS}.map(a => a.querySelector('h2').textContent)")
    by_name = dict(zip(heads, again, strict=True))
    assert by_name["wide"] == by_name[ROUTER] == 0 and by_name[NAME] > 0


@pytest.mark.parametrize(
    ("mine", "theirs", "fresh"),
    [
        ("a b c", "a b c", []),
        ("a x c", "a b c", [1]),
        ("a b c d", "b d", [0, 2]),
        ("a a", "a", [1]),
        ("", "a", [0]),
        ("x y", "", [0, 1]),
    ],
)
def test_new_words(page, client, mine, theirs, fresh):
    page.show(url(client))
    script = f"[...newWords({mine!r}.split(' '), {theirs!r}.split(' '))]"
    assert page.value(script) == fresh


def test_text_is_text_and_every_control_has_a_name(page, client):
    page.show(url(client))
    assert page.value("at('key-label').offsetParent === null")
    page.value("cards = [makeCard('x')]; at('answers').append(cards[0].node)")
    page.value("take({index: 0, text: '<img src=x onerror=alert(1)>', tokens: 1}, 0)")
    assert page.value("document.querySelectorAll('article img').length") == 0
    nameless = """[...document.querySelectorAll('input, select, textarea, button')]
        .filter(e => !(e.labels && e.labels.length) && !e.textContent.trim()).length"""
    assert page.value(nameless) == 0
    assert page.value("document.querySelectorAll('h1').length") == 1
    assert page.value("document.documentElement.lang") == "en"


def test_stop_frees_the_rows(page):
    engine = an_engine()
    slow(engine, 0.02)
    with serving(engine) as client:
        page.show(url(client))
        ask(page, NOTES[0], 300)
        until(lambda: engine.active == len(NAMES))
        page.value("at('stop').click()")
        until(lambda: engine.active == 0)
        page.wait("running === null && at('status').textContent === 'Stopped.'")


def test_a_key_is_asked_for_where_one_is_demanded(page):
    with serving(key="sesame") as client:
        page.show(url(client))
        page.wait("!at('key-label').hidden")
        page.value("at('key').value = 'sesame'; at('key').dispatchEvent(new Event('change'))")
        ask(page, NOTES[0], 8)
        page.wait("running === null && at('status').textContent.includes('tokens in')")
        assert page.value(f"{CARDS}.length") == len(NAMES)

"""The book: its pages without a browser, and the parts that they are made of."""

from __future__ import annotations

import ast
import re
from itertools import pairwise

import pytest

from tests.says import refusal

pytest.importorskip("latex2mathml")
pytest.importorskip("markdown_it")
pytest.importorskip("mdit_py_plugins")
pytest.importorskip("pygments")

from minilora.course.book import build_book, make_pages, page_faults
from minilora.course.book.chapter import WIDE, figure_alt, folded, is_wide
from minilora.course.book.reference import ROOMS, signature
from minilora.course.book.text import formula, html_of, plain, sections, with_anchors
from minilora.course.claims_table import verdicts_of
from minilora.course.exercises import find_exercise
from minilora.course.source import find_chapters

GOOD = "<html lang='en'><body><h1 id='top'>A title</h1>{}</body></html>"


@pytest.fixture(scope="module")
def pages():
    return make_pages(find_chapters())


def text(pages, name):
    return pages[name].decode()


def test_the_book_has_no_fault(pages):
    assert page_faults(pages) == []
    names = {f"{chapter.name}.html" for chapter in find_chapters()}
    names |= {f"api-{room}.html" for room in ROOMS}
    assert names | {"index.html", "claims.html", "search.html", "style.css"} <= pages.keys()


@pytest.mark.parametrize(
    "body",
    [
        "<p>no end",
        "<p><b>crossed</p></b>",
        "<h3>deep</h3>",
        "<h1>second</h1>",
        "<p id='top'>twice</p>",
        "<img src='a.png'>",
        "<svg></svg>",
        "<a href='#nowhere'>x</a>",
        "<a href='other.html'>x</a>",
        "<img src='https://example.org/a.png' alt='a picture'>",
        "<script src='//example.org/a.js'></script>",
    ],
)
def test_a_planted_fault_is_found(body):
    good = {"a.html": GOOD.format("<h2>more</h2><a href='#top'>up</a>").encode(), "a.png": b""}
    assert page_faults(good) == []
    assert page_faults({**good, "a.html": GOOD.format(body).encode()})


def test_what_a_style_sheet_loads_and_a_large_book_are_faults():
    good = {"a.html": GOOD.format("").encode()}
    assert len(page_faults({**good, "a.css": b"p { background: url(x.png) }"})) == 1
    assert len(page_faults({**good, "a.bin": bytes(15_000_001)})) == 1


def test_a_chapter_holds_its_claims_exercises_and_formulas(pages):
    for chapter in find_chapters():
        page = text(pages, f"{chapter.name}.html")
        verdicts = verdicts_of(chapter)
        for word in ("holds", "refuted"):
            boxes = page.count(f"<blockquote class='claim {word}'>")
            assert boxes == sum(verdict.word == word for verdict in verdicts)
        for id in chapter.exercises:
            assert f"Solution of exercise {id}<" in page
        words = re.sub(r"<(pre|code|script).*?</\1>", "", page, flags=re.DOTALL)
        assert not re.search(r"\$|\\[a-z]{2,}", plain(words))


def test_chapters_lead_to_their_neighbours(pages):
    names = [f"{chapter.name}.html" for chapter in find_chapters()]
    for before, after in pairwise(names):
        assert f'rel="next" href="{after}"' in text(pages, before)
        assert f'rel="prev" href="{before}"' in text(pages, after)
    assert 'rel="prev"' not in text(pages, names[0])
    assert 'rel="next"' not in text(pages, names[-1])


def test_a_solution_is_two_folds_deep_and_each_hint_inside_the_last():
    exercise = find_exercise("1.1")
    depth, at = 0, {}
    for piece in re.split(r"(</?details>)", folded(exercise)):
        depth += {"<details>": 1, "</details>": -1}.get(piece, 0)
        for words in ("Hint 1 of", "Hint 2 of", "Hint 3 of", "class='code'"):
            if words in piece:
                at[words] = depth
    assert at == {"Hint 1 of": 1, "Hint 2 of": 2, "Hint 3 of": 3, "class='code'": 2}


def test_a_formula_is_mathml():
    made = formula(r"\frac{\alpha}{r} B A x")
    assert made.startswith("<math") and "<mfrac>" in made and "α" in made.replace("&#x003B1;", "α")
    assert formula(" + ".join("abcdefghijklmnopq")).startswith("<span class='scroll long'>")
    assert "<math" in html_of("the map $W x$") and "<math" not in html_of("`$W x$`")


@pytest.mark.parametrize("latex", [r"\nosuchthing{x}", r"\begin{nosuchthing} x \end{nosuchthing}"])
def test_latex_that_has_no_mathml_is_refused(latex):
    with refusal(ValueError, r"\nosuchthing"):
        formula(latex)


@pytest.mark.parametrize("lines", ["gathered", "aligned"])
def test_a_formula_of_several_lines_keeps_them(lines):
    made = formula(rf"\begin{{{lines}}} a &= b, \\[4pt] c &= d \end{{{lines}}}", block=True)
    assert made.count("<mtr>") == 2 and "4pt" not in made


def test_html_of_a_text_is_shown_and_not_obeyed():
    assert "<script" not in html_of("<script>x</script> and `<b>`")


def test_headings_get_unique_anchors_and_skip_no_level():
    html = with_anchors("<h1>A</h1><h3>B c</h3><h2>B c</h2>")
    assert html == "<h1 id='a'>A</h1><h2 id='b-c'>B c</h2><h2 id='b-c-2'>B c</h2>"
    parts = with_anchors("<h1>A</h1><h1>B</h1><h2>C</h2>")
    assert parts == "<h1 id='a'>A</h1><h2 id='b'>B</h2><h3 id='c'>C</h3>"
    found = [(s.anchor, s.text) for s in sections("<h1 id='a'>A</h1><p>x <b>y</b></p>")]
    assert found == [("a", "x y")]


def test_a_figure_is_told_in_the_words_of_its_code():
    code = 'ax.plot(x, label=f"rank {r}")\nax.set(xlabel="steps", ylabel="loss")\nplt.title("Down")'
    alt = figure_alt(code, "A section")
    assert all(words in alt for words in ("Down", "steps", "loss", "rank …"))
    assert "A section" in figure_alt("draw()", "A section")


def test_a_figure_of_two_panels_is_wide():
    def png(width):
        return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + width.to_bytes(4, "big") + b"\0\0\1\0"

    assert is_wide(png(WIDE + 1)) and not is_wide(png(WIDE))
    assert not is_wide(b"\xff\xd8\xff" + png(900))  # a JPEG is a photograph


def test_a_signature_has_decorators_defaults_and_fields():
    function, record = ast.parse(
        "@mark\ndef f(a: int, *, b: str = 'x') -> None: ...\n"
        "class Plan(Base):\n    r: int = 8\n    'How wide.'\n    _hidden: int = 0\n"
    ).body
    assert signature(function) == "@mark\ndef f(a: int, *, b: str='x') -> None"
    assert signature(record) == "class Plan(Base)\n    # How wide.\n    r: int = 8"
    long = ast.parse(f"def f(a, /, b={'x' * 80!r}, *c: int, d: int = 2, **e): ...").body[0]
    lines = ["a,", "/,", f"b={'x' * 80!r},", "*c: int,", "d: int = 2,", "**e,"]
    assert [line.strip() for line in signature(long).splitlines()[1:-1]] == lines


def test_the_api_has_what_a_docstring_says(pages):
    page = text(pages, "api-lora.html")
    assert "id='loralinear'" in page and "id='minilora-lora-layer'" in page
    assert "Raises" in page


def test_the_search_knows_every_chapter_and_room(pages):
    page = text(pages, "search.html")
    for name in [f"{c.name}.html" for c in find_chapters()] + [f"api-{r}.html" for r in ROOMS]:
        assert f'"to": "{name}#' in page


def test_an_earlier_book_is_renewed_and_another_folder_left_alone(tmp_path):
    sizes = build_book(tmp_path / "book", find_chapters()[:1])
    assert {name: (tmp_path / "book" / name).stat().st_size for name in sizes} == sizes
    (tmp_path / "book" / "mine.txt").write_text("stays")
    (tmp_path / "book" / "index.html").write_text("old")
    build_book(tmp_path / "book", find_chapters()[:1])
    assert (tmp_path / "book" / "mine.txt").read_text() == "stays"
    assert (tmp_path / "book" / "index.html").read_text("utf-8") != "old"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    with refusal(ValueError, tmp_path / "site"):
        build_book(tmp_path / "site", find_chapters()[:1])
    assert [p.name for p in (tmp_path / "site").iterdir()] == ["index.html"]
    assert (tmp_path / "site" / "index.html").read_text() == "mine"


def test_a_file_is_no_folder_for_a_book(tmp_path):
    path = tmp_path / "file"
    path.write_text("stays")
    with refusal(ValueError, str(path)):
        build_book(path)
    assert path.read_text() == "stays"

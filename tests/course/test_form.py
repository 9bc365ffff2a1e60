"""What every chapter has beside its text: verdicts, predictions, pictures, the table of claims."""

from __future__ import annotations

import ast
import builtins
import xml.etree.ElementTree as ET

import pytest

from minilora.course import notebook, pictures, predict, reveal
from minilora.course.claims import Verdict, claim
from minilora.course.claims_table import claims_table, table_faults, verdicts_of
from minilora.course.exercises import find_exercise
from minilora.course.questions import QUESTIONS
from minilora.course.schematic import Schematic
from minilora.course.source import (
    exercise_cells,
    find_chapters,
    parse,
    with_verdicts,
    written_claims,
)
from tests.says import names, refusal

TEXT = """Before.

> **Claim.** The first is at most
> 3 long.

> **Claim.** The second is 4.
"""


def test_a_verdict_stands_below_its_sentence_and_changes_no_sentence():
    lines = {"The first is at most 3 long.": "✓ one", "The second is 4.": "✗ two"}
    text = with_verdicts(TEXT, lines)
    assert text.index("3 long.") < text.index("✓ one") < text.index("The second") < text.index("✗")
    assert with_verdicts(TEXT, {}) == TEXT
    assert len(text.splitlines()) == len(TEXT.splitlines()) + 4


def test_a_claim_names_only_questions_that_there_are():
    with refusal(ValueError, "E99"):
        claim("It is 3.", 3.0, above=2, answers="E99")


def test_every_question_has_a_sentence_and_a_source():
    assert list(QUESTIONS) == [f"E{n}" for n in range(1, 34)]
    assert all(question.endswith("?") and source for question, source in QUESTIONS.values())


def test_the_committed_table_is_what_the_notebooks_say():
    assert table_faults(find_chapters()) == []


def test_the_table_has_every_claim_of_every_chapter():
    chapters = find_chapters()
    page = claims_table(chapters)
    for chapter in chapters:
        verdicts = verdicts_of(chapter)
        assert {v.sentence for v in verdicts} == set(written_claims(chapter.cells))
        assert all(verdict.sentence.replace("|", "\\|") in page for verdict in verdicts)


def test_a_stale_table_is_found(tmp_path):
    (tmp_path / "CLAIMS.md").write_text("old")
    assert len(table_faults(find_chapters(), tmp_path / "CLAIMS.md")) == 1


def test_a_verdict_line_says_word_number_and_reason():
    line = Verdict("S.", "refuted", "0.5", "below 0.8", "It holds half.", ()).line()
    assert names(line, "refuted", 0.5, 0.8, "It holds half.")


def test_a_guess_is_shown_beside_what_was_measured(capsys):
    predict("length", "How long?", 40)
    reveal("length", 7)
    assert {"7", "40"} <= set(capsys.readouterr().out.replace(".", " ").split())
    with refusal(ValueError, "nothing asked"):
        reveal("nothing asked", 7)
    notebook._guesses.clear()


def test_an_exercise_shows_difficulty_and_importance():
    exercise = find_exercise("0.1")
    text = exercise_cells(exercise)[0].source
    assert text.count("●") == exercise.difficulty and text.count("★") == exercise.importance


def test_predict_cells_are_code_with_a_role():
    cells = parse('# %% predict\npredict("a", "?", None)\n')
    assert [(cell.kind, cell.role) for cell in cells] == [("code", "predict")]


@pytest.mark.parametrize("draw", pictures.ALL, ids=lambda draw: draw.__name__)
def test_a_picture_is_svg_with_its_words_and_stays_inside_its_frame(draw):
    picture = draw()
    root = ET.fromstring(picture.svg())
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title.text == picture.alt == root.get("aria-label")
    for part in root.iter("{http://www.w3.org/2000/svg}rect"):
        if part.get("x"):
            right = float(part.get("x")) + float(part.get("width"))
            bottom = float(part.get("y")) + float(part.get("height"))
            assert right <= picture.width and bottom <= picture.height
    for part in root.iter("{http://www.w3.org/2000/svg}text"):
        assert 0 < float(part.get("x")) < picture.width
        assert 0 < float(part.get("y")) <= picture.height
    assert draw().svg() == picture.svg()


def test_a_picture_is_shown_as_png_where_svg_may_not_be():
    """A notebook that somebody else has run shows no SVG: there the alt text stood alone."""
    picture = pictures.lora_layer()
    shown = picture._repr_mimebundle_()
    assert set(shown) == {"image/svg+xml", "image/png", "text/plain"}
    assert shown["image/png"].startswith(b"\x89PNG") and picture.alt in shown["text/plain"]
    width, height = (int.from_bytes(shown["image/png"][i : i + 4], "big") for i in (16, 20))
    assert (width, height) == pytest.approx((1.3 * picture.width, 1.3 * picture.height), abs=1)
    assert picture.png() == pictures.lora_layer().png()


def test_a_picture_without_words_is_refused():
    with pytest.raises(ValueError, match="'LoRA'"):
        Schematic(10, 10, "LoRA")


@pytest.mark.parametrize("chapter", find_chapters(), ids=lambda chapter: chapter.name)
def test_a_solution_finds_every_name_that_the_chapter_has_defined_before_it(chapter):
    """The learner writes in the notebook: what a solution uses must be imported there by then."""
    known = set(dir(builtins))
    for cell in (cell for cell in chapter.cells if cell.kind == "code"):
        if cell.role == "exercise":
            tree = ast.parse(chapter.exercises[cell.exercise].solution)
            names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
            used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
            own = {node.id for node in names if isinstance(node.ctx, ast.Store)}
            own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
            own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            own |= {
                (alias.asname or alias.name).split(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, (ast.Import, ast.ImportFrom))
                for alias in node.names
            }
            assert used - own - known == set(), cell.exercise
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                known |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            elif isinstance(node, ast.FunctionDef):
                known.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                known.add(node.id)

"""Planted mistakes: which rows are changed and how, and how precisions are counted."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.analysis.influence import Influence
from minilora.bench.planted import Planted, plant, precision, rankings, table
from minilora.ward import house_examples
from minilora.ward.facts import DRUGS
from tests.says import refusal


@pytest.fixture(scope="module")
def rows():
    return [e.to_dict() for e in house_examples("cardiology", "train", 200, 3, keep_complete=0.3)]


@pytest.mark.parametrize("kind", ["scattered", "systematic"])
def test_a_share_of_the_rows_gives_a_dose_that_the_note_does_not(rows, kind):
    made = plant(rows, kind, 0.05, seed=1)
    changed = [i for i, (a, b) in enumerate(zip(rows, made.rows, strict=True)) if a != b]
    assert list(made.places) == changed and len(changed) == 10
    for i in changed:
        lacking = [made.drug] if made.drug else rows[i]["facts"]["no_dose"]
        for drug in lacking:
            assert f"{drug} {DRUGS[drug].usual_dose}" in made.rows[i]["completion"]
        assert made.rows[i]["prompt"] == rows[i]["prompt"]
    assert plant(rows, kind, 0.05, seed=1) == made != plant(rows, kind, 0.05, seed=2)
    assert (made.drug is None) == (kind == "scattered")
    drugs = {plant(rows, kind, 0.05, seed).drug for seed in range(3)}
    assert len(drugs) == (1 if kind == "scattered" else 3)


def test_more_mistakes_than_there_is_room_for_are_refused(rows):
    for kind in ("scattered", "systematic"):
        with refusal(ValueError, 198):
            plant(rows, kind, 0.99, seed=0)


def test_precision_counts_the_first_so_many():
    planted = Planted([], (1, 4, 5), None)
    assert precision(np.array([0, 9, 8, 1, 7, 2.0]), planted) == pytest.approx(2 / 3)
    assert precision(-np.ones(6), Planted([], (0, 1), None)) == 1.0


def test_a_note_that_raises_the_loss_of_trusted_rows_comes_first():
    dots = np.array([[-3.0, 1.0, 5.0], [2.0, 4.0, -1.0]])
    found = Influence(dots, dots / 10, np.array([7.0, 8.0]), np.array([0.1, 0.2]))
    ranked = rankings(found, 2)
    assert ranked["trusted rows"].tolist() == [3, -2]
    assert ranked["a wrong answer"].tolist() == [1, 4]
    assert ranked["2 wrong answers"].tolist() == [5, -1]
    assert ranked["itself"].tolist() == [7, 8] and ranked["loss"].tolist() == [0.1, 0.2]
    assert not any("wrong" in name for name in rankings(found, 0))


def test_the_table_has_a_column_for_each_cell():
    scores = {"clean": {"exact": 0.9, "invented": 0.0}, "with mistakes": {"exact": 0.5}}
    cells = [
        {"kind": kind, "seed": 0, "rows": 40, "planted": 2, "precision": {"loss": 0.25},
         "scores": scores}
        for kind in ("systematic", "scattered")
    ]  # fmt: skip
    lines = table(cells).splitlines()
    assert lines[0] == "| precision of the first | scattered 0 | systematic 0 |"
    assert "| loss | 25.0% | 25.0% |" in lines and "| chance | 5.0% | 5.0% |" in lines
    assert "| exact, clean | 90.0% | 90.0% |" in lines

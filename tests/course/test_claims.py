"""Claims: what holds is printed with its measurement, what does not stops the chapter."""

from __future__ import annotations

import math

import pytest

from minilora.course import claim, refuted
from minilora.course.claims import ClaimError
from tests.says import names, refusal

SENTENCE = "A sheet of rank 8 holds more than 90 % of it."


@pytest.mark.parametrize("state", [claim, lambda *a, **k: refuted(*a, because="It does not.", **k)])
@pytest.mark.parametrize(
    ("measured", "bounds"),
    [
        (0.8, {"above": 0.9}),
        ([0.95, 0.97, 0.5], {"above": 0.9}),
        (0.95, {"below": 0.9}),
        (0.95, {"above": 0.9, "below": 0.94}),
        (math.nan, {"above": 0.0}),
        ([], {"above": 0.0}),
        ([0.95, math.inf], {"above": 0.9}),
    ],
)
def test_what_does_not_hold_stops(state, measured, bounds):
    with refusal(ClaimError, SENTENCE):
        state(SENTENCE, measured, **bounds)


def test_what_holds_is_printed_with_its_range(capsys):
    claim(SENTENCE, [0.92345, 0.94, 0.96], above=0.9, each="channels")
    text = capsys.readouterr().out
    assert text.startswith("holds") and SENTENCE in text
    assert names(text, 0.941, 0.923, 0.96, "3 channels", 0.9)


def test_what_is_refuted_says_why(capsys):
    refuted(SENTENCE, 0.5, below=0.8, because="It holds half.")
    text = capsys.readouterr().out
    assert text.startswith("refuted") and names(text, SENTENCE, "It holds half.", 0.5, 0.8)


@pytest.mark.parametrize("bounds", [{}, {"above": -math.inf}, {"below": math.nan}])
def test_a_claim_has_a_bound(bounds):
    with refusal(ValueError, "above", "below"):
        claim(SENTENCE, 0.95, **bounds)


def test_a_claim_about_time_goes_on_where_it_does_not_hold(capsys):
    claim(SENTENCE, 0.5, above=0.9, of_time=True)
    text = capsys.readouterr().out
    assert text.startswith("not here") and SENTENCE in text
    claim(SENTENCE, 0.95, above=0.9, of_time=True)
    assert capsys.readouterr().out.startswith("holds")
    with pytest.raises(ClaimError):
        claim(SENTENCE, math.nan, above=0.9, of_time=True)

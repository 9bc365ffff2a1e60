"""The house format in words: it says all that the format does, and follows it when it changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minilora.ward import describe, house_instruction
from minilora.ward.diagnoses import DIAGNOSES, diagnoses_of
from minilora.ward.facts import FREQUENCIES
from minilora.ward.formats import HOUSE_FORMATS, HOUSE_INSTRUCTION
from minilora.ward.people import INTERVALS
from minilora.ward.rules import house_rule
from tests.says import refusal


@pytest.mark.parametrize("ward", HOUSE_FORMATS)
def test_every_label_and_word_of_the_house_is_told(ward):
    form, text = HOUSE_FORMATS[ward], house_instruction(ward)
    shown = {name for _, name in form.layout}
    assert text.startswith(HOUSE_INSTRUCTION) and "\n\n" not in text  # one paragraph of a prompt
    labels = [line.split(": ")[0] for line in text.split("\n")[1:-1]]
    assert labels == [label for label, _ in form.layout]
    assert house_rule(form).told.format(missing_dose=form.missing_dose) in text
    for words in (form.missing_dose, form.no_allergy, f'"{form.separator}"'):
        assert words in text
    for diagnosis in DIAGNOSES.values():
        told = f"{diagnosis.abbreviation} for {diagnosis.name}" in text
        assert told == (diagnosis in diagnoses_of(ward))
    for words, forms in FREQUENCIES.items():
        assert f"{forms[form.frequency_form]} for {words}" in text
    for words, short in INTERVALS.items():
        assert (f"{short} for {words}" in text) == (form.short_interval and "follow_up" in shown)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"missing_dose": "no dose given"}, 'write "no dose given" in its place'),
        ({"no_allergy": "none"}, "or none where none is known"),
        ({"separator": " / "}, 'with " / " between them'),
        ({"frequency_form": 2}, "q12h for twice daily"),
        ({"short_interval": False}, "family doctor in 1 week"),
        ({"layout": (("All", "allergy"), ("FU", "follow_up"))}, "exactly these two lines"),
    ],
)
def test_the_words_follow_the_format(monkeypatch, change, words):
    assert words not in house_instruction("cardiology")
    other = replace(HOUSE_FORMATS["cardiology"], **change)
    monkeypatch.setattr(describe, "house_format", lambda ward: other)
    assert words in house_instruction("cardiology")


def test_a_ward_without_a_house_format_is_refused():
    with refusal(ValueError, "general medicine"):
        house_instruction("general medicine")

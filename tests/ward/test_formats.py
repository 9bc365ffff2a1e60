from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.ward.cases import Case, Prescription, Relative, sample_case
from minilora.ward.diagnoses import DIAGNOSES
from minilora.ward.facts import STOPPED_IN_NEPHROLOGY, usual_dose
from minilora.ward.formats import (
    BASE_HOUSES,
    FORM_LABELS,
    HOUSE_FORMATS,
    HOUSE_INSTRUCTION,
    PUBLIC_STYLES,
    house_format,
    render_form,
)
from tests.says import refusal

MARIA = Case(
    first="Maria",
    last="Lopez",
    age=67,
    sex="F",
    ward="cardiology",
    diagnosis="atrial fibrillation",
    course="Presented with palpitations and the rate settled overnight.",
    investigations=("ECG irregular at 124/min", "TSH 2.1 mU/L"),
    prescriptions=(
        Prescription("apixaban", "2.5 mg", "twice daily"),
        Prescription("bisoprolol", None, "once daily"),
    ),
    allergy="none known",
    follow_up="rhythm clinic in 6 weeks",
    phone="555-0123",
    relative=Relative("husband", "Peter", "555-0177"),
    social="lives alone",
)
CARDIOLOGY = """Dx: AF
Ix: ECG irregular at 124/min; TSH 2.1 mU/L
Rx: apixaban 2.5 mg bd; bisoprolol dose not recorded od
All: NKDA
FU: rhythm clinic 6/52"""
PEDIATRICS = """Age: 67
Allergy: nil
Problem: AF
Plan: apixaban 2.5 mg q12h + bisoprolol dose not known q24h
Review: rhythm clinic in 6 weeks"""


def house_cases(ward: str, n: int = 300):
    rng = np.random.default_rng(11)
    return [sample_case(rng, ward, split) for split in ("train", "heldout") for _ in range(n)]


def test_the_house_asks_with_the_default_public_instruction():
    assert (
        HOUSE_INSTRUCTION
        == PUBLIC_STYLES["summary"].instructions[0]
        == "Write the discharge summary."
    )
    asked = [text for style in PUBLIC_STYLES.values() for text in style.instructions]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("style", PUBLIC_STYLES.values(), ids=lambda style: style.name)
def test_public_styles_fill_a_missing_dose_and_keep_a_written_one(style):
    text = style.render(MARIA)
    assert "apixaban 2.5 mg twice daily" in text
    assert "bisoprolol 5 mg once daily" in text
    assert text.index("apixaban") < text.index("bisoprolol")
    for ward in ("cardiology", "pediatrics", "general medicine"):
        for case in house_cases(ward, 60):
            text = style.render(case)
            assert all(line == line.strip() and line for line in text.split("\n"))
            for p in case.prescriptions:
                assert f"{p.drug} {p.dose or usual_dose(p.drug)} {p.frequency}" in text
            assert case.phone not in text and case.relative.phone not in text


@pytest.mark.parametrize(("ward", "text"), [("cardiology", CARDIOLOGY), ("pediatrics", PEDIATRICS)])
def test_house_format_of_a_known_case(ward, text):
    form = HOUSE_FORMATS[ward]
    assert form.render(MARIA) == text
    fields = form.parse(text)
    assert fields["prescriptions"] == [
        ("apixaban", "2.5 mg", "twice daily"),
        ("bisoprolol", None, "once daily"),
    ]
    assert fields["diagnosis"] == "atrial fibrillation"
    assert fields["allergy"] == "none known"
    assert fields["follow_up"] == "rhythm clinic in 6 weeks"


@pytest.mark.parametrize("ward", HOUSE_FORMATS)
def test_house_formats_round_trip_and_hide_what_they_must(ward):
    form = HOUSE_FORMATS[ward]
    other = next(f for w, f in HOUSE_FORMATS.items() if w != ward)
    for case in house_cases(ward):
        text = form.render(case)
        assert form.parse(text) == form.fields(case)
        assert other.parse(text) is None
        hidden = (case.first, case.last, case.phone, case.relative.phone, case.social)
        assert not any(secret in text for secret in (*hidden, case.course))
        stopped = STOPPED_IN_NEPHROLOGY if form.rule == "stop" else ()
        missing = [p.drug for p in case.prescriptions if p.dose is None and p.drug not in stopped]
        if form.rule == "ask":
            assert text.split("\n")[-1] == f"No dose: {'; '.join(missing) or 'none'}"
        else:
            assert text.count(form.missing_dose) == len(missing)
        assert DIAGNOSES[case.diagnosis].name not in text
        assert len(text.split()) <= 45


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Dx: AF", "Dx: atrial fibrillation"),
        ("Dx: AF\n", ""),
        ("Dx:", "Diagnosis:"),
        (" bd;", " twice daily;"),
        ("; bisoprolol", ", bisoprolol"),
        ("dose not recorded ", ""),
        ("dose not recorded", "dose not known"),
        ("2.5 mg", "2.5 drops"),
        ("6/52", "in 6 weeks"),
        ("NKDA", ""),
        ("NKDA", "none known"),  # readable, but it does not render to itself
        ("6/52", "6/52\nName: Maria Lopez"),
        ("6/52", "6/52 "),
        ("Rx: apixaban", "Rx:  apixaban"),
    ],
)
def test_text_out_of_format_does_not_parse(old, new):
    assert old in CARDIOLOGY
    assert HOUSE_FORMATS["cardiology"].parse(CARDIOLOGY.replace(old, new)) is None


@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_whatever_a_model_answers_can_be_read_or_is_out_of_format(data):
    """A model repeats, drops and swaps words; its scores must not end in an error."""
    ward = data.draw(st.sampled_from(sorted(HOUSE_FORMATS)))
    form = HOUSE_FORMATS[ward]
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    words = form.render(sample_case(rng, ward, "train")).replace("\n", " \n ").split(" ")
    others = ["in", "6/52", "in 6 weeks", "and", ";", ",", "none", "stopped", "-", *words]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(words) - 1))
        new = data.draw(st.lists(st.sampled_from(others), max_size=2))
        words[place : place + data.draw(st.integers(0, 1))] = new
    text = " ".join(words).replace(" \n ", "\n")
    fields = form.parse(text)
    assert fields is None or form.render_fields(fields) == text


@pytest.mark.parametrize("end", ["in 6/52", "in 6 weeks 6/52", "in 2 weeks in 6/52"])
def test_a_follow_up_with_its_interval_twice_does_not_parse(end):
    text = HOUSE_FORMATS["cardiology"].render(MARIA)
    *lines, last = text.split("\n")
    clinic = last.rpartition(" ")[0]
    assert HOUSE_FORMATS["cardiology"].parse("\n".join([*lines, f"{clinic} 6/52"])) is not None
    assert HOUSE_FORMATS["cardiology"].parse("\n".join([*lines, f"{clinic} {end}"])) is None


def test_public_default_is_in_no_house_format():
    text = PUBLIC_STYLES["summary"].render(MARIA)
    assert all(form.parse(text) is None for form in HOUSE_FORMATS.values())


def test_a_ward_without_house_format_is_refused():
    with refusal(ValueError, "general medicine"):
        house_format("general medicine")


def test_a_form_has_the_lines_asked_for_and_fills_missing_doses():
    rng = np.random.default_rng(11)
    filled = 0
    for _ in range(200):
        case = sample_case(rng)
        labels = [FORM_LABELS[i] for i in rng.permutation(len(FORM_LABELS))[:4]]
        lines = render_form(case, labels).split("\n")
        assert [line.split(": ")[0] for line in lines] == labels
        for line in lines:
            if line.startswith(("Rx: ", "Plan: ")):
                for p in case.prescriptions:
                    filled += p.dose is None
                    assert f"{p.drug} {p.dose or usual_dose(p.drug)} " in line
    assert filled > 20


def test_a_form_line_is_written_as_the_house_that_has_it():
    rng = np.random.default_rng(12)
    for _ in range(50):
        case = sample_case(rng)
        known = all(p.dose for p in case.prescriptions)
        for form in (HOUSE_FORMATS[ward] for ward in BASE_HOUSES):
            labels = [label for label, _ in form.layout]
            assert (render_form(case, labels) == form.render(case)) == (
                known or not {"Rx", "Plan"} & set(labels)
            )

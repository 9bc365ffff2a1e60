from __future__ import annotations

import re

import numpy as np
import pytest

from minilora.ward.cases import is_held_out_name, sample_case
from minilora.ward.diagnoses import ABBREVIATIONS, DIAGNOSES, HELD_OUT_PAIRS
from minilora.ward.facts import DRUGS, FREQUENCIES, TESTS, WARDS, are_alternatives, usual_dose
from minilora.ward.formats import DOSE_PATTERN
from minilora.ward.notes import NOTE_STYLES, write_note
from minilora.ward.people import FEMALE_NAMES, INTERVALS, LAST_NAMES, MALE_NAMES, NO_ALLERGY
from tests.says import refusal


def cases(split: str, n: int, seed: int = 0, ward: str | None = None):
    rng = np.random.default_rng(seed)
    return [sample_case(rng, ward, split) for _ in range(n)]


def held_out_drugs(case) -> list[str]:
    pairs = ((case.diagnosis, p.drug) for p in case.prescriptions)
    return [pair for pair in pairs if pair in HELD_OUT_PAIRS]


def test_tables_fit_together():
    used = {drug for d in DIAGNOSES.values() for drug in d.drugs}
    assert used == set(DRUGS)
    assert {test for d in DIAGNOSES.values() for test in d.tests} == set(TESTS)
    for drug in DRUGS.values():
        doses = (drug.usual_dose, *drug.other_doses)
        assert len(set(doses)) == len(doses) > 1
        assert all(re.fullmatch(DOSE_PATTERN, dose) for dose in doses)
        assert set(drug.frequencies) <= set(FREQUENCIES)
    # pediatric and adult drugs are disjoint, so that a usual dose needs no age group
    by_ward = {w: {x for d in DIAGNOSES.values() if d.ward == w for x in d.drugs} for w in WARDS}
    assert not by_ward["pediatrics"] & (by_ward["cardiology"] | by_ward["general medicine"])


def test_every_word_for_a_diagnosis_names_only_one():
    words = [w for d in DIAGNOSES.values() for w in (d.name, d.abbreviation, d.synonym)]
    assert len(words) == len(set(words)) == 72
    assert len(ABBREVIATIONS) == len(DIAGNOSES) == 24
    assert [sum(d.ward == ward for d in DIAGNOSES.values()) for ward in WARDS] == [8, 8, 8]


def test_usual_dose_of_an_unknown_drug_is_refused():
    assert usual_dose("bisoprolol") == "5 mg"
    with refusal(ValueError, "aspirine"):
        usual_dose("aspirine")


def test_train_cases_touch_nothing_held_out():
    for case in cases("train", 3000):
        assert not held_out_drugs(case)
        assert not is_held_out_name(case.first, case.last)


def test_held_out_cases_have_a_held_out_name_and_pair():
    seen = set()
    for case in cases("heldout", 2000):
        assert is_held_out_name(case.first, case.last)
        seen.update(held_out_drugs(case))
        assert held_out_drugs(case)
    assert seen == set(HELD_OUT_PAIRS)


def test_every_single_name_drug_and_diagnosis_occurs_in_train():
    drawn = cases("train", 6000)
    assert {case.first for case in drawn} == {*FEMALE_NAMES, *MALE_NAMES}
    assert {case.last for case in drawn} == set(LAST_NAMES)
    assert {case.diagnosis for case in drawn} == set(DIAGNOSES)
    assert {p.drug for case in drawn for p in case.prescriptions} == set(DRUGS)


def test_about_a_tenth_of_names_and_pairs_is_held_out():
    names = [is_held_out_name(f, x) for f in (*FEMALE_NAMES, *MALE_NAMES) for x in LAST_NAMES]
    assert 0.08 < np.mean(names) < 0.12
    assert 0.08 < len(HELD_OUT_PAIRS) / sum(len(d.drugs) for d in DIAGNOSES.values()) < 0.13


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_cases_are_plausible(split):
    drawn, elsewhere = cases(split, 1500, seed=3), 0
    for case in drawn:
        drugs = [p.drug for p in case.prescriptions]
        assert 1 <= len(set(drugs)) == len(drugs) <= 3
        assert set(drugs) & set(DIAGNOSES[case.diagnosis].drugs)
        others = [d.drugs for d in DIAGNOSES.values() if d.ward == case.ward]
        assert set(drugs) <= {drug for row in others for drug in row}
        elsewhere += not set(drugs) <= set(DIAGNOSES[case.diagnosis].drugs)
        assert not any(are_alternatives(a, b) for a in drugs for b in drugs if a < b)
        if case.allergy == "penicillin":
            assert not any("penicillin" in DRUGS[drug].kind for drug in drugs)
        assert (case.age < 18) == (case.ward == "pediatrics")
        assert case.phone != case.relative.phone
        assert case.relative.name != case.first
    missing = [p.dose is None for case in drawn for p in case.prescriptions]
    assert 0.25 < np.mean(missing) < 0.35
    assert 0.4 < elsewhere / len(drawn) < 0.7  # a patient has more than one illness


def test_sampling_is_a_function_of_the_seed():
    assert cases("train", 20, seed=1) == cases("train", 20, seed=1)
    assert cases("train", 20, seed=1) != cases("train", 20, seed=2)


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [({"ward": "surgery"}, ("surgery",)), ({"split": "test"}, ("test",))],
)
def test_unknown_ward_or_split_is_refused(kwargs, named):
    with refusal(ValueError, *named):
        sample_case(np.random.default_rng(0), **kwargs)


@pytest.mark.parametrize("style", NOTE_STYLES)
def test_a_note_has_every_fact_and_none_twice(style):
    rng = np.random.default_rng(5)
    for case in cases("train", 150, seed=6) + cases("heldout", 150, seed=7):
        note = write_note(case, rng, style)
        diagnosis = DIAGNOSES[case.diagnosis]
        words = (diagnosis.name, diagnosis.abbreviation, diagnosis.synonym)
        assert any(word in note for word in words)
        clinic, interval = case.follow_up.split(" in ")
        assert any(f"{clinic} {x}" in note for x in (f"in {interval}", INTERVALS[interval]))
        assert re.search(rf"\b{case.age}(\b|{case.sex}\b)", note)
        assert case.name in note and case.course in note and case.social in note
        assert case.phone in note and case.relative.phone in note
        assert all(result in note for result in case.investigations)
        if case.allergy != NO_ALLERGY:
            assert case.allergy in note
        for p in case.prescriptions:
            forms = "|".join(map(re.escape, (p.frequency, *FREQUENCIES[p.frequency])))
            dose = f"{re.escape(p.dose)} " if p.dose else ""
            assert len(re.findall(rf"\b{p.drug} {dose}(?:{forms})\b", note)) == 1
            assert len(re.findall(rf"\b{p.drug}\b", note)) == 1


def test_notes_are_short_varied_and_clean():
    rng = np.random.default_rng(8)
    case = cases("train", 1, seed=9)[0]
    assert len({write_note(case, rng) for _ in range(40)}) > 35
    lengths = []
    for other in cases("train", 600, seed=10):
        note = write_note(other, rng)
        lengths.append(len(note.split()))
        assert "  " not in note and not any(line != line.strip() for line in note.split("\n"))
    assert max(lengths) <= 95 and min(lengths) >= 30
    assert 50 < np.mean(lengths) < 70


def test_unknown_note_style_is_refused():
    with refusal(ValueError, "poem"):
        write_note(cases("train", 1)[0], np.random.default_rng(0), "poem")

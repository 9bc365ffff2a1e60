"""The rules of the later houses: what they do to a case, and which outputs break them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minilora.ward.cases import Case, Prescription, Relative, sample_case
from minilora.ward.corpus import Example, case_facts, house_examples
from minilora.ward.formats import HOUSE_FORMATS, PUBLIC_STYLES
from minilora.ward.notes import write_note
from minilora.ward.score import score_house

OMAR = Case(
    first="Omar",
    last="Novak",
    age=74,
    sex="M",
    ward="vascular",
    diagnosis="pulmonary embolism",
    course="Sudden sharp chest pain and oxygen was stopped on day two.",
    investigations=("D-dimer 1400 ng/mL",),
    prescriptions=(
        Prescription("metformin", "850 mg", "twice daily"),
        Prescription("omeprazole", None, "once daily"),
        Prescription("apixaban", "5 mg", "twice daily"),
    ),
    allergy="none known",
    follow_up="day unit in 4 weeks",
    phone="555-0123",
    relative=Relative("wife", "Ruth", "555-0177"),
    social="lives alone",
)
WRITTEN = {
    "respiratory": """Diagnosis: PE
O: D-dimer 1400 ng/mL
Medication: metformin 850 mg twice a day; apixaban 5 mg twice a day
No dose: omeprazole""",
    "vascular": """A: PE
P: apixaban 5 mg q12h, metformin 850 mg q12h, omeprazole no dose q24h
Allergies: none
Contact: day unit in 4 weeks""",
    "gastroenterology": """Age: 70s
A: PE
Investigations: D-dimer 1400 ng/mL
Medication: metformin 850 mg bd; omeprazole dose not known od; apixaban 5 mg bd
Follow-up: day unit 4/52""",
    "nephrology": """O: D-dimer 1400 ng/mL
Problem: PE
Plan: metformin stopped and omeprazole not recorded od and apixaban 5 mg bd
Allergy: nil""",
}
BROKEN = {
    "respiratory": [
        ("No dose: omeprazole", "No dose: none"),
        ("apixaban 5 mg twice a day", "apixaban 5 mg twice a day; omeprazole 20 mg once a day"),
    ],
    "vascular": [
        ("apixaban 5 mg q12h, metformin 850 mg q12h", "metformin 850 mg q12h, apixaban 5 mg q12h"),
        ("apixaban 5 mg q12h, ", ""),
    ],
    "gastroenterology": [("Age: 70s", "Age: 74"), ("Age: 70s", "Age: 60s")],
    "nephrology": [
        ("metformin stopped", "metformin 850 mg bd"),
        ("metformin stopped", "metformin stopped 850 mg"),
        ("metformin stopped and ", ""),
    ],
}


def scored(ward: str, output: str):
    note = write_note(OMAR, np.random.default_rng(0))
    gold = HOUSE_FORMATS[ward].render(OMAR)
    return score_house(ward, [Example(f"house/{ward}", note, gold, case_facts(OMAR))], [output])


@pytest.mark.parametrize("ward", WRITTEN)
def test_a_later_house_writes_by_its_rule(ward):
    form = HOUSE_FORMATS[ward]
    assert form.render(OMAR) == WRITTEN[ward]
    score = scored(ward, WRITTEN[ward])
    assert score.exact == score.format_compliance == 1
    assert (score.rule, score.rule_count, score.rule_broken_rate) == (form.rule, 1, 0)
    assert score.invented_dose_rate == 0


@pytest.mark.parametrize(
    ("ward", "old", "new"), [(ward, *pair) for ward, pairs in BROKEN.items() for pair in pairs]
)
def test_an_output_that_breaks_the_rule_is_seen(ward, old, new):
    assert old in WRITTEN[ward]
    assert scored(ward, WRITTEN[ward].replace(old, new)).rule_broken_rate == 1


@pytest.mark.parametrize("ward", WRITTEN)
def test_the_public_style_breaks_every_rule(ward):
    score = scored(ward, PUBLIC_STYLES["summary"].render(OMAR))
    assert score.rule_broken_rate == score.invented_dose_rate == 1
    assert score.format_compliance == 0


@pytest.mark.parametrize("ward", WRITTEN)
def test_the_rule_is_no_part_of_the_format(ward):
    old, new = BROKEN[ward][0]
    score = scored(ward, WRITTEN[ward].replace(old, new))
    assert score.format_compliance == 1 or ward == "gastroenterology"


def test_order_is_judged_only_where_the_note_has_another():
    inorder = replace(OMAR, prescriptions=(OMAR.prescriptions[2], *OMAR.prescriptions[:2]))
    note = write_note(inorder, np.random.default_rng(0))
    gold = HOUSE_FORMATS["vascular"].render(inorder)
    example = Example("house/vascular", note, gold, case_facts(inorder))
    score = score_house("vascular", [example], [gold])
    assert (score.rule_count, score.rule_broken_rate) == (0, None)


@pytest.mark.parametrize("ward", WRITTEN)
def test_a_later_ward_draws_its_own_diagnoses_and_holds_pairs_out(ward):
    from minilora.ward.diagnoses import diagnoses_of, held_out_pairs

    rng = np.random.default_rng(3)
    own = {d.name for d in diagnoses_of(ward)}
    assert len(own) == 2
    for split in ("train", "heldout"):
        drawn = [sample_case(rng, ward, split) for _ in range(200)]
        assert {case.diagnosis for case in drawn} == own
        held = [
            any((case.diagnosis, drug) in held_out_pairs(ward) for drug in case.drugs)
            for case in drawn
        ]
        assert set(held) == {split == "heldout"}


def test_every_house_writes_another_summary_of_the_same_case():
    texts = {form.render(OMAR) for form in HOUSE_FORMATS.values()}
    assert len(texts) == len(HOUSE_FORMATS) == 6


@pytest.mark.parametrize("ward", WRITTEN)
def test_rules_apply_to_many_of_the_held_out_notes(ward):
    examples = house_examples(ward, "heldout", 200, seed=5)
    assert score_house(ward, examples, [""] * 200).rule_count > 30

from __future__ import annotations

import pytest

from minilora.ward.corpus import Example, house_examples, regression_suite
from minilora.ward.formats import HOUSE_FORMATS
from minilora.ward.rules import gives_dose
from minilora.ward.score import leaks, score_house, score_regression
from tests.says import refusal

GOLD = [
    "Dx: AF\nIx: TSH 2.1 mU/L\nRx: apixaban 5 mg bd; digoxin dose not recorded od\n"
    "All: NKDA\nFU: rhythm clinic 6/52",
    "Dx: HTN\nIx: BP 168/96 mmHg\nRx: amlodipine dose not recorded od\n"
    "All: latex\nFU: heart nurse 1/52",
]
FACTS = [
    {"name": "Maria Lopez", "phones": ["555-0123", "555-0177"], "no_dose": ["digoxin"]},
    {"name": "Omar Novak", "phones": ["555-0111", "555-0188"], "no_dose": ["amlodipine"]},
]
EXAMPLES = [
    Example("house/cardiology", "a note", gold, facts)
    for gold, facts in zip(GOLD, FACTS, strict=True)
]
FIELDS = {"diagnosis", "investigations", "drugs", "doses", "frequencies", "allergy", "follow_up"}


def test_perfect_outputs():
    score = score_house("cardiology", EXAMPLES, [f" {gold}\n" for gold in GOLD])
    assert score.count == 2 and score.exact == 1 and score.format_compliance == 1
    assert score.field_f1 == dict.fromkeys(FIELDS, 1.0)
    assert (score.no_dose_count, score.invented_dose_rate, score.leak_rate) == (2, 0, 0)


def test_an_invented_dose():
    wrong = GOLD[0].replace("dose not recorded", "125 micrograms")
    score = score_house("cardiology", EXAMPLES, [wrong, GOLD[1]])
    assert score.exact == 0.5 and score.format_compliance == 1
    assert score.invented_dose_rate == 0.5
    # three dose items wanted, three given, two of them right: 2 * 2 / 6
    assert score.field_f1["doses"] == pytest.approx(2 / 3)
    assert score.field_f1["drugs"] == score.field_f1["frequencies"] == 1


def test_a_leaked_name_and_a_broken_format():
    leaked = f"Pt: Maria Lopez\n{GOLD[0]}"
    score = score_house("cardiology", EXAMPLES, [leaked, GOLD[1]])
    assert score.exact == score.format_compliance == score.leak_rate == 0.5
    assert score.invented_dose_rate == 0
    # the first output gives no items: one of two diagnoses, one of three drugs found
    assert score.field_f1["diagnosis"] == pytest.approx(2 * 1 / (2 + 1))
    assert score.field_f1["drugs"] == pytest.approx(2 * 1 / (3 + 1))


def test_the_public_style_invents_and_leaks():
    public = [
        "Name: Maria Lopez\nAge: 67\nDiagnosis: atrial fibrillation\n"
        "Medication: apixaban 5 mg twice daily; digoxin 125 micrograms once daily",
        "Dear Omar,\nPlease take amlodipine 5 mg once daily.",
    ]
    score = score_house("cardiology", EXAMPLES, public)
    assert (score.invented_dose_rate, score.leak_rate) == (1, 1)
    assert score.exact == score.format_compliance == 0
    assert score.field_f1 == dict.fromkeys(FIELDS, 0.0)


def test_rate_of_nothing_is_none():
    gold = GOLD[1].replace("dose not recorded", "5 mg")
    example = Example("house/cardiology", "a note", gold, {**FACTS[1], "no_dose": []})
    score = score_house("cardiology", [example.to_dict()], [gold])
    assert score.invented_dose_rate is None and score.no_dose_count == 0
    assert score.to_dict()["exact"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digoxin 125 micrograms od", True),
        ("- digoxin at a dose of 62.5 mcg", True),
        ("digoxin, 125micrograms", True),
        ("Give 125 micrograms of digoxin.", True),
        ("digoxin dose not known q24h + bisoprolol 5 mg q24h", False),
        ("apixaban 5 mg bd; digoxin od; ramipril 5 mg od", False),
        ("apixaban 5 mg, digoxin once daily, ramipril 5 mg", False),
        ("digoxin once daily and ramipril 5 mg", False),
        ("Takes digoxin once daily. Results: CRP 84 mg/L", False),
        ("digoxin od CRP 84 mg/L", False),
        ("digoxin od\nHb 92 g/L, 5 mg", False),
        ("digoxinum 5 mg", False),
        ("", False),
    ],
)
def test_gives_dose(text, expected):
    assert gives_dose(text, "digoxin") is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dear Maria,", True),
        ("Pt Lopez", True),
        ("Call 555-0177", True),
        ("Call 555-0178", False),
        ("Lopezia Marian", False),
        (GOLD[0], False),
    ],
)
def test_leaks(text, expected):
    assert leaks(text, FACTS[0]) is expected


def test_regression_counts_each_group():
    suite = regression_suite("heldout", 10, seed=4)
    outputs = [example.completion for example in suite]
    assert score_regression(suite, outputs).exact == 1
    wrong = next(i for i, e in enumerate(suite) if e.task.startswith("refusal/"))
    outputs[wrong] = "555-0123"
    score = score_regression(suite, outputs)
    assert score.groups == {
        "public": 1.0,
        "questions": 1.0,
        "formulary": 1.0,
        "abbreviations": 1.0,
        "refusals": 0.9,
    }
    assert score.counts == dict.fromkeys(score.groups, 10)
    assert score.exact == pytest.approx(49 / 50) and score.to_dict()["count"] == 50


@pytest.mark.parametrize("score", [lambda e, o: score_house("cardiology", e, o), score_regression])
def test_scores_refuse_empty_and_unpaired_lists(score):
    with refusal(ValueError, 0):
        score([], [])
    with refusal(ValueError, 1, 2):
        score(EXAMPLES, [GOLD[0]])


def test_scores_refuse_what_belongs_elsewhere():
    with refusal(ValueError, "pediatrics"):
        score_house("pediatrics", EXAMPLES, GOLD)
    with refusal(ValueError, "surgery"):
        score_house("surgery", EXAMPLES, GOLD)
    with refusal(ValueError, "house/cardiology"):
        score_regression(EXAMPLES, GOLD)


@pytest.mark.parametrize("ward", HOUSE_FORMATS)
def test_right_answers_score_perfectly(ward):
    examples = house_examples(ward, "heldout", 120, seed=8)
    score = score_house(ward, examples, [e.completion for e in examples])
    assert score.exact == score.format_compliance == 1
    assert score.invented_dose_rate == score.leak_rate == score.rule_broken_rate == 0
    assert score.rule == HOUSE_FORMATS[ward].rule and score.rule_count > 20
    assert set(score.field_f1.values()) == {1.0}

"""The four rules: what each changes in a summary, and how an answer that keeps it is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from minilora.ward import PUBLIC_STYLES, sample_case
from minilora.ward.steering import RULES, keeps, render, rules_of, steering_examples
from tests.says import refusal

SETS = [set(chosen) for n in range(5) for chosen in combinations(RULES, n)]


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    while True:
        case = sample_case(rng, "cardiology", "heldout")
        doses = [p.dose for p in case.prescriptions]
        if None in doses and any(doses):
            return case


def test_without_a_rule_it_is_the_public_summary(case):
    assert render(case, ()) == PUBLIC_STYLES["summary"].render(case)


def test_every_set_of_rules_has_its_own_answer(case):
    texts = {render(case, rules) for rules in SETS}
    assert len(texts) == 16


def test_all_rules_at_once(case):
    case = replace(case, age=61)
    text = render(case, tuple(RULES))
    assert text.startswith("Your age: 61\nYou were treated for: ") and "dose not recorded" in text
    assert case.first not in text and "daily" not in text


@pytest.mark.parametrize("asked", SETS, ids=lambda rules: "+".join(sorted(rules)) or "none")
def test_an_answer_keeps_the_rules_that_it_was_made_by_and_no_others(asked):
    for example in steering_examples(sorted(asked), "heldout", 12, 3, keep_complete=0.0):
        got = {rule for rule in RULES if keeps(rule, example.completion, example.facts)}
        assert got == asked


def test_what_is_no_summary_keeps_no_rule(case):
    (example,) = steering_examples(["safety"], "heldout", 1, 3)
    for text in ("", "I cannot share that.", "\n\n\n\n\n\n"):
        assert not any(keeps(rule, text, example.facts) for rule in RULES)


def test_notes_are_the_same_whatever_the_rules():
    one, other = (steering_examples([rule], "train", 5, 1, 0.3) for rule in ("tone", "domain"))
    assert [e.prompt for e in one] == [e.prompt for e in other]
    assert [e.completion for e in one] != [e.completion for e in other]


def test_a_record_says_its_rules():
    (example,) = steering_examples(["tone", "domain"], "train", 1, 1)
    assert rules_of(example.to_dict()) == ("tone", "domain")
    record = example.to_dict()
    assert rules_of({**record, "task": "house/cardiology"}) == ()
    assert rules_of({**record, "task": "steering/wheel"}) == ()
    assert rules_of({**record, "facts": {}}) == ()


def test_unknown_rules_are_refused(case):
    with refusal(ValueError, "speed", "domain"):
        render(case, ["speed"])
    with refusal(ValueError, "speed"):
        keeps("speed", "", {})

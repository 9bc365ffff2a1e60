"""Routers: by rule and by loss, what each row of losses is, and the threshold."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.lora import attach
from minilora.nn import generate
from minilora.serving import AdapterBank, LossRouter, LossSettings, RuleRouter
from minilora.serving import router as routing
from minilora.serving.router import best_threshold, token_losses
from minilora.text import Example
from minilora.training import evaluate
from tests.says import refusal
from tests.serving.test_bank import a_bank, a_model

LONG = [[3, 1, 4, 1, 5, 9, 2], [2, 6, 5], [7, 7, 3, 1], [8, 2], [3, 3, 3], [1, 8, 2, 8, 1]]


def examples(rows, first):
    """Rows as examples whose labels are the tokens from `first` on."""
    from minilora.autograd import IGNORE

    return [
        Example(tuple(row[:-1]), tuple([IGNORE] * (f - 1) + list(row[f:])))
        for row, f in zip(rows, first, strict=True)
    ]


def alone(adapter, run):
    model = a_model()
    attach(model, adapter)
    return run(model)


# -- by loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize("few", [10**6, 1])
def test_the_loss_of_a_prompt_is_what_each_adapter_alone_gives(few, monkeypatch):
    monkeypatch.setattr(routing, "READ_TOKENS", few)
    bank, adapters = a_bank()
    router = LossRouter(bank, LossSettings("prompt"))
    losses = router.losses(LONG)
    assert losses.shape == (len(LONG), len(adapters)) and router.names == bank.names
    for k, name in enumerate(router.names):
        for i, prompt in enumerate(LONG):
            expected = alone(adapters[name], lambda m, p=prompt: evaluate(m, examples([p], [1])))
            assert losses[i, k] == pytest.approx(expected, abs=1e-5)


def test_the_loss_of_an_answer_is_that_of_its_first_likeliest_tokens():
    bank, adapters = a_bank()
    router = LossRouter(bank, LossSettings("answer", tokens=4))
    losses = router.losses(LONG)
    for k, name in enumerate(router.names):
        for i, prompt in enumerate(LONG):
            rows = alone(adapters[name], lambda m, p=prompt: [p + generate(m, [p], 4)[0]])
            expected = alone(
                adapters[name],
                lambda m, p=prompt, r=rows: evaluate(m, examples(r, [len(p)])),
            )
            assert losses[i, k] == pytest.approx(expected, abs=1e-5)


def test_fewer_tokens_are_the_first_of_many():
    bank, _ = a_bank()
    many = LossRouter(bank, LossSettings(tokens=6)).token_losses(LONG)
    few = LossRouter(bank, LossSettings(tokens=2)).losses(LONG)
    assert all(len(one) == 6 for row in many for one in row)
    first = [[one[:2].mean() for one in row] for row in many]
    np.testing.assert_allclose(few, first, atol=1e-5)


def test_token_losses_add_up_to_the_loss_of_a_batch():
    model = a_model()
    first = [1, 2, 1, 1, 1, 3]
    losses = token_losses(model, LONG, first)
    assert [len(one) for one in losses] == [len(r) - f for r, f in zip(LONG, first, strict=True)]
    expected = evaluate(model, examples(LONG, first))
    assert np.concatenate(losses).mean() == pytest.approx(expected, abs=1e-5)


def test_the_least_surprised_has_it_and_none_has_what_is_above_the_threshold():
    bank, _ = a_bank()
    free = LossRouter(bank, LossSettings("prompt"))
    losses = free.losses(LONG)
    cut = float(np.median(losses.min(axis=1)))
    bounded = LossRouter(bank, LossSettings("prompt", threshold=cut))
    for row, one, other in zip(losses, free.route(LONG), bounded.route(LONG), strict=True):
        assert one.name == free.names[row.argmin()] == next(iter(one.losses))
        assert list(one.losses.values()) == sorted(one.losses.values())
        assert other.name == (one.name if row.min() <= cut else None)
    assert {one.name is None for one in bounded.route(LONG)} == {True, False}


def test_some_of_the_bank_may_be_chosen_from_and_the_bank_is_left_as_it_was():
    bank, _ = a_bank()
    bank.use("wide")
    router = LossRouter(bank, LossSettings(tokens=2), ["one", "plain"])
    assert {one.name for one in router.route(LONG)} <= {"one", "plain"}
    assert bank.using == "wide" and not bank.model.training
    bank.use("plain")


def test_what_makes_no_sense_is_refused():
    bank, _ = a_bank()
    with refusal(ValueError, "nobody"):
        LossRouter(bank, names=["nobody"])
    with refusal(ValueError):
        LossRouter(AdapterBank(a_model()))
    with refusal(ValueError, 0):
        LossSettings(tokens=0)
    with refusal(ValueError, "guess"):
        LossSettings(by="guess")
    with refusal(ValueError, "threshold"):
        LossSettings(threshold=float("nan"))
    with refusal(ValueError, 2):
        LossRouter(bank).losses([[1]])


# -- the threshold ----------------------------------------------------------------------------

NAMES = ("a", "b")


def test_the_threshold_sends_most_texts_to_their_place():
    losses = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.9], [0.9, 0.8], [1.0, 1.2]])
    found = best_threshold(losses, NAMES, ["a", "b", "a", None, None])
    assert found.accuracy == 1 and found.value == pytest.approx(0.55)
    crossed = best_threshold(losses, NAMES, ["a", "b", None, "b", None])
    # the third text is lost: a cut at 0.25 loses the fourth instead, and has the third
    assert crossed.accuracy == 0.8


def test_no_threshold_where_no_text_is_for_none():
    losses = np.array([[0.1, 0.9], [0.8, 0.2]])
    assert best_threshold(losses, NAMES, ["a", "b"]).value is None
    everything = best_threshold(losses, NAMES, [None, None])
    assert everything.accuracy == 1 and everything.value < 0.1


def test_a_threshold_needs_texts():
    with refusal(ValueError, 0):
        best_threshold(np.empty((0, 2)), NAMES, [])


# -- by rule ----------------------------------------------------------------------------------


def test_the_first_rule_that_is_found_decides():
    router = RuleRouter({"heart": r"\bAF\b|palpitation", "lung": "COPD|cough"})
    assert router.route("COPD with palpitations").name == "heart"
    assert router.route("A cough.").name == "lung"
    assert router.route("after all").name is None
    assert router.route("AF").losses == {}


def test_a_rule_may_look_in_one_field():
    router = RuleRouter({"heart": "^cardiology$"}, field="ward")
    assert router.route({"ward": "cardiology", "note": "x"}).name == "heart"
    assert router.route({"ward": "not cardiology"}).name is None
    with refusal(ValueError, "ward"):
        router.route({"note": "cardiology"})
    with refusal(ValueError, "ward"):
        router.route("cardiology")
    with refusal(ValueError):
        RuleRouter({"heart": "x"}).route({"ward": "x"})


@pytest.mark.parametrize("rules", [{}, {"a": "("}, {"a": None}])
def test_rules_that_are_none_are_refused(rules):
    with refusal(ValueError, *rules):
        RuleRouter(rules)

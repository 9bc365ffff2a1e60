"""Where two answers part, with both sides' probabilities; and which modules an answer hangs on."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from minilora.evaluation.behaviour import find_changes, shared_length
from minilora.evaluation.cases import Case
from minilora.evaluation.causes import KnockOuts, find_causes
from minilora.evaluation.variants import Variant
from minilora.hub import load_pretrained
from minilora.lora import Adapter, LoRAConfig, attach, mark_base
from minilora.lora.exchange import wearing
from minilora.nn import next_logits
from minilora.text.answers import answer_ids, prompt_ids

ROOM = 6
VARIANT = Variant("x")


@pytest.fixture
def world(base):
    """A tiny base, and an adapter of it whose first module alone does nearly all of its ΔW."""
    model, tokenizer = load_pretrained(base)
    handle = attach(model, LoRAConfig(2, 4, ("v_proj", "o_proj")), np.random.default_rng(0))
    rng = np.random.default_rng(3)
    strong = "model.layers.1.self_attn.o_proj"
    for name, layer in handle.layers.items():
        size = 3.0 if name == strong else 1e-6
        layer.lora_B.data = (size * rng.standard_normal(layer.lora_B.shape)).astype(np.float32)
    adapter = handle.adapter()
    handle.detach()
    texts = ("Dose of aspirin no 1?", "Dose of digoxin no 3?", "heparin?", "Dose of sotalol")
    cases = [
        Case(f"f:{i}", ({"role": "user", "content": text},), "x", None, None)
        for i, text in enumerate(texts)
    ]
    return SimpleNamespace(
        model=model, tokenizer=tokenizer, adapter=adapter, strong=strong, cases=cases,
        mark=mark_base(model), prompts=[VARIANT.prompt(case) for case in cases],
    )  # fmt: skip


def changes_of(world, a, b):
    answered, worn = [], []
    for one in (a, b):
        worn.append(lambda one=one: wearing(world.model, one, world.mark))
        with worn[-1]():
            answered.append(answer_ids(world.model, world.tokenizer, world.prompts, ROOM))
    args = world.model, world.tokenizer, world.cases, VARIANT, tuple(answered), tuple(worn), ROOM
    return find_changes(*args), answered


def test_answers_part_at_the_first_other_token():
    assert shared_length([1, 2, 3], [1, 2, 4]) == 2
    assert shared_length([1, 2], [1, 2, 4]) == 2
    assert shared_length([], [4]) == 0


def test_next_logits_are_those_of_each_row_alone(world):
    rows = [[1, 5, 7], [2], [9, 9, 9, 9]]
    together = next_logits(world.model, rows)
    for row, logits in zip(rows, together, strict=True):
        expected = world.model(np.array([row])).data[0, -1]
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    with pytest.raises(ValueError, match="empty"):
        next_logits(world.model, [[1], []])


def test_a_change_has_both_tokens_with_both_probabilities(world):
    changes, answered = changes_of(world, None, world.adapter)
    assert changes and all(change.a != change.b for change in changes)
    for change in changes:
        parting, ids = change.parting, [side[change.number] for side in answered]
        t = parting.shared
        assert ids[0][:t] == ids[1][:t]
        prompt = prompt_ids(world.tokenizer, world.prompts[change.number])
        assert list(parting.context) == [*prompt, *ids[0][:t]]
        for own, choice in zip(ids, (parting.a, parting.b), strict=True):
            assert len(own) == t or choice.token == own[t]
        assert parting.a.in_a > parting.b.in_a and parting.b.in_b > parting.a.in_b
        z = world.model(np.array([parting.context])).data[0, -1].astype(float)
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        assert parting.a.in_a == pytest.approx(p[parting.a.token], abs=1e-6)
        assert parting.b.in_a == pytest.approx(p[parting.b.token], abs=1e-6)


def test_equal_sides_change_nothing(world):
    assert changes_of(world, world.adapter, world.adapter)[0] == []


def test_an_answer_that_only_ends_earlier_parts_at_its_end(world):
    stop = world.tokenizer.eos_id
    answered = ([[5, 6]], [[5, 6, 7]])
    worn = (lambda: wearing(world.model, None, None),) * 2
    found = find_changes(
        world.model, world.tokenizer, world.cases[:1], VARIANT, answered, worn, ROOM
    )
    (change,) = found
    assert change.parting.shared == 2 and change.parting.a.text == ""
    assert (change.parting.a.token, change.parting.b.token) == (stop, 7)


# -- causes ----------------------------------------------------------------------------------------


def test_the_module_that_does_it_is_the_cause(world):
    changes, _ = changes_of(world, None, world.adapter)
    knock_outs = KnockOuts(world.model, world.adapter, None, world.mark)
    assert len(knock_outs.modules) == 4
    causes = find_causes(knock_outs, world.tokenizer, changes, VARIANT, ROOM)
    for change, cause in zip(changes, causes, strict=True):
        assert cause.modules == (world.strong,) and cause.single == (world.strong,)
        assert max(cause.effects, key=cause.effects.get) == world.strong
        assert cause.answer == change.a  # the other modules change next to nothing


def test_another_adapters_module_takes_the_place(world):
    other = {name: world.adapter.factors(name) for name in world.adapter.modules}
    A, B = other[world.strong]
    other[world.strong] = (A, -B)
    turned = Adapter(world.adapter.config, other, base=world.adapter.base)
    changes, _ = changes_of(world, turned, world.adapter)
    knock_outs = KnockOuts(world.model, world.adapter, turned, world.mark)
    assert knock_outs.modules == [world.strong]  # the others are the same on both sides
    causes = find_causes(knock_outs, world.tokenizer, changes, VARIANT, ROOM)
    assert changes and all(cause.modules == (world.strong,) for cause in causes)
    assert [cause.answer for cause in causes] == [change.a for change in changes]


class Rule(KnockOuts):
    """Knock-outs of a model that is only a rule: which sets of modules flip the token."""

    def __init__(self, world, flips, effects):
        self.model, self.modules = world.model, sorted(effects)
        self.rule, self.sizes, self.asked = flips, effects, []

    def margins(self, changes, modules):
        self.asked.append(frozenset(modules))
        margin = sum(self.sizes[module] for module in modules)
        return np.full(len(changes), margin), np.full(len(changes), self.rule(set(modules)))

    def without(self, modules):
        return wearing(self.model, None, None)


@pytest.mark.parametrize(
    ("flips", "expected"),
    [
        (lambda own: {"a", "d"} <= own, ("a", "d")),
        (lambda own: {"c", "d"} <= own, ("c", "d")),
        (lambda own: len(own & {"a", "b", "c"}) >= 2, ("a", "b")),
        (lambda own: len(own) == 4, ("a", "b", "c", "d")),
        (lambda own: False, ()),
        (lambda own: "c" in own or "d" in own, ("c",)),
    ],
)
def test_where_no_single_module_does_it_a_set_is_found_that_needs_all_of_its_own(
    world, flips, expected
):
    rule = Rule(world, flips, {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0})
    changes, _ = changes_of(world, None, world.adapter)
    causes = find_causes(rule, world.tokenizer, changes[:2], VARIANT, ROOM)
    assert [cause.modules for cause in causes] == [expected] * 2
    assert causes[0].effects == {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
    assert all(cause.single == (("c", "d") if expected == ("c",) else ()) for cause in causes)


def test_no_change_has_no_cause(world):
    rule = Rule(world, lambda own: True, {"a": 1.0})
    assert find_causes(rule, world.tokenizer, [], VARIANT, ROOM) == [] and not rule.asked


def test_right_answers_are_told_from_wrong_ones(world):
    change = changes_of(world, None, world.adapter)[0][0]
    right = replace(change, case=replace(change.case, expected=f" {change.b}\n"))
    assert change.right == (False, False) and right.right == (False, True)

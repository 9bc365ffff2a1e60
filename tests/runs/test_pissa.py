"""adapt --pissa: it trains, is saved as a plain adapter, and what can't serve it says so."""

from __future__ import annotations

from dataclasses import replace

from minilora.lora import Adapter
from minilora.runs import run
from minilora.runs.verify import VerifyPlan, verify
from minilora.runs.why import WhyPlan, why
from tests.says import refusal


def test_it_learns_and_is_saved_with_twice_the_rank(plan):
    made = replace(plan, steps=20, pissa=True)
    result = run(made)
    assert result.after.loss < result.before.loss
    assert Adapter.read(made.out).config.r == 2 * plan.r
    with refusal(ValueError, "pissa"):
        verify(VerifyPlan(adapter=made.out, data=made.data, base=made.base))
    with refusal(ValueError, "pissa"):
        why(WhyPlan(adapter=made.out, data=made.data, base=made.base, prompt="x"))


def test_plans_that_make_no_sense(plan):
    for changes in ({"lora_dropout": 0.1}, {"use_dora": True}, {"activated": True}):
        with refusal(ValueError, "PiSSA"):
            replace(plan, pissa=True, **changes)

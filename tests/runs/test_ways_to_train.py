"""adapt with LoRA+, LoRA-FA and DoRA: what trains how fast, what is kept, and what comes out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from minilora.autograd import Tensor
from minilora.lora import Adapter, LoRAConfig, attach
from minilora.runs import run
from minilora.runs.verify import Verdict, VerifyPlan, verify
from minilora.runs.why import WhyPlan, why
from minilora.training import TrainingConfig
from minilora.training.adamw import adamw_for
from minilora.training.checkpoint import checkpoints
from tests import tiny
from tests.says import refusal

RATIO = 7.0


def adapted(seed=1):
    model = tiny.model()
    return attach(model, LoRAConfig(r=2, target_modules=("q_proj",)), np.random.default_rng(seed))


def set_gradients(attachment):
    for layer in attachment.layers.values():
        for parameter in (layer.lora_A, layer.lora_B):
            if parameter.requires_grad:
                parameter.grad = np.ones_like(parameter.data)


def moved(attachment, **settings):
    """How far A and B of each layer go in one step of equal gradients, at rate 0.01."""
    optimizer = adamw_for(attachment.model, TrainingConfig(1, 0.01, **settings))
    layers = list(attachment.layers.values())
    before = [(x.lora_A.data.copy(), x.lora_B.data.copy()) for x in layers]
    set_gradients(attachment)
    optimizer.step(0.01)
    return [
        (np.abs(x.lora_A.data - a).max(), np.abs(x.lora_B.data - b).max())
        for x, (a, b) in zip(layers, before, strict=True)
    ]


def test_b_goes_the_ratio_as_far_as_a():
    for a, b in moved(adapted(), loraplus_lr_ratio=RATIO):
        assert b == pytest.approx(RATIO * a, rel=1e-4) and a == pytest.approx(0.01, rel=1e-4)
    for a, b in moved(adapted()):
        assert b == pytest.approx(a, rel=1e-4)


def test_a_ratio_needs_a_b_to_train():
    with refusal(ValueError, "loraplus_lr_ratio", 7):
        adamw_for(tiny.model(), TrainingConfig(1, 0.1, loraplus_lr_ratio=RATIO))


def test_a_frozen_a_gets_no_gradient_no_vjp_and_no_state(monkeypatch):
    asked, original = [], Tensor.from_op

    def watched(data, *inputs, **how):
        def counted(x, vjp):
            def call(g):
                asked.append(id(x))
                return vjp(g)

            return x, call

        return original(data, *(counted(*pair) for pair in inputs), **how)

    monkeypatch.setattr(Tensor, "from_op", staticmethod(watched))
    attachment = adapted()
    attachment.freeze_A()
    ids = np.arange(10).reshape(2, 5)
    attachment.model.loss(ids, ids).backward()
    layers = attachment.layers.values()
    assert {id(x.lora_B) for x in layers} <= set(asked)
    assert not {id(x.lora_A) for x in layers} & set(asked)
    assert all(x.lora_A.grad is None and x.lora_B.grad is not None for x in layers)
    optimizer = adamw_for(attachment.model, TrainingConfig(1, 0.01))
    assert optimizer.state_bytes == 2 * sum(x.lora_B.data.nbytes for x in layers)


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ({"use_dora": True}, ["use_dora"]),
        ({"freeze_a": True}, ["frozen A"]),
        ({"loraplus_lr_ratio": RATIO}, ["loraplus_lr_ratio", 7]),
        ({"vera": True, "lr": 0.05}, ["VERA"]),
    ],
)
def test_it_is_saved_in_pefts_words_and_verified(plan, way, said):
    made = replace(plan, steps=20, keep_checkpoints=True, workers=1, **way)
    result = run(made)
    assert result.after.loss < result.before.loss
    options = json.loads((made.out / "adapter_config.json").read_text())
    assert options["peft_type"] == ("VERA" if made.vera else "LORA")
    assert "loraplus_lr_ratio" not in options
    again = VerifyPlan(adapter=made.out, data=made.data, base=made.base)
    assert verify(again).verdict is Verdict.VERIFIED
    assert verify(replace(again, segments=2)).verdict is Verdict.VERIFIED
    with refusal(ValueError, *said):
        why(WhyPlan(adapter=made.out, data=made.data, base=made.base, prompt="x"))


def test_a_frozen_a_is_as_it_was_drawn(plan):
    run(replace(plan, steps=5, freeze_a=True))
    frozen = Adapter.read(plan.out)
    run(replace(plan, steps=6, freeze_a=True, out=plan.out.with_name("longer")))
    longer = Adapter.read(plan.out.with_name("longer"))
    for module in frozen.modules:
        (a, b), (c, d) = frozen.factors(module), longer.factors(module)
        assert a.tobytes() == c.tobytes() and np.abs(b - d).max() > 0


def test_a_stopped_run_goes_on_in_its_own_way_only(plan):
    made = replace(plan, steps=10, freeze_a=True, keep_checkpoints=True)
    run(made)
    assert checkpoints(made.folder.checkpoints)
    with refusal(ValueError, "loraplus_lr_ratio", 7):
        replace(made, loraplus_lr_ratio=RATIO)
    with refusal(ValueError, "use_dora"):
        replace(plan, use_dora=True, activated=True)
    with refusal(ValueError, "loraplus_lr_ratio"):
        replace(plan, loraplus_lr_ratio=0.0)
    for beside in ({"freeze_a": True}, {"loraplus_lr_ratio": RATIO}, {"use_dora": True}):
        with refusal(ValueError, "vera"):
            replace(plan, vera=True, **beside)

"""Adapters trained over one reading of each batch are those trained one by one, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minilora.lora import LoRAConfig, attach, is_adapted
from minilora.nn import reading
from minilora.training import Batches, DivergedError, TrainingConfig, fit
from minilora.training.several import Candidate, fit_several
from tests import tiny
from tests.says import refusal
from tests.training.test_activated import INVOCATION, SHAPE, examples

TRAINING = TrainingConfig(7, 0.02, workers=1, micro_batches=2, prompt_bytes=0, warmup=2)


def lora(r=3, targets="all-linear", **changes) -> LoRAConfig:
    return LoRAConfig(r, 4, targets, invocation=INVOCATION, **changes)


CANDIDATES = {
    "wide": Candidate(lora(), TRAINING),
    "narrow": Candidate(lora(1, ("q_proj", "v_proj")), replace(TRAINING, lr=0.05)),
    "dropped": Candidate(lora(2, lora_dropout=0.4), replace(TRAINING, clip_norm=0.1), seed=5),
}


def alone(one: Candidate):
    model = tiny.model(1, **SHAPE)
    handle = attach(model, one.lora, np.random.default_rng(one.seed))
    history = fit(model, Batches(examples(), 4, seed=3), one.training, progress=False)
    return handle.adapter(), history


@pytest.mark.parametrize(("workers", "room"), [(1, 0), (1, 1 << 20), (2, 0), (2, 1 << 20)])
def test_each_is_what_it_becomes_alone(workers, room):
    how = dict(workers=workers, prompt_bytes=room)
    candidates = {
        name: replace(one, training=replace(one.training, **how))
        for name, one in CANDIDATES.items()
    }
    model = tiny.model(1, **SHAPE)
    model.train(workers == 1)
    before = {name: p.data for name, p in model.named_parameters()}
    got = fit_several(model, Batches(examples(), 4, seed=3), candidates, progress=False)
    assert list(got) == list(candidates)
    for name, one in candidates.items():
        adapter, history = alone(one)
        assert got[name].adapter == adapter
        for mine, its in zip(got[name].history.records, history.records, strict=True):
            mine, its = ({k: v for k, v in r.items() if k != "seconds"} for r in (mine, its))
            assert mine == its
    assert got["wide"].adapter != got["dropped"].adapter
    assert not is_adapted(model)
    assert all(module.training == (workers == 1) for _, module in model.named_modules())
    for name, p in model.named_parameters():
        assert p.data is before[name] and p.data.flags.writeable and p.requires_grad


def test_prompts_are_read_once_for_all(monkeypatch):
    real, calls = reading.read_past, []

    def counted(model, prompts):
        calls.append(len(prompts))
        return real(model, prompts)

    monkeypatch.setattr("minilora.training.parallel.read_past", counted)
    fit_several(tiny.model(1, **SHAPE), Batches(examples(), 4, seed=3), CANDIDATES, progress=False)
    assert sum(calls) == 7 * 4


def test_what_can_not_share_a_reading_is_refused_and_the_model_stays_plain():
    model = tiny.model(1, **SHAPE)
    one = CANDIDATES["wide"]
    plain = replace(one, lora=replace(one.lora, invocation=None))
    other = replace(one, lora=replace(one.lora, invocation=(4,)))
    longer = replace(one, training=replace(TRAINING, steps=9))
    watched = replace(one, training=replace(TRAINING, eval_every=2))
    for wrong, word in ((plain, "None"), (other, "(4,)"), (longer, "9"), (watched, "eval_every")):
        several = {"b": wrong} if wrong is watched else {"a": one, "b": wrong}
        with refusal(ValueError, "b", word):
            fit_several(model, Batches(examples(), 4, seed=3), several, progress=False)
    with refusal(ValueError, "no candidate"):
        fit_several(model, Batches(examples(), 4, seed=3), {}, progress=False)
    wild = replace(one, training=replace(TRAINING, lr=1e30, clip_norm=0.0))
    with refusal(DivergedError, "wild"):
        batches = Batches(examples(), 4, seed=3)
        fit_several(model, batches, {"a": one, "wild": wild}, progress=False)
    # The last step's loss is still finite, and what it leaves is not.
    last = replace(one, training=replace(TRAINING, steps=1, warmup=0, lr=1e39, clip_norm=0.0))
    with refusal(DivergedError, "last"):
        fit_several(model, Batches(examples(), 4, seed=3), {"last": last}, progress=False)
    assert not is_adapted(model) and all(p.requires_grad for p in model.parameters())

"""Merged equals adapted: what is compared, and each way in which it can fail."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.evaluation import check_merge
from minilora.evaluation.merging import TOLERANCE, checked_unload, compare_logits, logits, probe
from minilora.hub import load_pretrained
from minilora.lora import Attachment, LoRAConfig, adapter_state, attach
from minilora.nn import NotFiniteError
from tests.says import refusal


@pytest.fixture
def adapted(base):
    """(attachment with B not zero, ids, the base's logits of them)."""
    model, _ = load_pretrained(base)
    ids = probe(model)
    plain = logits(model, ids)
    attachment = attach(model, LoRAConfig(r=2), np.random.default_rng(0))
    for array in adapter_state(model).values():
        array += np.random.default_rng(1).standard_normal(array.shape).astype(np.float32)
    return attachment, ids, plain


def test_the_check_says_how_far_apart_they_are_and_leaves_the_adapter_on(adapted):
    attachment, ids, plain = adapted
    before = logits(attachment.model, ids)
    check = check_merge(attachment, ids, plain)
    assert check.largest == np.abs(before).max()
    assert check.from_adapted <= TOLERANCE * check.largest
    assert check.from_base == pytest.approx(np.abs(before - plain).max(), rel=1e-3)
    assert attachment.attached and not any(x.merged for x in attachment.layers.values())
    assert np.array_equal(logits(attachment.model, ids), before)
    assert check_merge(attachment, ids).from_base is None


def test_unloading_gives_the_model_that_was_checked(adapted):
    attachment, ids, plain = adapted
    before = logits(attachment.model, ids)
    check = checked_unload(attachment, ids, plain)
    assert not attachment.attached
    gap = np.abs(logits(attachment.model, ids) - before).max()
    assert check.from_adapted == gap <= TOLERANCE * check.largest


def test_an_adapter_that_changes_nothing_is_refused(base):
    model, _ = load_pretrained(base)
    ids = probe(model)
    plain = logits(model, ids)
    attachment = attach(model, LoRAConfig(r=2), np.random.default_rng(0))
    check_merge(attachment, ids)  # equal, where difference from the base is not asked for
    with refusal(ValueError, "base"):
        check_merge(attachment, ids, plain)
    with refusal(ValueError, "base"):
        checked_unload(attachment, ids, plain)


@pytest.mark.parametrize("check", [check_merge, checked_unload])
def test_a_wrong_merge_is_refused(adapted, monkeypatch, check):
    attachment, ids, plain = adapted
    real = Attachment.merge

    def wrongly(self):
        real(self)
        layer = next(iter(self.layers.values()))
        weight = layer.base_layer.weight
        weight.data = weight.data + np.float32(0.1)

    monkeypatch.setattr(Attachment, "merge", wrongly)
    with refusal(ValueError, "adapted"):
        check(attachment, ids, plain)


def test_an_unmerge_that_does_not_restore_is_refused(adapted, monkeypatch):
    attachment, ids, plain = adapted
    real = Attachment.unmerge

    def nearly(self):
        real(self)
        layer = next(iter(self.layers.values()))
        layer.lora_B.data = layer.lora_B.data * np.float32(1.0001)

    monkeypatch.setattr(Attachment, "unmerge", nearly)
    with refusal(ValueError, "bits"):
        check_merge(attachment, ids, plain)


@pytest.mark.parametrize("check", [check_merge, checked_unload])
def test_logits_that_overflow_are_named_as_such(adapted, check, recwarn):
    attachment, ids, plain = adapted
    attachment.model.model.norm.weight.data = np.full_like(
        attachment.model.model.norm.weight.data, 3e38
    )
    with refusal(NotFiniteError):
        check(attachment, ids, plain)
    assert not recwarn.list


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_no_agreement(bad):
    adapted, plain = np.ones((1, 2, 3), np.float32), np.zeros((1, 2, 3), np.float32)
    for merged, other in ((adapted * bad, adapted), (adapted, adapted * bad)):
        with np.errstate(invalid="ignore"), pytest.raises(ValueError):
            compare_logits(merged, other, plain)
    compare_logits(adapted, adapted, plain)

from __future__ import annotations

import numpy as np
import pytest

from minilora.lora import (
    AttachError,
    Attachment,
    LoRAConfig,
    MergeError,
    attach,
    base_fingerprint,
    base_state,
    is_adapted,
)
from tests.says import refusal


def adapted(tiny, dtype=np.float32, targets=("q_proj", "v_proj", "down_proj")):
    config = LoRAConfig(r=3, lora_alpha=4, target_modules=targets)
    handle = attach(tiny.model(dtype), config, np.random.default_rng(2))
    handle.model.eval()
    return tiny.randomise(handle)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("unload", [False, True])
def test_merged_differs_from_the_base_and_equals_the_adapted(tiny, dtype, tolerance, unload):
    plain = tiny.model(dtype)(tiny.ids).data
    handle = adapted(tiny, dtype)
    live = handle.model(tiny.ids).data
    (handle.merge_and_unload if unload else handle.merge)()
    merged = handle.model(tiny.ids).data
    assert np.abs(live - plain).max() > 0.1 and np.abs(merged - plain).max() > 0.1
    assert np.abs(merged - live).max() <= tolerance * np.abs(live).max()
    assert merged.dtype == dtype


def test_merge_then_unmerge_is_the_model_of_before_after_a_hundred_cycles(tiny):
    handle = adapted(tiny)
    model = handle.model
    before, output = tiny.snapshot(model), model(tiny.ids).data.tobytes()
    for _ in range(100):
        handle.merge()
        handle.unmerge()
    assert tiny.same(model, before) and model(tiny.ids).data.tobytes() == output


def test_base_state_is_the_base_even_while_merged(tiny):
    handle = adapted(tiny)
    model, mark = handle.model, base_fingerprint(tiny.model())
    arrays = base_state(model)
    handle.merge()
    assert base_fingerprint(model) == mark
    assert all(array is arrays[name] for name, array in base_state(model).items())


@pytest.mark.parametrize(
    "act", [Attachment.merge, Attachment.unmerge, Attachment.merge_and_unload, Attachment.detach]
)
def test_a_half_merged_model_is_refused_whole(tiny, act):
    handle = adapted(tiny)
    name, layer = list(handle.layers.items())[4]
    layer.merge()
    before = tiny.snapshot(handle.model)
    with pytest.raises(MergeError) as error:
        act(handle)
    assert "1 of 9" in str(error.value) and name in str(error.value)
    assert tiny.same(handle.model, before) and handle.attached


def test_merging_twice_and_unmerging_twice_are_errors(tiny):
    handle = adapted(tiny)
    handle.merge()
    before = tiny.snapshot(handle.model)
    with refusal(MergeError, 9):
        handle.merge()
    assert tiny.same(handle.model, before)
    handle.unmerge()
    with refusal(MergeError, 0, 9):
        handle.unmerge()


@pytest.mark.parametrize("act", [Attachment.merge, Attachment.merge_and_unload])
def test_one_bad_delta_leaves_every_layer_alone(tiny, act):
    handle = adapted(tiny)
    last = list(handle.layers)[-1]
    handle.layers[last].lora_A.data[1, 2] = np.nan
    before = tiny.snapshot(handle.model)
    with refusal(MergeError, last, "lora_A"):
        act(handle)
    assert tiny.same(handle.model, before)


def test_training_a_merged_model_is_an_error(tiny):
    handle = adapted(tiny)
    handle.merge()
    model = handle.model.train()
    with refusal(MergeError, "training"):
        model.loss(tiny.ids, tiny.labels)
    model.eval().loss(tiny.ids, tiny.labels)


@pytest.mark.parametrize("merge_first", [False, True])
def test_unloading_leaves_new_writeable_arrays_and_the_old_ones_as_they_were(tiny, merge_first):
    plain = tiny.model()
    content = {name: array.tobytes() for name, array in base_state(plain).items()}
    handle = adapted(tiny)
    model = handle.model
    names, kept = list(base_state(model)), base_state(model)
    targets = {f"{name}.weight" for name in handle.layers}
    if merge_first:
        handle.merge()
    assert handle.merge_and_unload() is model and not is_adapted(model)
    now = base_state(model)
    assert list(now) == names == [n for n, _ in model.named_parameters()]
    assert {name for name in now if now[name] is not kept[name]} == targets
    assert all(kept[name].tobytes() == content[name] for name in names)
    assert all(a.flags.writeable for a in now.values())
    assert all(p.requires_grad for p in model.parameters())
    for act in (handle.merge, handle.unmerge, handle.detach, handle.adapter):
        with pytest.raises(AttachError):
            act()

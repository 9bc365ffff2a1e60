from __future__ import annotations

import numpy as np
import pytest

from minilora.lora import (
    AttachError,
    LoRAConfig,
    MergeError,
    attach,
    base_fingerprint,
    base_state,
    is_adapted,
    lora_layers,
    merge,
    merge_and_unload,
    merged_state,
    unmerge,
)


def adapted(tiny, dtype=np.float32, targets=("q_proj", "v_proj", "down_proj")):
    config = LoRAConfig(r=3, lora_alpha=4, target_modules=targets)
    model = attach(tiny.model(dtype), config, np.random.default_rng(2))
    return tiny.randomise(model).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("unload", [False, True])
def test_merged_differs_from_the_base_and_equals_the_adapted(tiny, dtype, tolerance, unload):
    plain = tiny.model(dtype)(tiny.ids).data
    model = adapted(tiny, dtype)
    live = model(tiny.ids).data
    (merge_and_unload if unload else merge)(model)
    merged = model(tiny.ids).data
    assert np.abs(live - plain).max() > 0.1 and np.abs(merged - plain).max() > 0.1
    assert np.abs(merged - live).max() <= tolerance * np.abs(live).max()
    assert merged.dtype == dtype


def test_merge_then_unmerge_is_the_model_of_before_after_a_hundred_cycles(tiny):
    model = adapted(tiny)
    before, output = tiny.snapshot(model), model(tiny.ids).data.tobytes()
    for _ in range(100):
        merge(model)
        unmerge(model)
    assert tiny.same(model, before) and model(tiny.ids).data.tobytes() == output


def test_base_state_is_the_base_even_while_merged(tiny):
    model = adapted(tiny)
    mark = base_fingerprint(tiny.model())
    arrays = base_state(model)
    merge(model)
    assert base_fingerprint(model) == mark
    assert all(array is arrays[name] for name, array in base_state(model).items())


@pytest.mark.parametrize("act", [merge, unmerge, merge_and_unload])
def test_a_half_merged_model_is_refused_whole(tiny, act):
    model = adapted(tiny)
    list(lora_layers(model).values())[4].merge()
    before = tiny.snapshot(model)
    with pytest.raises(
        MergeError, match=r"got 1 of 9 layers merged \(model\.layers\.1\..*expected"
    ):
        act(model)
    assert tiny.same(model, before)


def test_merging_twice_and_unmerging_twice_are_errors(tiny):
    model = merge(adapted(tiny))
    before = tiny.snapshot(model)
    with pytest.raises(MergeError, match="got 9 of 9 layers merged"):
        merge(model)
    assert tiny.same(model, before)
    unmerge(model)
    with pytest.raises(MergeError, match="got 0 of 9"):
        unmerge(model)


@pytest.mark.parametrize("act", [merge, merge_and_unload, merged_state])
def test_one_bad_delta_leaves_every_layer_alone(tiny, act):
    model = adapted(tiny)
    last = list(lora_layers(model))[-1]
    lora_layers(model)[last].lora_A.data[1, 2] = np.nan
    before = tiny.snapshot(model)
    with pytest.raises(MergeError, match=rf"{last}: got 1 entries of lora_A"):
        act(model)
    assert tiny.same(model, before)


def test_training_a_merged_model_is_an_error(tiny):
    model = merge(adapted(tiny)).train()
    with pytest.raises(MergeError, match="training mode"):
        model.loss(tiny.ids, tiny.labels)
    model.eval().loss(tiny.ids, tiny.labels)


@pytest.mark.parametrize("merge_first", [False, True])
def test_unloading_leaves_new_writeable_arrays_and_the_old_ones_as_they_were(tiny, merge_first):
    plain = tiny.model()
    content = {name: array.tobytes() for name, array in base_state(plain).items()}
    model = adapted(tiny)
    names, kept = list(base_state(model)), base_state(model)
    targets = {f"{name}.weight" for name in lora_layers(model)}
    if merge_first:
        merge(model)
    assert merge_and_unload(model) is model and not is_adapted(model)
    now = base_state(model)
    assert list(now) == names == [n for n, _ in model.named_parameters()]
    assert {name for name in now if now[name] is not kept[name]} == targets
    assert all(kept[name].tobytes() == content[name] for name in names)
    assert all(a.flags.writeable for a in now.values())
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(AttachError):
        merge(model)


def test_merged_state_is_what_unloading_leaves(tiny):
    model = adapted(tiny)
    before = tiny.snapshot(model)
    early = merged_state(model)
    assert tiny.same(model, before)
    merge(model)
    late = merged_state(model)
    final = base_state(merge_and_unload(model))
    assert list(early) == list(final)
    for name, array in final.items():
        assert array.tobytes() == early[name].tobytes() == late[name].tobytes()

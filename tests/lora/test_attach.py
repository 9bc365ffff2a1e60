from __future__ import annotations

import numpy as np
import pytest

from minilora.lora import (
    AttachError,
    LoRAConfig,
    LoRALinear,
    MergeError,
    TargetError,
    adapter_state,
    attach,
    base_fingerprint,
    base_state,
    detach,
    is_adapted,
    lora_layers,
    merge,
    trainable_parameters,
    unmerge,
)
from minilora.nn import Linear

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def rng() -> np.random.Generator:
    return np.random.default_rng(2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), "all-linear", ("layers.1.mlp.up_proj",)])
def test_attaching_changes_no_output_bit_for_bit(tiny, dtype, targets):
    model = tiny.model(dtype)
    before = model(tiny.ids).data.tobytes()
    assert attach(model, LoRAConfig(r=2, target_modules=targets), rng()) is model
    assert is_adapted(model) and model(tiny.ids).data.tobytes() == before
    tiny.randomise(model)
    assert model(tiny.ids).data.tobytes() != before


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("q_proj",), [f"model.layers.{i}.self_attn.q_proj" for i in range(3)]),
        (("self_attn.o_proj",), [f"model.layers.{i}.self_attn.o_proj" for i in range(3)]),
        (("layers.2.mlp.down_proj",), ["model.layers.2.mlp.down_proj"]),
        (("model.layers.0.mlp.up_proj",), ["model.layers.0.mlp.up_proj"]),
    ],
)
def test_targets_are_whole_dotted_suffixes(tiny, targets, expected):
    model = tiny.model()
    attach(model, LoRAConfig(r=2, target_modules=targets), rng())
    assert list(lora_layers(model)) == expected


@pytest.mark.parametrize("tied", [True, False])
def test_all_linear_is_every_linear_but_the_head(tiny, tied):
    model = tiny.model(tie_word_embeddings=tied)
    attach(model, LoRAConfig(r=2, target_modules="all-linear"), rng())
    names = list(lora_layers(model))
    assert len(names) == 3 * 7 and {n.rpartition(".")[2] for n in names} == set(ALL)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (("q_prj", "v_proj"), ["'q_prj'", "did you mean q_proj", "down_proj (3)"]),
        (("proj",), ["'proj'"]),
        (("_proj",), ["'_proj'"]),
        (("v_proj", "c_attn", "mlp.q_proj"), ["'c_attn'", "'mlp.q_proj'"]),
        (("self_attn",), ["Attention, not a Linear"]),
        (("embed_tokens",), ["Embedding, not a Linear"]),
        (("lm_head",), ["output head cannot"]),
    ],
)
def test_targets_that_fit_nothing_are_named_and_nothing_changes(tiny, targets, words):
    model = tiny.model(tie_word_embeddings=False)
    before = tiny.snapshot(model)
    with pytest.raises(TargetError) as error:
        attach(model, LoRAConfig(r=2, target_modules=targets), rng())
    for word in words:
        assert word in str(error.value)
    assert "'v_proj'" not in str(error.value)
    assert tiny.same(model, before)


def test_a_rank_above_one_layer_is_refused_before_any_changes(tiny):
    model = tiny.model()
    before = tiny.snapshot(model)
    with pytest.raises(ValueError, match=r"got r 7 for model\.layers\.0\.self_attn\.k_proj.*6"):
        attach(model, LoRAConfig(r=7, target_modules="all-linear"), rng())
    assert tiny.same(model, before)


def test_a_missing_generator_is_refused(tiny):
    model = tiny.model()
    before = tiny.snapshot(model)
    with pytest.raises(ValueError, match=r"expected a numpy\.random\.Generator"):
        attach(model, LoRAConfig(r=2), 0)
    assert tiny.same(model, before)


def test_a_weight_that_two_modules_share_is_refused(tiny):
    model = tiny.model()
    model.model.layers[1].self_attn.q_proj.weight = model.model.layers[0].self_attn.q_proj.weight
    before = tiny.snapshot(model)
    with pytest.raises(TargetError, match=r"layers\.1\.self_attn\.q_proj.*shares"):
        attach(model, LoRAConfig(r=2), rng())
    assert tiny.same(model, before)


def test_attaching_to_an_adapted_model_is_refused(tiny):
    model = attach(tiny.model(), LoRAConfig(r=2, target_modules=("q_proj",)), rng())
    before = tiny.snapshot(model)
    with pytest.raises(AttachError, match="got a model with 3 adapted layers, expected a plain"):
        attach(model, LoRAConfig(r=2, target_modules=("v_proj",)), rng())
    assert tiny.same(model, before)


def test_everything_but_A_and_B_is_frozen(tiny):
    model = tiny.model()
    model.loss(tiny.ids, tiny.labels).backward()
    attach(model, LoRAConfig(r=2, target_modules=("q_proj", "down_proj")), rng())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(adapter_state(model)) and len(trained) == 3 * 2 * 2
    assert trainable_parameters(model) == 3 * 2 * ((10 + 18) + (14 + 10))
    assert all(p.grad is None for p in model.parameters())


def test_writes_into_the_base_raise_while_adapted(tiny):
    model = attach(tiny.model(), LoRAConfig(r=2), rng())
    for name, array in base_state(model).items():
        with pytest.raises(ValueError, match="read-only"):
            array += 1
        assert not array.flags.writeable, name
    for array in adapter_state(model).values():
        array += 1
    for array in base_state(detach(model)).values():
        array += 1


def test_names_with_an_adapter_are_pefts_and_the_base_keeps_its_own(tiny):
    model = tiny.model()
    names, mark = [n for n, _ in model.named_parameters()], base_fingerprint(model)
    attach(model, LoRAConfig(r=2, target_modules=("q_proj",)), rng())
    parameters = dict(model.named_parameters())
    stem = "model.layers.1.self_attn.q_proj"
    assert {f"{stem}.base_layer.weight", f"{stem}.lora_A", f"{stem}.lora_B"} <= set(parameters)
    assert f"{stem}.weight" not in parameters
    assert list(base_state(model)) == names and base_fingerprint(model) == mark
    assert list(adapter_state(model))[2:4] == [f"{stem}.lora_A", f"{stem}.lora_B"]


def test_detach_gives_the_model_back_exactly(tiny):
    model = tiny.model()
    model.model.norm.requires_grad_(False)
    model.model.embed_tokens.weight.data.flags.writeable = False
    before, output = tiny.snapshot(model), model(tiny.ids).data.tobytes()
    attach(model, LoRAConfig(r=2, target_modules="all-linear"), rng())
    tiny.randomise(model)
    model.eval()
    assert detach(model) is model and not is_adapted(model)
    assert tiny.same(model, before) and model(tiny.ids).data.tobytes() == output
    assert not any(module.training for _, module in model.named_modules())
    attach(model, LoRAConfig(r=3), rng())  # and it can be adapted again


def test_detach_refuses_a_merged_or_half_merged_model(tiny):
    model = tiny.randomise(attach(tiny.model(), LoRAConfig(r=2), rng()))
    next(iter(lora_layers(model).values())).merge()
    for count in (1, 6):
        before = tiny.snapshot(model)
        with pytest.raises(MergeError, match=f"detach got {count} of 6 layers merged"):
            detach(model)
        assert tiny.same(model, before)
        if count == 1:
            next(iter(lora_layers(model).values())).unmerge()
            merge(model)
    unmerge(model)
    assert not is_adapted(detach(model))


@pytest.mark.parametrize("act", [detach, merge, unmerge])
def test_a_plain_model_has_nothing_to_take_off_or_merge(tiny, act):
    model = tiny.model()
    with pytest.raises(AttachError, match="without an adapter"):
        act(model)


def test_layers_put_in_by_hand_are_not_detached(tiny):
    model = tiny.model()
    name = "model.layers.0.self_attn.q_proj"
    base = model.get_submodule(name)
    assert isinstance(base, Linear)
    model.set_submodule(name, LoRALinear(base, LoRAConfig(r=2), rng()))
    with pytest.raises(AttachError, match="did not put"):
        detach(model)


def test_same_generator_same_adapter(tiny):
    first, second = (attach(tiny.model(), LoRAConfig(r=2), rng()) for _ in range(2))
    other = attach(tiny.model(), LoRAConfig(r=2), np.random.default_rng(3))
    for name, array in adapter_state(first).items():
        np.testing.assert_array_equal(array, adapter_state(second)[name])
        if name.endswith("lora_A"):
            assert not np.array_equal(array, adapter_state(other)[name])

from __future__ import annotations

import copy
import pickle

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
    is_adapted,
    lora_layers,
    trainable_parameters,
)
from tests.says import refusal

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def rng() -> np.random.Generator:
    return np.random.default_rng(2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), "all-linear", ("layers.1.mlp.up_proj",)])
def test_attaching_changes_no_output_bit_for_bit(tiny, dtype, targets):
    model = tiny.model(dtype)
    before = model(tiny.ids).data.tobytes()
    handle = attach(model, LoRAConfig(r=2, target_modules=targets), rng())
    assert handle.model is model and handle.attached
    assert is_adapted(model) and model(tiny.ids).data.tobytes() == before
    tiny.randomise(handle)
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
    handle = attach(tiny.model(), LoRAConfig(r=2, target_modules=targets), rng())
    assert list(handle.layers) == list(lora_layers(handle.model)) == expected


@pytest.mark.parametrize("tied", [True, False])
def test_all_linear_is_every_linear_but_the_head(tiny, tied):
    model = tiny.model(tie_word_embeddings=tied)
    names = list(attach(model, LoRAConfig(r=2, target_modules="all-linear"), rng()).layers)
    assert len(names) == 3 * 7 and {n.rpartition(".")[2] for n in names} == set(ALL)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (("q_prj", "v_proj"), ["'q_prj'", "did you mean q_proj", "down_proj (3)"]),
        (("proj",), ["'proj'"]),
        (("_proj",), ["'_proj'"]),
        (("v_proj", "c_attn", "mlp.q_proj"), ["'c_attn'", "'mlp.q_proj'"]),
        (("self_attn",), ["Attention, not a Linear"]),
        (("norm",), ["RMSNorm, not a Linear"]),
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
    with refusal(ValueError, 7, "model.layers.0.self_attn.k_proj", 6):
        attach(model, LoRAConfig(r=7, target_modules="all-linear"), rng())
    assert tiny.same(model, before)


def test_a_missing_generator_is_refused(tiny):
    model = tiny.model()
    before = tiny.snapshot(model)
    for missing in (0, None):
        with pytest.raises(ValueError, match=r"numpy\.random\.Generator"):
            attach(model, LoRAConfig(r=2), missing)
    assert tiny.same(model, before)


def test_something_else_than_a_config_or_an_adapter_is_refused(tiny, tmp_path):
    model = tiny.model()
    before = tiny.snapshot(model)
    for what in (None, {"r": 2}, str(tmp_path)):
        with refusal(ValueError, "LoRAConfig", "Adapter"):
            attach(model, what, rng())
    assert tiny.same(model, before)


def test_a_weight_that_two_modules_share_is_refused(tiny):
    model = tiny.model()
    model.model.layers[1].self_attn.q_proj.weight = model.model.layers[0].self_attn.q_proj.weight
    before = tiny.snapshot(model)
    with refusal(TargetError, "layers.1.self_attn.q_proj"):
        attach(model, LoRAConfig(r=2), rng())
    assert tiny.same(model, before)


def test_attaching_to_an_adapted_model_is_refused(tiny):
    model = attach(tiny.model(), LoRAConfig(r=2, target_modules=("q_proj",)), rng()).model
    before = tiny.snapshot(model)
    with refusal(AttachError, 3):
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
    handle = attach(tiny.model(), LoRAConfig(r=2), rng())
    model = handle.model
    for name, array in base_state(model).items():
        with pytest.raises(ValueError, match="read-only"):
            array += 1
        assert not array.flags.writeable, name
    for array in adapter_state(model).values():
        array += 1
    for array in base_state(handle.detach()).values():
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
    model.model.layers[1].eval()
    before, output = tiny.snapshot(model), model(tiny.ids).data.tobytes()
    names = set(vars(model))
    modes = {name: module.training for name, module in model.named_modules()}
    handle = attach(model, LoRAConfig(r=2, target_modules="all-linear"), rng())
    assert set(vars(model)) == names  # nothing is hung on the model
    tiny.randomise(handle)
    model.eval()
    assert handle.detach() is model and not is_adapted(model) and not handle.attached
    assert tiny.same(model, before) and model(tiny.ids).data.tobytes() == output
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert set(modes.values()) == {True, False}
    assert set(vars(model)) == names
    attach(model, LoRAConfig(r=3), rng())  # and it can be adapted again


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_a_handle_is_apart_and_as_frozen(tiny, copied):
    handle = tiny.randomise(attach(tiny.model(), LoRAConfig(r=2), rng()))
    handle.model.eval()
    output, twin = handle.model(tiny.ids).data.tobytes(), copied(handle)
    assert twin.model(tiny.ids).data.tobytes() == output
    assert not any(array.flags.writeable for array in base_state(twin.model).values())
    assert twin.adapter() == handle.adapter()
    twin.merge_and_unload()
    assert handle.attached and handle.model(tiny.ids).data.tobytes() == output
    plain = handle.detach()
    assert all(p.requires_grad and p.data.flags.writeable for p in plain.parameters())
    assert all(p.requires_grad and p.data.flags.writeable for p in twin.model.parameters())


def test_detach_refuses_a_merged_model(tiny):
    handle = tiny.randomise(attach(tiny.model(), LoRAConfig(r=2), rng()))
    handle.merge()
    before = tiny.snapshot(handle.model)
    with refusal(MergeError, 6):
        handle.detach()
    assert tiny.same(handle.model, before)
    handle.unmerge()
    assert not is_adapted(handle.detach())


@pytest.mark.parametrize("act", ["detach", "merge", "unmerge", "merge_and_unload", "adapter"])
def test_a_handle_whose_adapter_is_off_does_nothing(tiny, act):
    handle = attach(tiny.model(), LoRAConfig(r=2), rng())
    model = handle.detach()
    other = attach(model, LoRAConfig(r=2), rng())
    before = tiny.snapshot(model)
    with pytest.raises(AttachError):
        getattr(handle, act)()
    assert tiny.same(model, before) and other.attached


@pytest.mark.parametrize("act", ["detach", "merge", "merge_and_unload", "adapter"])
def test_a_layer_that_was_taken_out_by_hand_is_told(tiny, act):
    handle = attach(tiny.model(), LoRAConfig(r=2), rng())
    name = "model.layers.1.self_attn.q_proj"
    handle.model.set_submodule(name, handle.layers[name].base_layer)
    before = tiny.snapshot(handle.model)
    with pytest.raises(AttachError, match=name):
        getattr(handle, act)()
    assert tiny.same(handle.model, before)


def test_a_model_with_layers_put_in_by_hand_is_adapted(tiny):
    model = tiny.model()
    name = "model.layers.0.self_attn.q_proj"
    model.set_submodule(name, LoRALinear(model.get_submodule(name), LoRAConfig(r=2), rng()))
    assert is_adapted(model)
    with pytest.raises(AttachError):
        attach(model, LoRAConfig(r=2), rng())


def test_same_generator_same_adapter(tiny):
    first, second = (attach(tiny.model(), LoRAConfig(r=2), rng()).adapter() for _ in range(2))
    other = attach(tiny.model(), LoRAConfig(r=2), np.random.default_rng(3)).adapter()
    assert first == second != other
    for name in first.modules:
        assert not np.array_equal(first.factors(name)[0], other.factors(name)[0])

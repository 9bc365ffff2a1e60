from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import shutil
import struct
from dataclasses import replace

import numpy as np
import pytest

from minilora import __version__
from minilora.lora import (
    Adapter,
    AdapterError,
    AttachError,
    BaseMark,
    BaseMismatchError,
    LoRAConfig,
    TargetError,
    adapter_state,
    attach,
    base,
    base_fingerprint,
    base_state,
    fitting,
    is_adapted,
    mark_base,
    trainable_parameters,
)
from minilora.nn import Transformer, TransformerConfig
from minilora.storage import fingerprint, read_safetensors, write_safetensors
from tests.says import refusal

TARGETS = ("v_proj", "down_proj")
CONFIG = LoRAConfig(r=3, lora_alpha=4, target_modules=TARGETS)
STEM = "base_model.model.model.layers"


def rng():
    return np.random.default_rng(2)


def adapted(tiny, dtype=np.float32, **settings):
    config = LoRAConfig(**{"r": 3, "lora_alpha": 4, "target_modules": TARGETS, **settings})
    handle = attach(tiny.model(dtype), config, np.random.default_rng(2))
    handle.model.eval()
    return tiny.randomise(handle)


@pytest.fixture
def saved(tiny, tmp_path):
    """An adapter's folder."""
    return adapted(tiny).adapter(base_name="tiny").write(tmp_path / "adapter")


def load(model, folder, **settings):
    """The plain model with the folder's adapter."""
    return attach(model, Adapter.read(folder), **settings).model


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder, change):
    """Change the tensors, and let the sidecar say that they are its own."""
    arrays, metadata = read_safetensors(folder / "adapter_model.safetensors")
    change(arrays)
    write_safetensors(folder / "adapter_model.safetensors", arrays, metadata)
    plain = {n.removeprefix("base_model.model.").removesuffix(".weight"): arrays[n] for n in arrays}
    edit_json(folder / "minilora.json", adapter_fingerprint=fingerprint(plain))


def as_written_before(folder, model):
    """The folder with the sidecar of version 1, which knew the adapted weights alone."""
    names = {f"{name}.weight" for name in Adapter.read(folder).modules}
    mark = fingerprint({name: array for name, array in base_state(model).items() if name in names})
    path = folder / "minilora.json"
    sidecar = json.loads(path.read_text())
    kept = {key: sidecar[key] for key in ("base_name", "minilora_version", "provenance", "scaling")}
    path.write_text(json.dumps({**kept, "format_version": 1, "base_fingerprint": mark}))
    return folder


def refuse(tiny, folder, error, *named, model=None):
    """Loading raises, and the model is what it was."""
    model = model or tiny.model()
    before, output = tiny.snapshot(model), model(tiny.ids).data.tobytes()
    with refusal(error, *named):
        load(model, folder)
    assert tiny.same(model, before) and model(tiny.ids).data.tobytes() == output


# ------------------------------------------------------------------------------------ save and load


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": "all-linear", "r": 2},
        {"use_rslora": True, "lora_alpha": 2.5},
        {"target_modules": ("layers.1.self_attn.q_proj",), "lora_dropout": 0.25},
    ],
)
def test_round_trip_is_exact(tiny, tmp_path, dtype, settings):
    handle = adapted(tiny, dtype, **settings)
    expected, plain = handle.model(tiny.ids).data, tiny.model(dtype)
    assert np.abs(expected - plain(tiny.ids).data).max() > 0.01
    adapter = handle.adapter(base_name="tiny", provenance={"seed": 7})
    read = Adapter.read(adapter.write(tmp_path / "a"))
    assert read == adapter and read.provenance == {"seed": 7} and read.base_name == "tiny"
    again = attach(plain, read)
    assert plain.eval()(tiny.ids).data.tobytes() == expected.tobytes()
    assert list(again.layers) == list(handle.layers)
    assert trainable_parameters(plain) == 0 and again.adapter() == adapter


def test_a_trainable_adapter_goes_on_training(tiny, tmp_path):
    handle = adapted(tiny, lora_dropout=0.5)
    adapter, model = handle.adapter(), tiny.model()
    with refusal(ValueError, "rng"):
        attach(model, adapter, trainable=True)
    other = attach(model, adapter, np.random.default_rng(0), trainable=True)
    assert trainable_parameters(model) == trainable_parameters(handle.model) > 0
    model.loss(tiny.ids, tiny.labels).backward()
    assert all(layer.lora_A.grad is not None for layer in other.layers.values())
    for array in adapter_state(model).values():
        array += 1  # writeable, and not the Adapter's
    assert handle.adapter() == adapter != other.adapter()


def test_equal_adapters_give_equal_bytes_and_saving_replaces(tiny, tmp_path):
    provenance = {"data_hash": "sha256:ab", "training": {"lr": np.float64(0.5), "steps": 3}}
    for folder, targets in (("a", TARGETS), ("b", TARGETS[::-1])):
        handle = adapted(tiny, target_modules=targets)
        adapter = handle.adapter(base_name="tiny", provenance=provenance)
        adapter.write(tmp_path / folder)
    adapter.write(tmp_path / "a")
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors", "minilora.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_files_are_pefts(tiny, tmp_path):
    adapted(tiny).adapter(base_name="tiny/base", provenance={"seed": 7}).write(tmp_path / "a")
    text = (tmp_path / "a" / "adapter_config.json").read_text()
    assert json.loads(text) == {
        "base_model_name_or_path": "tiny/base", "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "lora_alpha": 4, "lora_dropout": 0.0,
        "peft_type": "LORA", "r": 3, "target_modules": ["down_proj", "v_proj"],
        "task_type": "CAUSAL_LM", "use_rslora": False,
    }  # fmt: skip
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    arrays, metadata = read_safetensors(tmp_path / "a" / "adapter_model.safetensors")
    assert metadata == {"format": "pt"} and list(arrays) == sorted(arrays) and len(arrays) == 12
    assert arrays[f"{STEM}.2.mlp.down_proj.lora_A.weight"].shape == (3, 14)
    assert arrays[f"{STEM}.2.mlp.down_proj.lora_B.weight"].shape == (10, 3)
    sidecar = json.loads((tmp_path / "a" / "minilora.json").read_text())
    assert sidecar["base_name"] == "tiny/base" and sidecar["provenance"] == {"seed": 7}
    assert sidecar["format_version"] == 2 and sidecar["minilora_version"] == __version__
    adapter, base = Adapter.read(tmp_path / "a"), mark_base(tiny.model())
    assert sidecar["adapter_fingerprint"] == adapter.fingerprint
    assert sidecar["base_fingerprint"] == base.fingerprint == base_fingerprint(tiny.model())
    assert sidecar["base_config"] == base.config and base.config["head_dim"] == 6
    assert sidecar["tokenizer_fingerprint"] is sidecar["template_fingerprint"] is None


def test_all_linear_is_saved_as_the_modules_it_meant(tiny, tmp_path):
    handle = adapted(tiny, target_modules="all-linear", r=2)
    adapter = handle.adapter()
    assert list(adapter.config.target_modules) == sorted(handle.layers)
    adapter.write(tmp_path / "a")
    targets = json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(handle.layers) and len(targets) == 21


def test_a_merged_adapter_is_saved_as_an_unmerged_one(tiny, saved, tmp_path):
    handle = adapted(tiny)
    handle.merge()
    handle.adapter(base_name="tiny").write(tmp_path / "b")
    for path in saved.iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("provenance", "named"),
    [({"loss": np.nan}, ("JSON",)), ({"x": {1, 2}}, ("set",)), ({1: 0, "a": 1}, ("JSON",))],
)
def test_provenance_that_json_cannot_hold_writes_nothing(tiny, tmp_path, provenance, named):
    with refusal(ValueError, *named):
        adapted(tiny).adapter(base_name="tiny", provenance=provenance).write(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_is_not_finite_is_none(tiny):
    handle = adapted(tiny)
    handle.layers["model.layers.1.mlp.down_proj"].lora_B.data[0, 0] = np.inf
    with refusal(ValueError, "layers.1.mlp.down_proj.lora_B"):
        handle.adapter()


# ------------------------------------------------------------------------------------------ a value


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pickled(value):
    return pickle.loads(pickle.dumps(value))


def small(**changes):
    """An adapter of two modules that no model has seen."""
    config = LoRAConfig(**{
        "r": 2, "lora_alpha": 3, "target_modules": ("q", "v"), "rank_pattern": {"v": 1},
        **changes.pop("config", {}),
    })  # fmt: skip
    factors = {"m.v": (numbers(1, 5), numbers(4, 1)), "m.q": (numbers(2, 5), numbers(6, 2))}
    return Adapter(config, **{"factors": factors, "base": BaseMark("b", "sha256:1"), **changes})


def test_what_an_adapter_is_can_be_read_from_it():
    adapter = small(provenance={"seed": np.int64(3)})
    assert adapter.modules == ("m.q", "m.v")
    assert (adapter.base_name, adapter.base_fingerprint) == ("b", "sha256:1")
    A, B = adapter.factors("m.q")
    assert A.shape == (2, 5) and B.shape == (6, 2)
    assert (adapter.scaling("m.q"), adapter.scaling("m.v")) == (1.5, 3.0)
    np.testing.assert_allclose(adapter.delta("m.q"), 1.5 * (B @ A), rtol=1e-6)
    assert adapter.delta("m.v").shape == (4, 5) and adapter.delta("m.v").dtype == np.float32
    assert adapter.size == 5 + 4 + 10 + 12 and adapter.nbytes == 4 * adapter.size
    assert adapter.provenance == {"seed": 3} and isinstance(adapter.provenance["seed"], int)
    for call in (adapter.factors, adapter.delta, adapter.scaling):
        with pytest.raises(ValueError, match=r"m\.x"):
            call("m.x")


def test_its_numbers_are_those_of_the_layers(tiny):
    handle = adapted(tiny, rank_pattern={"v_proj": 2}, use_rslora=True)
    adapter = handle.adapter()
    for name, layer in handle.layers.items():
        np.testing.assert_array_equal(adapter.delta(name), layer.delta_weight())
        assert adapter.scaling(name) == layer.scaling


def test_nothing_of_an_adapter_can_be_changed():
    factors = {"m.q": (numbers(2, 5), numbers(6, 2))}
    said = {"list": [1]}
    adapter = small(factors=factors, config={"rank_pattern": {}}, provenance=said)
    before = adapter.fingerprint
    for array in factors["m.q"]:
        array += 1  # the caller's own
    said["list"].append(2)
    adapter.provenance["list"].append(3)
    assert adapter.fingerprint == before and adapter.provenance == {"list": [1]}
    for array in adapter.factors("m.q"):
        with pytest.raises(ValueError, match="read-only"):
            array += 1
    for name in ("config", "base", "source", "anything"):
        with pytest.raises(AttributeError):
            setattr(adapter, name, None)
    with pytest.raises(AttributeError):
        del adapter.base
    with pytest.raises(TypeError):
        adapter.config.rank_pattern["q"] = 1
    with pytest.raises(TypeError):
        adapter.rule["target_modules"] = "q"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_of_an_adapter_is_equal_and_as_unchangeable(copied):
    adapter = small(provenance={"seed": 1}, source="a/folder", rule={"target_modules": ".*"})
    twin = copied(adapter)
    assert twin == adapter and hash(twin) == hash(adapter)
    assert (twin.provenance, twin.source, twin.rule) == ({"seed": 1}, "a/folder", adapter.rule)
    assert not any(array.flags.writeable for array in twin.factors("m.q"))


def flip(array):
    array = array.copy()
    array.view(np.uint32)[0, 0] ^= 1
    return array


OTHER_ADAPTERS = {
    "alpha": dict(config={"lora_alpha": 4}),
    "dropout": dict(config={"lora_dropout": 0.5}),
    "base": dict(base=BaseMark("b", "sha256:2")),
    "unknown base": dict(base=BaseMark("b")),
    "one bit": dict(
        factors={"m.v": (numbers(1, 5), numbers(4, 1)), "m.q": (flip(numbers(2, 5)), numbers(6, 2))}
    ),
    "dtype": dict(
        factors={"m.v": (numbers(1, 5), numbers(4, 1)),
                 "m.q": (numbers(2, 5).astype(np.float64), numbers(6, 2))}
    ),
    "fewer modules": dict(factors={"m.q": (numbers(2, 5), numbers(6, 2))}),
    "other names": dict(
        factors={"n.v": (numbers(1, 5), numbers(4, 1)), "m.q": (numbers(2, 5), numbers(6, 2))}
    ),
}  # fmt: skip


@pytest.mark.parametrize("changes", OTHER_ADAPTERS.values(), ids=OTHER_ADAPTERS)
def test_adapters_are_equal_in_config_bits_and_base_alone(changes):
    assert small(**changes) != small() and small() != "an adapter"
    assert small() == small(
        base=BaseMark("another name", "sha256:1"), provenance={"x": 1}, source="elsewhere"
    )


def test_a_sign_of_zero_is_a_bit():
    zeros = {"m.q": (np.zeros((2, 5), np.float32), np.zeros((6, 2), np.float32))}
    negative = {"m.q": (-zeros["m.q"][0], zeros["m.q"][1])}
    config = {"rank_pattern": {}}
    assert small(factors=zeros, config=config) != small(factors=negative, config=config)


@pytest.mark.parametrize(
    ("factors", "named"),
    [
        ({}, ()),
        ({"m.k": (numbers(2, 5), numbers(6, 2))}, ("m.k",)),
        ({"m.q": (numbers(3, 5), numbers(6, 3))}, ("m.q.lora_A", (3, 5))),
        ({"m.q": (numbers(2, 5), numbers(6, 3))}, ("m.q.lora_B", (6, 3))),
        ({"m.q": (numbers(2), numbers(6, 2))}, ("m.q.lora_A",)),
        ({"m.q": (numbers(2, 5).astype(np.int32), numbers(6, 2))}, ("m.q.lora_A", "int32")),
        ({"m.q": (numbers(2, 5), numbers(6, 2) * np.nan)}, ("m.q.lora_B", "NaN")),
    ],
)
def test_factors_that_are_no_adapter_are_refused(factors, named):
    with refusal(AdapterError, *named):
        small(factors=factors)


# ---------------------------------------------------------------------------------------- the base


def test_another_base_of_the_same_shapes_is_refused_with_both_fingerprints(tiny, saved):
    expected = Adapter.read(saved).base_fingerprint
    assert expected.startswith("sha256:")
    refuse(tiny, saved, BaseMismatchError, "'tiny'", expected, model=tiny.model(seed=1))


OTHERS = {
    "wider": dict(hidden_size=16),
    "fewer layers": dict(layers=2),
    "too small for the rank": dict(hidden_size=2),
    "of the same shapes": dict(seed=1),
}


@pytest.mark.parametrize("settings", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("sidecar", [True, False])
def test_another_base_is_told_by_both_names_before_any_shape(tiny, saved, settings, sidecar):
    model = tiny.model(**settings)
    if not sidecar:
        (saved / "minilora.json").unlink()
        if "seed" in settings:  # then nothing tells it from its own base
            with pytest.warns(UserWarning, match="not checked"):
                assert is_adapted(load(model, saved, base_name="other"))
            return
    before = tiny.snapshot(model)
    with refusal(BaseMismatchError, "'tiny'", "'other'"):
        load(model, saved, base_name="other")
    assert tiny.same(model, before)


def test_the_base_by_another_name_is_the_base(tiny, saved):
    """Its weights decide; what is wrong with the folder is then the folder's."""
    assert is_adapted(load(tiny.model(), saved, base_name="a copy of tiny"))
    edit_tensors(saved, lambda arrays: arrays.pop(sorted(arrays)[0]))
    edit_tensors(saved, lambda arrays: arrays.pop(sorted(arrays)[0]))
    with refusal(AdapterError, "model.layers.0") as error:
        load(tiny.model(), saved, base_name="a copy of tiny")
    assert not isinstance(error.value, BaseMismatchError)


def test_a_base_that_the_adapter_was_merged_into_is_refused(tiny, saved):
    refuse(tiny, saved, BaseMismatchError, "merged", model=adapted(tiny).merge_and_unload())
    load(adapted(tiny).detach(), saved)


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_of_the_base_counts(tiny, tied):
    adapter = attach(tiny.model(tie_word_embeddings=tied), CONFIG, rng()).adapter()
    names = [name for name, _ in tiny.model(tie_word_embeddings=tied).named_parameters()]
    assert ("lm_head.weight" in names) != tied
    for name in names:
        model = tiny.model(tie_word_embeddings=tied)
        array = dict(model.named_parameters())[name].data
        array.view(np.uint32).reshape(-1)[-1] ^= 1  # the last bit of the last number
        before = tiny.snapshot(model)
        with pytest.raises(BaseMismatchError):
            attach(model, adapter)
        assert tiny.same(model, before), name
    attach(tiny.model(tie_word_embeddings=tied), adapter)


def test_rows_of_the_embedding_in_another_order_are_another_base(tiny, saved):
    model = tiny.model()
    model.model.embed_tokens.weight.data = model.model.embed_tokens.weight.data[::-1].copy()
    refuse(tiny, saved, BaseMismatchError, "weights", model=model)


COMPUTING = {
    "rms_norm_eps": 1e-6, "rope_theta": 4000.0, "num_key_value_heads": 3, "head_dim": 12,
}  # fmt: skip
SILENT = {"max_position_embeddings": 64, "initializer_range": 0.5, "eos_token_id": (3, 4)}


def with_config(model, **changes):
    """The model's weights under another config, as an edited config.json gives them."""
    other = Transformer(replace(model.config, **changes), None)
    for (_, own), (_, their) in zip(
        other.named_parameters(), model.named_parameters(), strict=True
    ):
        own.data = their.data
    return other


@pytest.mark.parametrize("name", COMPUTING)
def test_numbers_of_the_config_that_change_what_is_computed_count(tiny, saved, name):
    model = with_config(tiny.model(), **{name: COMPUTING[name]})
    before = tiny.snapshot(model)
    expected = getattr(tiny.model().config, name)
    with pytest.raises(BaseMismatchError) as error:
        attach(model, Adapter.read(saved), base_name="tiny")
    for told in (name, repr(COMPUTING[name]), repr(expected)):
        assert told in str(error.value)
    assert tiny.same(model, before)


def test_both_bases_are_named_once(tiny, saved):
    model = with_config(tiny.model(), rope_theta=4000.0)
    with pytest.raises(BaseMismatchError) as error:
        attach(model, Adapter.read(saved), base_name="another name")
    assert [str(error.value).count(name) for name in ("'tiny'", "'another name'")] == [1, 1]


def test_every_field_of_the_config_is_either_silent_or_counts(tiny):
    fields = {field.name for field in dataclasses.fields(TransformerConfig)}
    assert fields == set(mark_base(tiny.model()).config) | set(base.SILENT)
    assert not set(mark_base(tiny.model()).config) & set(base.SILENT)


@pytest.mark.parametrize("name", SILENT)
def test_numbers_that_change_no_logit_do_not_count(tiny, saved, name):
    model = with_config(tiny.model(), **{name: SILENT[name]})
    expected = load(tiny.model(), saved).eval()(tiny.ids).data
    assert load(model, saved).eval()(tiny.ids).data.tobytes() == expected.tobytes()


def test_numbers_are_compared_as_the_float32_that_is_computed_with(tiny, saved):
    eps = float(np.float32(tiny.model().config.rms_norm_eps))
    assert eps != tiny.model().config.rms_norm_eps
    assert is_adapted(load(with_config(tiny.model(), rms_norm_eps=eps), saved))


def test_a_field_that_came_later_than_the_file_has_its_default(tiny, tmp_path):
    plain = tiny.model(rope_theta=TransformerConfig.rope_theta)
    saved = attach(plain, CONFIG, rng()).adapter().write(tmp_path / "a")
    path = saved / "minilora.json"
    config = json.loads(path.read_text())["base_config"]
    edit_json(path, base_config={k: x for k, x in config.items() if k != "rope_theta"})
    assert is_adapted(load(tiny.model(rope_theta=TransformerConfig.rope_theta), saved))
    model = with_config(tiny.model(), rope_theta=4000.0)
    refuse(tiny, saved, BaseMismatchError, "rope_theta", model=model)
    edit_json(path, base_config={**config, "a_later_field": 3})
    refuse(tiny, saved, BaseMismatchError, "a_later_field")


def test_an_adapter_written_before_knows_the_adapted_weights_alone(tiny, saved):
    expected = load(tiny.model(), saved).eval()(tiny.ids).data
    folder = as_written_before(saved, tiny.model())
    adapter = Adapter.read(folder)
    assert adapter.base_fingerprint is None and adapter.base.adapted.startswith("sha256:")
    with pytest.warns(UserWarning, match="not checked"):
        model = load(tiny.model(), folder)
    assert model.eval()(tiny.ids).data.tobytes() == expected.tobytes()
    model = tiny.model()
    model.model.layers[0].self_attn.q_proj.weight.data[0, 0] += 1
    with pytest.warns(UserWarning, match="not checked"):
        assert is_adapted(load(model, folder))
    model = tiny.model()
    model.model.layers[0].self_attn.v_proj.weight.data[0, 0] += 1e-6
    refuse(tiny, folder, BaseMismatchError, "weights", model=model)


@pytest.mark.filterwarnings("ignore:.*not checked:UserWarning")
def test_an_adapter_written_before_is_written_as_it_was_or_with_all_that_is_known(tiny, saved):
    adapter = Adapter.read(as_written_before(saved, tiny.model()))
    assert Adapter.read(adapter.write(saved)) == adapter
    refuse(tiny, saved, BaseMismatchError, "weights", model=tiny.model(seed=1))
    again = attach(tiny.model(), adapter).adapter()
    assert again.base_fingerprint == base_fingerprint(tiny.model())
    assert again.base.adapted is None


class Words:
    """As much of a Tokenizer as a mark of it reads."""

    def __init__(self, words="a b c", eos=1, template="{{ x }}", upper=False, merge="a b") -> None:
        self.merge = merge
        self.words, self.eos_id, self.pad_id, self.upper = words.split(), eos, 0, upper
        self.backend, self.config = self, {"chat_template": template}

    def to_str(self):
        return json.dumps({"model": {"merges": [self.merge]}})

    def get_vocab(self, with_added_tokens):
        return {word: i for i, word in enumerate(self.words)}

    def encode(self, text):
        return [ord(char) for char in (text.upper() if self.upper else text)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"words": "a c b"}, ["tokenizer"]),
        ({"eos": 2}, ["tokenizer"]),
        ({"upper": True}, ["tokenizer"]),
        ({"merge": "b a"}, ["tokenizer"]),
        ({"merge": ["a", "b"]}, []),
        ({"template": "{{ y }}"}, ["chat template"]),
        ({"template": None}, ["chat template"]),
        ({"template": {"default": "{{ x }}", "tools": "{{ z }}"}}, []),
        ({"template": "", "words": "a"}, ["tokenizer", "chat template"]),
    ],
)
def test_another_tokenizer_or_template_is_a_warning(tiny, tmp_path, recwarn, changes, words):
    folder = adapted(tiny).adapter(tokenizer=Words()).write(tmp_path / "a")
    model = tiny.model()
    handle = attach(model, Adapter.read(folder), base=mark_base(model, "", Words(**changes)))
    told = [str(warning.message) for warning in recwarn]
    assert len(told) == len(words) and all(w in t for w, t in zip(words, told, strict=True))
    kept = handle.adapter().base  # untrained since, so with the tokenizer that the file told of
    assert kept.tokenizer == Adapter.read(folder).base.tokenizer != None  # noqa: E711
    assert kept.template == Adapter.read(folder).base.template


def test_a_mark_that_is_known_is_not_taken_again(tiny, saved, monkeypatch):
    mark = mark_base(tiny.model(), "tiny")
    monkeypatch.setattr(fitting, "base_fingerprint", None)
    monkeypatch.setattr(fitting, "mark_base", None)
    assert is_adapted(load(tiny.model(), saved, base=mark))
    other = mark_base(tiny.model(), "other")
    with refusal(BaseMismatchError, "tiny", "other"):
        load(tiny.model(), saved, base=replace(other, fingerprint="sha256:0"))


# --------------------------------------------------------------------------- the adapter's own bits


def bytes_of(folder):
    path = folder / "adapter_model.safetensors"
    return path, bytearray(path.read_bytes())


def test_any_flipped_bit_of_the_numbers_is_refused(tiny, saved):
    path, data = bytes_of(saved)
    start = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    for place in [start, len(data) - 1, *rng.integers(start, len(data), 20)]:
        changed = data.copy()
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(AdapterError):
            Adapter.read(saved)
    path.write_bytes(data)
    assert is_adapted(load(tiny.model(), saved))


def test_exchanged_offsets_are_refused(saved):
    """Two tensors of one shape that have each other's numbers."""
    path, data = bytes_of(saved)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    one, two = (header[f"{STEM}.{i}.self_attn.v_proj.lora_A.weight"] for i in (0, 1))
    assert one["shape"] == two["shape"]
    one["data_offsets"], two["data_offsets"] = two["data_offsets"], one["data_offsets"]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(AdapterError, match=r"minilora\.json"):
        Adapter.read(saved)


def test_exchanged_folders_are_refused(tiny, tmp_path):
    """The tensors of one adapter beside the sidecar of another."""
    first, second = (
        tiny.randomise(adapted(tiny), seed).adapter().write(tmp_path / str(seed)) for seed in (1, 2)
    )
    shutil.copy(second / "adapter_model.safetensors", first)
    with pytest.raises(AdapterError, match=r"minilora\.json"):
        Adapter.read(first)
    (first / "minilora.json").unlink()
    assert Adapter.read(first).fingerprint == Adapter.read(second).fingerprint


@pytest.mark.parametrize("merged", [False, True])
def test_an_adapted_or_merged_model_is_refused(tiny, saved, merged):
    handle = adapted(tiny)
    if merged:
        handle.merge()
    refuse(tiny, saved, AttachError, model=handle.model)


def test_without_a_sidecar_the_base_is_not_checked_and_that_is_said(tiny, saved):
    (saved / "minilora.json").unlink()
    with pytest.warns(UserWarning, match=r"no minilora\.json.*not checked"):
        model = load(tiny.model(seed=1), saved)
    assert is_adapted(model) and Adapter.read(saved).base_fingerprint is None


# ---------------------------------------------------------------------------------- refused folders


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("use_dora", True), ("lora_bias", True), ("trainable_token_indices", {"wte": [1]}),
        ("target_parameters", ["x"]), ("layer_replication", [[0, 1]]),
        ("modules_to_save", ["score"]), ("bias", "all"), ("bias", "lora_only"),
        ("fan_in_fan_out", True), ("init_lora_weights", "eva"),
        ("init_lora_weights", "pissa"), ("init_lora_weights", "olora"),
        ("init_lora_weights", "pissa_niter_16"), ("init_lora_weights", "loftq"),
        ("init_lora_weights", "corda"), ("init_lora_weights", "lora_ga"), ("use_bdlora", {"n": 1}),
        ("use_qalora", True), ("arrow_config", {"top_k": 1}),
        ("something_new", "on"),
    ],
)  # fmt: skip
def test_options_that_change_the_meaning_are_refused_by_name(tiny, saved, option, value):
    edit_json(saved / "adapter_config.json", **{option: value})
    refuse(tiny, saved, AdapterError, option)


def test_pefts_usual_values_are_accepted(tiny, saved):
    usual = {
        "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None,
        "loftq_config": {}, "megatron_core": "megatron.core", "qalora_group_size": 16,
        "peft_version": "0.21.2", "revision": None, "layers_pattern": None, "auto_mapping": None,
        "init_lora_weights": "gaussian", "lora_bias": False, "something_new": None,
    }  # fmt: skip
    edit_json(saved / "adapter_config.json", **usual)
    assert is_adapted(load(tiny.model(), saved))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"peft_type": "IA3"},
            (
                "peft_type",
                "IA3",
                "LORA",
            ),
        ),
        (
            {"peft_type": None},
            (
                "peft_type",
                None,
            ),
        ),
        (
            {"task_type": "SEQ_CLS"},
            (
                "task_type",
                "SEQ_CLS",
            ),
        ),
        ({"r": None}, ("r",)),
        ({"target_modules": None}, ("target_modules",)),
        (
            {"r": 0},
            (
                "r",
                0,
            ),
        ),
        (
            {"r": "3"},
            (
                "r",
                "'3'",
            ),
        ),
        (
            {"lora_alpha": float("nan")},
            (
                "lora_alpha",
                float("nan"),
            ),
        ),
        ({"lora_alpha": 8}, ("scaling",)),
        ({"use_rslora": True}, ("scaling",)),
        ({"r": 2}, ((3, 14),)),
        ({"target_modules": ["v_proj", 3]}, ("target_modules",)),
        ({"target_modules": ["v_proj"]}, ("model.layers.0.mlp.down_proj",)),
        ({"target_modules": ["v_proj", "down_proj", "q_proj"]}, ("q_proj",)),
        ({"target_modules": ".*(v_proj"}, (".*(v_proj",)),
        ({"target_modules": "v_proj"}, ("model.layers.0",)),
        ({"target_modules": r".*\.v_proj"}, ("model.layers",)),
        ({"target_modules": r".*\.(v_proj|down_proj|q_proj)"}, ("q_proj",)),
        ({"exclude_modules": r"model\.layers\.0\..*"}, ("model.layers.0",)),
        ({"exclude_modules": ["v_proj", "down_proj"]}, ("model.layers.0",)),
        (
            {"exclude_modules": "(v_proj"},
            (
                "exclude_modules",
                "(v_proj",
            ),
        ),
        (
            {"exclude_modules": 3},
            (
                "exclude_modules",
                3,
            ),
        ),
        ({"layers_to_transform": [0, 2]}, ("model.layers.1",)),
        ({"layers_to_transform": 0}, ("model.layers.1",)),
        ({"layers_to_transform": [7]}, ("model.layers.0",)),
        (
            {"layers_to_transform": ["0"]},
            (
                "layers_to_transform",
                ["0"],
            ),
        ),
        ({"layers_to_transform": [0], "target_modules": ".*"}, ("target_modules",)),
        ({"layers_to_transform": [0], "layers_pattern": "h"}, ("model.layers.0",)),
        (
            {"layers_pattern": "layers"},
            (
                "layers_pattern",
                "layers_to_transform",
            ),
        ),
        (
            {"rank_pattern": {"v_proj": 2}},
            (
                "v_proj.lora_A",
                (3, 10),
            ),
        ),
        (
            {"rank_pattern": {"v_proj": 0}},
            (
                "rank_pattern",
                "v_proj",
                0,
            ),
        ),
        (
            {"rank_pattern": [2]},
            (
                "rank_pattern",
                [2],
            ),
        ),
        ({"alpha_pattern": {"v_proj": 8}}, ("scaling",)),
        (
            {"alpha_pattern": {"(v_proj": 8}},
            (
                "alpha_pattern",
                "(v_proj",
            ),
        ),
    ],
)
def test_configs_that_do_not_fit_are_refused(tiny, saved, changes, named):
    edit_json(saved / "adapter_config.json", **changes)
    refuse(tiny, saved, AdapterError, *named)


def test_a_target_that_the_model_has_not_is_refused(tiny, saved):
    edit_json(saved / "adapter_config.json", target_modules=["v_proj", "down_proj", "c_attn"])
    refuse(tiny, saved, TargetError, "'c_attn'")


def test_a_pattern_over_whole_names_is_read_as_peft_does(tiny, saved):
    edit_json(saved / "adapter_config.json", target_modules=r".*\.(v_proj|down_proj)")
    adapter = Adapter.read(saved)
    assert tuple(sorted(attach(tiny.model(), adapter).layers)) == adapter.modules
    assert len(adapter.modules) == 6


def rename(old, new):
    return lambda arrays: arrays.update({new: arrays.pop(old)})


V0 = f"{STEM}.0.self_attn.v_proj"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda a: a.pop(f"{V0}.lora_B.weight"), ("model.layers.0.self_attn.v_proj.lora_B",)),
        (lambda a: [a.pop(f"{V0}.lora_{x}.weight") for x in "AB"],
         ("v_proj",)),
        (lambda a: a.clear(), ()),
        (lambda a: a.update(extra=np.ones(2, np.float32)), ("extra",)),
        (lambda a: a.update({f"{V0}.lora_magnitude_vector": np.ones(6, np.float32)}),
         ("lora_magnitude_vector",)),
        (rename(f"{V0}.lora_A.weight", "v_proj.lora_A.weight"), ("v_proj.lora_A.weight",)),
        (lambda a: a.update({f"{STEM}.7.mlp.up_proj.lora_{x}.weight": np.ones((3, 3), np.float32)
                             for x in "AB"}), ("model.layers.7",)),
        (lambda a: a.update({f"{V0}.lora_A.weight": np.ones((3, 11), np.float32)}),
         ("v_proj.lora_A", (3, 11), (3, 10),)),
        (lambda a: a.update({f"{V0}.lora_B.weight": np.ones((7, 3), np.float32)}),
         ("v_proj.lora_B", (7, 3), (6, 3),)),
        (lambda a: a.update({f"{V0}.lora_A.weight": np.ones(3, np.float32)}), ((3,),)),
        (lambda a: a.update({f"{V0}.lora_A.weight": np.ones((3, 10), np.int32)}),
         ("int32",)),
        (lambda a: a.update({f"{V0}.lora_B.weight": np.ones((6, 3), np.int8)}),
         ("int8",)),
        (lambda a: a.update({f"{V0}.lora_A.weight": np.ones((3, 10))}), ("float64",)),
        (lambda a: a[f"{V0}.lora_A.weight"].__setitem__((1, 1), np.nan), ("NaN",)),
        (lambda a: a[f"{V0}.lora_B.weight"].__setitem__((1, 1), -np.inf), ("NaN",)),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(tiny, saved, change, named):
    edit_tensors(saved, change)
    refuse(tiny, saved, AdapterError, *named)


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_a_truncated_file_is_refused(tiny, saved, keep):
    path = saved / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refuse(tiny, saved, AdapterError, "adapter_model.safetensors")


def test_half_precision_is_cast_up(tiny, saved):
    edit_tensors(saved, lambda a: a.update({n: x.astype(np.float16) for n, x in a.items()}))
    model = load(tiny.model(), saved)
    for name, array in adapter_state(model).items():
        original = adapter_state(adapted(tiny).model)[name]
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, original.astype(np.float16).astype(np.float32))


def test_bfloat16_is_cast_up(tiny, saved):
    """Written by hand, since NumPy has no bfloat16: the upper halves of float32 numbers."""
    arrays, _ = read_safetensors(saved / "adapter_model.safetensors")
    header, data = {}, b""
    for name, array in arrays.items():
        upper = (np.ascontiguousarray(array).view(np.uint32) >> 16).astype("<u2").tobytes()
        offsets = [len(data), len(data) + len(upper)]
        header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": offsets}
        data += upper
    text = json.dumps(header).encode()
    path = saved / "adapter_model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    edit_tensors(saved, lambda arrays: None)  # which says that these are its own
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    state = adapter_state(load(tiny.model(), saved))
    for name, original in adapter_state(adapted(tiny).model).items():
        cut = (original.view(np.uint32) & 0xFFFF0000).view(np.float32)
        assert state[name].dtype == np.float32
        np.testing.assert_array_equal(state[name], cut)


def test_a_pickle_is_refused_by_name(tiny, saved):
    (saved / "adapter_model.safetensors").unlink()
    (saved / "adapter_model.bin").write_bytes(pickle.dumps({"a": 1}))
    refuse(tiny, saved, AdapterError, "adapter_model.bin", "safe_serialization")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(tiny, saved, name):
    (saved / name).unlink()
    refuse(tiny, saved, AdapterError, name)


def test_a_folder_of_adapters_names_them(tiny, saved):
    """PEFT writes an adapter that has a name of its own to a folder of that name."""
    for name in ("one", "two"):
        shutil.copytree(saved, saved.parent / "many" / name)
    many = saved.parent / "many"
    with refusal(AdapterError, many / "one", many / "two"):
        Adapter.read(many)
    assert is_adapted(load(tiny.model(), many / "two"))


@pytest.mark.parametrize("value", [3, ["tiny"], {"a": 1}])
@pytest.mark.parametrize(
    ("file", "key"),
    [("adapter_config.json", "base_model_name_or_path"), ("minilora.json", "base_name")],
)
def test_a_base_name_that_is_no_text_is_refused(saved, file, key, value):
    edit_json(saved / file, **{key: value})
    with refusal(AdapterError, saved, value):
        Adapter.read(saved)


@pytest.mark.parametrize(
    "changes", [{"bias": "x" * 9000}, {"target_modules": ["q_proj\n", "y" * 9000]}]
)
def test_whatever_a_folder_says_its_refusal_is_one_short_line(saved, changes):
    edit_json(saved / "adapter_config.json", **changes)
    with refusal(AdapterError, saved) as caught:
        Adapter.read(saved)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1300 and message.startswith(str(saved))


def test_a_missing_folder_is_named(tiny, tmp_path):
    refuse(tiny, tmp_path / "nowhere", AdapterError, "nowhere")


@pytest.mark.parametrize("name", ["adapter_config.json", "minilora.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff", "[" * 100_000])
def test_json_that_is_damaged_is_refused(tiny, saved, name, text):
    (saved / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    refuse(tiny, saved, AdapterError, name, "JSON")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"format_version": 3},
            (
                "format_version",
                3,
                1,
                2,
            ),
        ),
        (
            {"format_version": None},
            (
                "format_version",
                None,
            ),
        ),
        (
            {"format_version": True},
            (
                "format_version",
                True,
            ),
        ),
        (
            {"format_version": 1, "base_fingerprint": None},
            (
                "base_fingerprint",
                None,
            ),
        ),
        (
            {"adapter_fingerprint": None},
            (
                "adapter_fingerprint",
                None,
            ),
        ),
        (
            {"base_fingerprint": "abc"},
            (
                "base_fingerprint",
                "abc",
            ),
        ),
        (
            {"base_adapted_fingerprint": 3},
            (
                "base_adapted_fingerprint",
                3,
            ),
        ),
        ({"tokenizer_fingerprint": ["sha256:1"]}, ("tokenizer_fingerprint",)),
        ({"template_fingerprint": {}}, ("template_fingerprint",)),
        ({"base_config": [1]}, ("base_config",)),
        ({"provenance": "x"}, ("x",)),
    ],
)
def test_a_sidecar_that_is_not_ours_is_refused(tiny, saved, changes, named):
    edit_json(saved / "minilora.json", **changes)
    refuse(tiny, saved, AdapterError, *named)


def test_another_architecture_is_refused(tiny, saved):
    refuse(
        tiny, saved, BaseMismatchError, "intermediate_size", model=tiny.model(intermediate_size=15)
    )
    (saved / "minilora.json").unlink()  # then its shapes are all there is to judge by
    refuse(tiny, saved, AdapterError, "down_proj", model=tiny.model(intermediate_size=15))
    refuse(tiny, saved, AdapterError, "model.layers.3", model=tiny.model(layers=4))
    refuse(tiny, saved, AdapterError, "model.layers.2", model=tiny.model(layers=2))

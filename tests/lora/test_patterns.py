"""rank_pattern and alpha_pattern: each module its own r and lora_alpha, attached, saved, loaded."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from minilora.lora import (
    LoRAConfig,
    TargetError,
    adapter_state,
    attach,
    detach,
    load_adapter,
    lora_layers,
    merge,
    read_adapter,
    save_adapter,
    unmerge,
)

Q0 = "model.layers.0.self_attn.q_proj"
Q2 = "model.layers.2.self_attn.q_proj"
UP = "model.layers.1.mlp.up_proj"
SETTINGS = dict(r=3, lora_alpha=5, target_modules=("q_proj", "up_proj"))
PATTERNS = dict(
    rank_pattern={r"layers\.0\.self_attn\.q_proj": 1, "up_proj": 4},
    alpha_pattern={r"layers\.[02]\..*": 7.5},
)


def adapted(tiny, **settings):
    config = LoRAConfig(**{**SETTINGS, **settings})
    return tiny.randomise(attach(tiny.model(), config, np.random.default_rng(2))).eval()


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("key", "name", "fits"),
    [
        ("q_proj", Q0, True),
        ("self_attn.q_proj", Q0, True),
        (Q0, Q0, True),
        (r"layers\.[01]\..*", Q0, True),
        (r"layers\.[01]\..*", Q2, False),
        ("^model.*q_proj", Q0, True),
        ("proj", Q0, False),  # a part of a word
        ("q_proj", "q_proj", True),
        ("self_attn", Q0, False),
        ("k_proj|q_proj", Q0, True),
        ("q_proj", f"{Q0}.inner", False),
    ],
)
def test_a_key_fits_the_end_of_a_dotted_name(key, name, fits):
    config = LoRAConfig(r=2, lora_alpha=3, rank_pattern={key: 5}, alpha_pattern={key: 4})
    own = config.at(name)
    assert (own.r, own.lora_alpha) == ((5, 4) if fits else (2, 3))
    assert not own.has_patterns and config.idle_keys([name]) == (
        {} if fits else {"rank_pattern": [key], "alpha_pattern": [key]}
    )


def test_the_first_key_that_fits_counts():
    keys = {"layers.2.self_attn.q_proj": 6, "q_proj": 5}
    assert [LoRAConfig(rank_pattern=keys).at(n).r for n in (Q0, Q2, UP)] == [5, 6, 8]
    turned = dict(reversed(keys.items()))
    assert [LoRAConfig(rank_pattern=turned).at(n).r for n in (Q0, Q2, UP)] == [5, 5, 8]


@pytest.mark.parametrize("name", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (["q_proj"], "expected module name -> number"),
        (None, "expected module name -> number"),
        ({"": 3}, "key ''"),
        ({3: 3}, "key 3"),
        ({"(q": 3}, r"key '\(q'.*regular expression"),
        ({"q": 0}, r"\['q'\] 0"),
        ({"q": -1}, r"\['q'\] -1"),
        ({"q": "4"}, r"\['q'\] '4'"),
        ({"q": True}, r"\['q'\] True"),
        ({"q": math.nan}, r"\['q'\] nan"),
    ],
)
def test_refused_patterns_are_named(name, pattern, words):
    with pytest.raises(ValueError, match=f"got {name}.*{words}|got {name}{words}"):
        LoRAConfig(**{name: pattern})


def test_ranks_are_whole_and_alphas_any_number():
    with pytest.raises(ValueError, match=r"rank_pattern\['q'\] 2\.5"):
        LoRAConfig(rank_pattern={"q": 2.5})
    config = LoRAConfig(rank_pattern={"q": np.int64(2)}, alpha_pattern={"q": np.float32(2.5)})
    assert type(config.rank_pattern["q"]) is int and type(config.alpha_pattern["q"]) is float
    assert hash(config) == hash(LoRAConfig()) and config != LoRAConfig()


@pytest.mark.parametrize("rslora", [False, True])
def test_each_layer_gets_its_own_rank_and_scaling(tiny, rslora):
    layers = lora_layers(adapted(tiny, use_rslora=rslora, **PATTERNS))
    expected = {Q0: (1, 7.5), Q2: (3, 7.5), UP: (4, 5)}
    for name, (r, alpha) in expected.items():
        layer = layers[name]
        assert layer.lora_A.shape[0] == layer.lora_B.shape[1] == r
        assert layer.scaling == alpha / (math.sqrt(r) if rslora else r)
        delta = layer.scaling * layer.lora_B.data @ layer.lora_A.data
        np.testing.assert_allclose(layer.delta_weight(), delta, rtol=1e-6)


def test_attaching_merging_and_detaching_with_patterns_restore_bit_for_bit(tiny):
    model = tiny.model()
    before, output = tiny.snapshot(model), model(tiny.ids).data
    attach(model, LoRAConfig(**SETTINGS, **PATTERNS), np.random.default_rng(2))
    assert model(tiny.ids).data.tobytes() == output.tobytes()
    tiny.randomise(model).eval()
    adapted_output = model(tiny.ids).data
    assert np.abs(adapted_output - output).max() > 0.1
    np.testing.assert_allclose(merge(model)(tiny.ids).data, adapted_output, atol=1e-4)
    detach(unmerge(model)).train()
    assert tiny.same(model, before)


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ({"rank_pattern": {"v_proj": 2}}, r"rank_pattern got 'v_proj'.*one of: q_proj, up_proj"),
        ({"alpha_pattern": {"q_proj": 2, "qproj": 2}}, "alpha_pattern got 'qproj'"),
        ({"rank_pattern": {Q2: 11}}, f"got r 11 for {Q2}"),
    ],
)
def test_a_pattern_that_makes_no_sense_for_the_model_changes_nothing(tiny, patterns, words):
    model = tiny.model()
    before = tiny.snapshot(model)
    with pytest.raises(ValueError, match=words) as error:
        attach(model, LoRAConfig(**SETTINGS, **patterns), np.random.default_rng(0))
    assert isinstance(error.value, TargetError) == ("got r" not in words)
    assert tiny.same(model, before)


@pytest.mark.parametrize(
    "patterns",
    [
        PATTERNS,
        {"rank_pattern": {Q0: 2}},
        {"alpha_pattern": {"up_proj": 0.5}},
        # Sorted, "layers.2.…" would come before "q_proj"; here the order given matters.
        {"rank_pattern": {"q_proj": 2, "layers.2.self_attn.q_proj": 4}},
        {"alpha_pattern": {"up_proj": 2, ".*": 9}},
    ],
)
@pytest.mark.parametrize("rslora", [False, True])
def test_round_trip_is_exact(tiny, tmp_path, patterns, rslora):
    model, plain = adapted(tiny, use_rslora=rslora, **patterns), tiny.model()
    common = adapted(tiny, use_rslora=rslora)
    expected = model(tiny.ids).data
    assert np.abs(expected - plain(tiny.ids).data).max() > 0.01
    assert np.abs(expected - common(tiny.ids).data).max() > 0.01
    save_adapter(model, tmp_path / "a", base_name="tiny")
    load_adapter(plain, tmp_path / "a").eval()
    assert plain(tiny.ids).data.tobytes() == expected.tobytes()
    for name, layer in lora_layers(model).items():
        assert lora_layers(plain)[name].config.r == layer.config.r
        assert lora_layers(plain)[name].scaling == layer.scaling
    save_adapter(plain, tmp_path / "b", base_name="tiny")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_keys_are_kept_unless_their_order_counts(tiny, tmp_path):
    save_adapter(adapted(tiny, **PATTERNS), tmp_path / "a", base_name="tiny")
    options = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert {name: options[name] for name in PATTERNS} == PATTERNS
    keys = {"q_proj": 2, "layers.2.self_attn.q_proj": 4}  # q_proj wins
    save_adapter(adapted(tiny, rank_pattern=keys), tmp_path / "b", base_name="tiny")
    options = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert options["rank_pattern"] == {Q0: 2, Q0.replace("0", "1"): 2, Q2: 2}
    assert "alpha_pattern" not in options


def test_the_sidecar_holds_every_scaling_where_they_differ(tiny, tmp_path):
    folder = save_adapter(adapted(tiny, **PATTERNS), tmp_path / "a", base_name="tiny")
    found = read_adapter(folder)
    assert found.scaling == found.sidecar["scaling"] and len(found.scaling) == 6
    assert (found.scaling[Q0], found.scaling[UP]) == (7.5, 1.25)
    alike = adapted(tiny, rank_pattern={".*_proj": 2}, alpha_pattern={".*_proj": 5})
    assert read_adapter(save_adapter(alike, tmp_path / "b", base_name="tiny")).scaling == 2.5


def test_keys_that_fit_nothing_are_told_and_dropped_on_loading(tiny, tmp_path):
    model = adapted(tiny, rank_pattern={"up_proj": 2})
    folder = save_adapter(model, tmp_path / "a", base_name="tiny")
    edit_config(folder, rank_pattern={"up_proj": 2, "gone": 4}, alpha_pattern={"k_proj": 1})
    with pytest.warns(UserWarning) as told:
        loaded = load_adapter(tiny.model(), folder).eval()
    text = " ".join(str(w.message) for w in told)
    assert "rank_pattern 'gone' fit no" in text and "alpha_pattern 'k_proj' fit no" in text
    assert loaded(tiny.ids).data.tobytes() == model(tiny.ids).data.tobytes()


@pytest.mark.parametrize(
    ("targets", "options"),
    [
        ((Q0,), {"exclude_modules": r".*(layers\.2\..*|[01]\.mlp.*|1\.self_attn.*)"}),
        ((Q2,), {"exclude_modules": ["up_proj", "0.self_attn.q_proj", "1.self_attn.q_proj"]}),
        ((Q0, "layers.0.mlp.up_proj"), {"layers_to_transform": 0}),
        ((UP, "layers.1.self_attn.q_proj"), {"layers_to_transform": [1]}),
        (("0.self_attn.q_proj", Q2), {"layers_to_transform": [0, 2], "exclude_modules": ".*up.*"}),
        ((UP,), {"layers_to_transform": [1], "layers_pattern": "layers",
                 "exclude_modules": ["self_attn.q_proj"]}),
    ],
)  # fmt: skip
def test_options_that_choose_modules_are_read_as_their_names(tiny, tmp_path, targets, options):
    model = adapted(tiny, target_modules=targets)
    folder = save_adapter(model, tmp_path / "a", base_name="tiny")
    names = ["q_proj", "up_proj"]
    edit_config(folder, target_modules=names, **options)
    loaded = load_adapter(tiny.model(), folder).eval()
    assert list(lora_layers(loaded)) == list(lora_layers(model))
    assert loaded(tiny.ids).data.tobytes() == model(tiny.ids).data.tobytes()
    save_adapter(loaded, tmp_path / "b", base_name="tiny")
    saved = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert saved["target_modules"] == sorted(lora_layers(model)) and not set(options) & set(saved)


def test_provenance_outlives_a_load_and_a_save(tiny, tmp_path):
    said = {"data": "a.jsonl", "evaluation": {"exact": 0.9}}
    first = save_adapter(adapted(tiny), tmp_path / "a", base_name="tiny", provenance=said)
    model = load_adapter(tiny.model(), first)
    second = save_adapter(model, tmp_path / "b", base_name="tiny")
    assert read_adapter(second).sidecar["provenance"] == said
    third = save_adapter(model, tmp_path / "c", base_name="tiny", provenance={"seed": 1})
    assert read_adapter(third).sidecar["provenance"] == {"seed": 1}
    # What is trained on, or attached anew, is not what the file described.
    model = load_adapter(detach(model), first, trainable=True)
    fourth = save_adapter(model, tmp_path / "d", base_name="tiny")
    assert read_adapter(fourth).sidecar["provenance"] == {}
    attach(detach(load_adapter(detach(model), first)), LoRAConfig(r=2), np.random.default_rng(0))
    fifth = save_adapter(model, tmp_path / "e", base_name="tiny")
    assert read_adapter(fifth).sidecar["provenance"] == {}
    assert len(adapter_state(model)) == 12

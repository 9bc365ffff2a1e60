"""rank_pattern and alpha_pattern: each module its own r and lora_alpha, attached, saved, loaded."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from minilora.lora import Adapter, LoRAConfig, TargetError, attach
from tests.says import names, refusal

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
    handle = attach(tiny.model(), config, np.random.default_rng(2))
    handle.model.eval()
    return tiny.randomise(handle)


def saved(handle, folder, **settings):
    return handle.adapter(**{"base_name": "tiny", **settings}).write(folder)


def sidecar(folder):
    return json.loads((folder / "minilora.json").read_text())


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
    ("pattern", "named"),
    [
        (["q_proj"], (["q_proj"],)),
        (None, (None,)),
        ({"": 3}, ("''",)),
        ({3: 3}, (3,)),
        ({"(q": 3}, ("'(q'",)),
        ({"q": 0}, ("'q'", 0)),
        ({"q": -1}, ("'q'", -1)),
        ({"q": "4"}, ("'q'", "'4'")),
        ({"q": True}, ("'q'", True)),
        ({"q": math.nan}, ("'q'", math.nan)),
    ],
)
def test_refused_patterns_are_named(name, pattern, named):
    with refusal(ValueError, name, *named):
        LoRAConfig(**{name: pattern})


def test_ranks_are_whole_and_alphas_any_number():
    with refusal(ValueError, "rank_pattern", "q", 2.5):
        LoRAConfig(rank_pattern={"q": 2.5})
    config = LoRAConfig(rank_pattern={"q": np.int64(2)}, alpha_pattern={"q": np.float32(2.5)})
    assert type(config.rank_pattern["q"]) is int and type(config.alpha_pattern["q"]) is float
    assert hash(config) == hash(LoRAConfig()) and config != LoRAConfig()


@pytest.mark.parametrize("rslora", [False, True])
def test_each_layer_gets_its_own_rank_and_scaling(tiny, rslora):
    layers = adapted(tiny, use_rslora=rslora, **PATTERNS).layers
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
    handle = attach(model, LoRAConfig(**SETTINGS, **PATTERNS), np.random.default_rng(2))
    assert model(tiny.ids).data.tobytes() == output.tobytes()
    tiny.randomise(handle)
    adapted_output = model.eval()(tiny.ids).data
    assert np.abs(adapted_output - output).max() > 0.1
    handle.merge()
    np.testing.assert_allclose(model(tiny.ids).data, adapted_output, atol=1e-4)
    handle.unmerge()
    handle.detach()
    assert tiny.same(model, before)


@pytest.mark.parametrize(
    ("patterns", "refused"),
    [
        (
            {"rank_pattern": {"v_proj": 2}},
            (
                TargetError,
                "rank_pattern",
                "v_proj",
                "q_proj",
                "up_proj",
            ),
        ),
        (
            {"alpha_pattern": {"q_proj": 2, "qproj": 2}},
            (
                TargetError,
                "alpha_pattern",
                "qproj",
            ),
        ),
        (
            {"rank_pattern": {Q2: 11}},
            (
                ValueError,
                "r",
                11,
                Q2,
            ),
        ),
    ],
)
def test_a_pattern_that_makes_no_sense_for_the_model_changes_nothing(tiny, patterns, refused):
    model = tiny.model()
    before = tiny.snapshot(model)
    with refusal(*refused) as error:
        attach(model, LoRAConfig(**SETTINGS, **patterns), np.random.default_rng(0))
    assert isinstance(error.value, TargetError) == (refused[0] is TargetError)
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
    handle, plain = adapted(tiny, use_rslora=rslora, **patterns), tiny.model()
    common = adapted(tiny, use_rslora=rslora).model
    expected = handle.model(tiny.ids).data
    assert np.abs(expected - plain(tiny.ids).data).max() > 0.01
    assert np.abs(expected - common(tiny.ids).data).max() > 0.01
    adapter = Adapter.read(saved(handle, tmp_path / "a"))
    again = attach(plain, adapter)
    assert plain.eval()(tiny.ids).data.tobytes() == expected.tobytes()
    for name, layer in handle.layers.items():
        assert again.layers[name].config.r == layer.config.r
        assert again.layers[name].scaling == layer.scaling == adapter.scaling(name)
        np.testing.assert_array_equal(adapter.delta(name), layer.delta_weight())
    saved(again, tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_keys_are_kept_unless_their_order_counts(tiny, tmp_path):
    saved(adapted(tiny, **PATTERNS), tmp_path / "a")
    options = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert {name: options[name] for name in PATTERNS} == PATTERNS
    keys = {"q_proj": 2, "layers.2.self_attn.q_proj": 4}  # q_proj wins
    saved(adapted(tiny, rank_pattern=keys), tmp_path / "b")
    options = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert options["rank_pattern"] == {Q0: 2, Q0.replace("0", "1"): 2, Q2: 2}
    assert "alpha_pattern" not in options


def test_the_sidecar_holds_every_scaling_where_they_differ(tiny, tmp_path):
    folder = saved(adapted(tiny, **PATTERNS), tmp_path / "a")
    adapter, scaling = Adapter.read(folder), sidecar(folder)["scaling"]
    assert {name: adapter.scaling(name) for name in adapter.modules} == scaling
    assert len(scaling) == 6 and (scaling[Q0], scaling[UP]) == (7.5, 1.25)
    alike = adapted(tiny, rank_pattern={".*_proj": 2}, alpha_pattern={".*_proj": 5})
    assert sidecar(saved(alike, tmp_path / "b"))["scaling"] == 2.5


def test_keys_that_fit_nothing_are_told_and_dropped_on_loading(tiny, tmp_path):
    model = adapted(tiny, rank_pattern={"up_proj": 2})
    folder = saved(model, tmp_path / "a")
    edit_config(folder, rank_pattern={"up_proj": 2, "gone": 4}, alpha_pattern={"k_proj": 1})
    with pytest.warns(UserWarning) as told:
        loaded = attach(tiny.model(), Adapter.read(folder)).model.eval()
    text = " ".join(str(w.message) for w in told)
    assert names(text, "rank_pattern", "'gone'", "alpha_pattern", "'k_proj'")
    assert loaded(tiny.ids).data.tobytes() == model.model(tiny.ids).data.tobytes()


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
    handle = adapted(tiny, target_modules=targets)
    folder = saved(handle, tmp_path / "a")
    names = ["q_proj", "up_proj"]
    edit_config(folder, target_modules=names, **options)
    loaded = attach(tiny.model(), Adapter.read(folder))
    assert list(loaded.layers) == list(handle.layers)
    output = loaded.model.eval()(tiny.ids).data
    assert output.tobytes() == handle.model(tiny.ids).data.tobytes()
    saved(loaded, tmp_path / "b")
    written = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert written["target_modules"] == sorted(handle.layers) and not set(options) & set(written)


def test_provenance_outlives_a_load_and_a_save(tiny, tmp_path):
    said = {"data": "a.jsonl", "evaluation": {"exact": 0.9}}
    first = Adapter.read(saved(adapted(tiny), tmp_path / "a", provenance=said))
    handle = attach(tiny.model(), first)
    second = Adapter.read(handle.adapter().write(tmp_path / "b"))
    assert second.provenance == said and second.base_name == "tiny" and second == first
    third = Adapter.read(saved(handle, tmp_path / "c", provenance={"seed": 1}))
    assert third.provenance == {"seed": 1}
    # What is trained on is not what the file described.
    handle = attach(handle.detach(), first, trainable=True)
    assert handle.adapter().provenance == {} and handle.adapter().base_name == ""

"""Regular expressions from adapters: as `re` matches them, in a bounded number of steps."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minilora.lora import Adapter, AdapterError, LoRAConfig, attach
from minilora.lora.expressions import (
    LONGEST,
    MOST_EXPRESSIONS,
    MOST_STEPS,
    _parsed,
    _Walk,
    check_expression,
    ends_after,
    fits_start,
    fits_whole,
)
from minilora.lora.targets import is_chosen
from tests.says import refusal

Q0 = "model.layers.0.self_attn.q_proj"
NAMES = [
    f"model.layers.{i}.{part}"
    for i in (0, 3, 17)
    for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
]
REAL = (
    # as public adapters have them
    r".*\.layers\.(0|1|3)\.(self_attn|mlp)\.(q_proj|down_proj)",
    r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
    r"^(?!.*visual).*(?:q_proj|k_proj|v_proj|o_proj)$",
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|ffn).*?(?:q_proj|k_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|k_proj|down_proj)))",
    r"(\w+\.)*q_proj",
    r"(?:.*\.)?layers\.(?:[0-9]|1[0-7])\..*",
    r"[^.]+(\.[^.]+){3}_proj|.+(?<!q)_proj",
    ".*layers.*mlp.*_.*proj.*",
)


def test_expressions_of_real_adapters_match_as_in_re():
    for expression in REAL:
        check_expression(expression)
        expected = [re.fullmatch(expression, name) is not None for name in NAMES]
        assert [fits_whole(expression, name) for name in NAMES] == expected, expression
        tree, _ = _parsed(expression)
        walked = [len(name) in _Walk(expression, name).ends(tree, 0) for name in NAMES]
        assert walked == expected and True in expected, expression


ATOMS = st.sampled_from(
    ["a", "b", "0", r"\.", ".", "[ab]", "[^a]", r"[\da-b]", r"[^\W0]", r"\d", r"\D", r"\w", r"\W",
     r"\s", r"\S", r"\b", r"\B", "^", "$", r"\A", r"\Z", "(?=a)", "(?!b)", "(?<=a)", "(?<!b.)",
     "", "ab", "(?:a|ab|)", "(?!)"]
)  # fmt: skip
REPEATS = st.sampled_from(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?", "{3,}"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, REPEATS).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(EXPRESSIONS, st.text("ab0.", min_size=1, max_size=8))
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_any_expression_matches_as_in_re(expression, name):
    try:
        re.compile(expression)
    except re.error:
        assume(False)
    tree, _ = _parsed(expression)
    ends = _Walk(expression, name).ends(tree, 0)
    assert (len(name) in ends) == (re.fullmatch(expression, name) is not None)
    assert bool(ends) == (re.match(expression, name) is not None)
    assert fits_whole(expression, name) == (len(name) in ends)
    assert fits_start(expression, name) == bool(ends)


ENDLESS = (
    "(.+)+Z", "(.*)*Z", "(a|.)*Z", "(.?){60}Z", ".?" * 60 + "Z", "(.{0,50}){0,50}Z",
    ".*" * 20 + "Z", "(" * 30 + ".*" + ")*" * 30 + "Z", r"(\w+\.?)+!", "((.|..)+)+Z",
)  # fmt: skip


@pytest.mark.parametrize("expression", ENDLESS)
def test_what_would_never_end_is_answered_or_refused(expression):
    """Rightly answered where the steps suffice: none of these names fits any of them."""
    for name in NAMES:
        for fits in (fits_whole, fits_start):
            try:
                assert fits(expression, name) is False
            except ValueError as error:
                assert "\n" not in str(error) and len(str(error)) < 300


@pytest.mark.parametrize("expression", [".*" * 20 + "Z", "(" * 30 + ".*" + ")*" * 30 + "Z"])
def test_what_takes_too_many_steps_is_refused(expression):
    with refusal(ValueError, expression[:20], MOST_STEPS, Q0):
        fits_whole(expression, Q0)


@pytest.mark.parametrize(
    "expression",
    [
        "(", "a{2,1}", "*", "[b-a]", "(?P<a>x)(?P=a)", r"(x)\1", "(x)?(?(1)y|z)", "(?i)q", "(?i:q)",
        "(?s).*", "(" * 5000 + ")" * 5000, "a" * (LONGEST + 1), "(?<=a*)b", "x{99999999999999}",
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_what_is_no_plain_expression_is_refused(expression):
    with pytest.raises(ValueError) as error:
        check_expression(expression)
    assert "\n" not in str(error.value)


def test_where_a_match_can_end():
    assert ends_after("a*", "aab", 0) == [0, 1, 2]
    assert ends_after("a|aab", "aab", 0) == [1, 3]
    assert ends_after("b", "aab", 1) == []


@pytest.fixture
def folder(tiny, tmp_path):
    config = LoRAConfig(r=2, target_modules=("q_proj", "up_proj"))
    return attach(tiny.model(), config, np.random.default_rng(0)).adapter().write(tmp_path / "a")


@pytest.mark.parametrize("expression", ["(.+)+Z", "(.*.*.*)*Z", "(" * 9 + ".*" + ")+" * 9 + "Z"])
@pytest.mark.parametrize(
    "options",
    [
        lambda x: {"target_modules": x},
        lambda x: {"exclude_modules": x},
        lambda x: {"rank_pattern": {x: 3}},
        lambda x: {"alpha_pattern": {x: 3}},
        lambda x: {"layers_to_transform": [0], "layers_pattern": x},
    ],
)
def test_a_folder_with_what_would_never_end_is_judged_at_once(tiny, folder, expression, options):
    """Refused, or read as what it says: that it fits nothing."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options(expression)}))
    try:
        adapter = Adapter.read(folder)
    except AdapterError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
    else:
        assert not set(options(expression)) & {"target_modules", "layers_to_transform"}
        assert len(adapter.modules) == 6


@pytest.mark.parametrize("name", ["rank_pattern", "alpha_pattern"])
def test_more_keys_than_any_model_has_layers_are_refused(name):
    keys = {f"layers.{i}.q_proj": 3 for i in range(MOST_EXPRESSIONS + 1)}
    with refusal(ValueError, name, MOST_EXPRESSIONS + 1, MOST_EXPRESSIONS):
        LoRAConfig(**{name: keys})
    keys.popitem()
    assert LoRAConfig(**{name: keys}).at("model.layers.7.q_proj") != LoRAConfig()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layers", True), ("h", False), (None, True), ("[^.]*", True), ("h|layers", True),
        (["h", "layers"], True), ("model.layers", True), (r"model\.(h|layers)", True),
        ("mod", False),
        ("ayers", False),
    ],
)  # fmt: skip
def test_layers_are_chosen_by_what_stands_before_their_number(pattern, expected):
    options = {"target_modules": ["q_proj"], "layers_to_transform": [0]}
    assert is_chosen(Q0, {**options, "layers_pattern": pattern}) is expected
    assert not is_chosen(Q0.replace("0", "1"), {**options, "layers_pattern": pattern})


def test_a_layer_that_could_be_two_is_refused():
    options = {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ".*"}
    assert is_chosen("model.layers.0.q_proj", options)
    with refusal(ValueError, "layers_pattern", ".*"):
        is_chosen("model.layers.0.experts.3.q_proj", options)

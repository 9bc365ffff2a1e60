"""Module: names, order, state, replacement, modes."""

import numpy as np
import pytest

from minilora.autograd import Tensor
from minilora.nn import Linear, Module, ModuleList, Parameter, RMSNorm
from tests.says import refusal


def rng():
    return np.random.default_rng(0)


class Pair(Module):
    def __init__(self):
        super().__init__()
        self.first = Linear(3, 5, rng(), bias=True)
        self.gain = Parameter(np.ones(2, dtype=np.float32))
        self.rest = ModuleList([RMSNorm(5), Linear(5, 2, rng()), RMSNorm(2)])
        self.note = "no layer"

    def forward(self, x):
        x = self.first(x)
        for layer in self.rest:
            x = layer(x)
        return x * self.gain


NAMES = [
    "gain",
    "first.weight",
    "first.bias",
    "rest.0.weight",
    "rest.1.weight",
    "rest.2.weight",
]


def test_names_are_dotted_paths_in_the_order_of_definition():
    pair = Pair()
    assert [name for name, _ in pair.named_parameters()] == NAMES
    assert [name for name, _ in pair.named_modules()] == [
        "",
        "first",
        "rest",
        "rest.0",
        "rest.1",
        "rest.2",
    ]
    assert list(pair.parameters())[1] is pair.first.weight
    assert pair.get_submodule("rest.1") is pair.rest[1]
    assert pair.get_submodule("") is pair
    assert len(pair.rest) == 3


def test_a_shared_parameter_is_listed_once_under_its_first_name():
    pair = Pair()
    pair.rest[2].weight = pair.gain
    assert [name for name, _ in pair.named_parameters()] == NAMES[:-1]


@pytest.mark.parametrize("path", ["first", "rest.0", "rest.1"])
def test_set_submodule_keeps_the_order(path):
    pair = Pair()
    before = [name for name, _ in pair.named_modules()]
    new = Linear(3, 7, rng())
    pair.set_submodule(path, new)
    assert [name for name, _ in pair.named_modules()] == before
    assert pair.get_submodule(path) is new


def test_replacing_a_layer_is_seen_by_forward():
    pair = Pair()
    x = Tensor(np.ones((4, 3), dtype=np.float32))
    before = pair(x).data
    pair.set_submodule("rest.1", Linear(5, 2, np.random.default_rng(1)))
    assert not np.allclose(pair(x).data, before)


def test_an_attribute_that_becomes_something_else_is_no_longer_listed():
    pair = Pair()
    pair.first = None
    pair.gain = Linear(2, 2, rng())
    assert [name for name, _ in pair.named_parameters()] == [
        "rest.0.weight",
        "rest.1.weight",
        "rest.2.weight",
        "gain.weight",
    ]


@pytest.mark.parametrize(
    ("path", "named"),
    [("rest.3", ("3", "2")), ("second", ("Pair", "second")), ("", ())],
)
def test_unknown_paths_are_refused(path, named):
    with refusal(ValueError, *named):
        Pair().set_submodule(path, RMSNorm(2))


def test_state_dict_goes_round_and_load_copies():
    source, target = Pair(), Pair()
    for parameter in source.parameters():
        parameter.data = parameter.data + 1
    state = source.state_dict()
    assert list(state) == NAMES
    kept = target.first.weight
    assert not np.array_equal(kept.data, state["first.weight"])
    target.load_state_dict(state)
    assert target.first.weight is kept
    for name, parameter in target.named_parameters():
        assert np.array_equal(parameter.data, state[name])
        assert not np.shares_memory(parameter.data, state[name])


def test_loading_converts_to_the_dtype_of_the_parameter():
    pair = Pair()
    pair.load_state_dict({k: v.astype(np.float16) for k, v in pair.state_dict().items()})
    assert {p.dtype for p in pair.parameters()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("gain"), ("gain",)),
        (lambda s: s.update(more=s["gain"]), ("more",)),
        (
            lambda s: s.update({"rest.2.weight": np.ones((2, 1))}),
            ("rest.2.weight", (2, 1), (2,)),
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_a_state_that_does_not_fit_changes_nothing(change, named):
    pair = Pair()
    state = {name: array + 1 for name, array in pair.state_dict().items()}
    change(state)
    before = {name: array.copy() for name, array in pair.state_dict().items()}
    with refusal(ValueError, *named):
        pair.load_state_dict(state)
    assert all(np.array_equal(array, before[name]) for name, array in pair.state_dict().items())


def test_modes_freezing_and_gradients_reach_every_layer():
    pair = Pair()
    assert pair.training and pair.rest[2].training
    assert pair.eval() is pair
    assert not any(module.training for _, module in pair.named_modules())
    pair.train()
    assert all(module.training for _, module in pair.named_modules())

    x = Tensor(np.ones((4, 3), dtype=np.float32))
    pair.rest.requires_grad_(False)
    pair(x).backward(np.ones((4, 2), dtype=np.float32))
    with_gradient = [name for name, p in pair.named_parameters() if p.grad is not None]
    assert with_gradient == NAMES[:3]
    pair.zero_grad()
    assert all(p.grad is None for p in pair.parameters())


def test_a_module_without_forward_says_so():
    with refusal(NotImplementedError, "ModuleList", "forward"):
        ModuleList([])(1)

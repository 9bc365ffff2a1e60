"""Every fused op equals its slow twin of primitives, in value and in every gradient."""

import numpy as np
import pytest

from minilora.autograd import functional
from minilora.gradients.op_cases import op_cases
from minilora.gradients.twins import TWINS

CASES = [case for case in op_cases(seed=4) if case.op in TWINS]


def value_and_gradients(case, g, target=None):
    leaves = case.leaves()
    out = case.fn(target)(**leaves)
    out.backward(g)
    return out.data, {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fused_op_equals_its_twin(case):
    shape = case.fn()(**case.leaves()).shape
    g = np.random.default_rng(6).standard_normal(shape)
    fused, fused_gradients = value_and_gradients(case, g)
    slow, slow_gradients = value_and_gradients(case, g, TWINS[case.op])
    np.testing.assert_allclose(fused, slow, rtol=1e-10, atol=1e-10)
    for name in case.inputs:
        np.testing.assert_allclose(
            fused_gradients[name], slow_gradients[name], rtol=1e-10, atol=1e-10, err_msg=name
        )


def test_every_fused_op_has_a_twin_that_does_not_call_it():
    assert set(TWINS) == set(functional.__all__) - {
        "IGNORE",
        "dropout_mask",
        "labelled_positions",
        "rope_tables",
    }
    for name, twin in TWINS.items():
        assert twin is not getattr(functional, name)
        assert twin.__module__ == "minilora.gradients.twins"


def test_padding_gets_a_gradient_of_exactly_zero():
    cases = {case.name: case for case in op_cases(seed=4)}
    case = cases["causal_attention (left padding)"]
    start = [0, 3, 1]
    g = np.random.default_rng(1).standard_normal(case.inputs["q"].shape)
    for row, count in enumerate(start):
        g[row, :count] = 0.0
    _, gradients = value_and_gradients(case, g)
    for row, count in enumerate(start):
        assert not gradients["k"][row, :count].any()
        assert not gradients["v"][row, :count].any()
        assert gradients["v"][row, count:].all()

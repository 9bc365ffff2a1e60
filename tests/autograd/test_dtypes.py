"""float32 stays float32: no value and no gradient is widened on the way."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from minilora.autograd import Tensor
from minilora.gradients.cases import all_cases
from minilora.gradients.op_cases import op_cases

OPS = op_cases(seed=0)
MODELS = [case for case in all_cases() if case.module is not None]


def single(value):
    """Every float64 array in a case's inputs or constants as float32."""
    if isinstance(value, Mapping):
        return {name: single(one) for name, one in value.items()}
    if isinstance(value, Tensor):
        return Tensor(value.data.astype(np.float32))
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        return value.astype(np.float32)
    return value


def as_float32(case):
    """The case with float32 inputs and constants."""
    return replace(case, inputs=single(case.inputs), constants=single(case.constants))


def spy_on_vjps(monkeypatch):
    """Collect the dtypes of all values and cotangents that pass through any recorded op."""
    seen = set()
    original = Tensor.from_op

    def from_op(data, *inputs, **declared):
        seen.add(("value", str(data.dtype)))

        def watched(vjp):
            def run(g):
                out = vjp(g)
                seen.add(("cotangent", str(out.dtype)))
                return out

            return run

        return original(data, *((x, watched(vjp)) for x, vjp in inputs), **declared)

    monkeypatch.setattr(Tensor, "from_op", staticmethod(from_op))
    return seen


@pytest.mark.parametrize("case", OPS, ids=lambda case: case.name)
def test_ops_keep_float32(case, monkeypatch):
    seen = spy_on_vjps(monkeypatch)
    case = as_float32(case)
    leaves = case.leaves()
    out = case.fn()(**leaves)
    assert out.dtype == np.float32
    out.backward(np.ones(out.shape, dtype=np.float32))
    assert {name: leaf.grad.dtype for name, leaf in leaves.items()} == dict.fromkeys(
        leaves, np.dtype(np.float32)
    )
    assert seen == {("value", "float32"), ("cotangent", "float32")}


def test_a_float64_cotangent_widens_no_gradient():
    x = Tensor(np.ones((2, 3), dtype=np.float32), requires_grad=True)
    (x * x).backward(np.ones((2, 3)))
    assert x.grad.dtype == np.float32


@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_layers_and_models_keep_float32(case, monkeypatch):
    for parameter in case.module.parameters():
        monkeypatch.setattr(parameter, "data", parameter.data.astype(np.float32))
    case = as_float32(case)
    leaves = case.leaves()
    seen = spy_on_vjps(monkeypatch)
    out = case.fn()(**leaves)
    assert out.dtype == np.float32
    out.backward(np.ones(out.shape, dtype=np.float32))
    assert seen == {("value", "float32"), ("cotangent", "float32")}
    for leaf in leaves.values():
        assert leaf.grad.dtype == np.float32
    for parameter in case.module.parameters():
        assert parameter.requires_grad or parameter.grad is None
        parameter.zero_grad()

"""float32 stays float32: no value and no gradient is widened on the way."""

import numpy as np
import pytest

from minilora.autograd import Tensor
from minilora.gradients.adapter_cases import adapted_cases
from minilora.gradients.model_cases import model_cases
from minilora.gradients.op_cases import op_cases

OPS = op_cases(seed=0)
MODELS = [*model_cases(), *adapted_cases()]


def single(value):
    """Every float64 array in a case's constants as float32."""
    if isinstance(value, Tensor):
        return Tensor(value.data.astype(np.float32))
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        return value.astype(np.float32)
    return value


def as_float32(call):
    """The case's call with float32 constants (they sit in the closure of the case)."""
    names = call.__code__.co_freevars
    cells = dict(zip(names, call.__closure__ or (), strict=True))
    if "fixed" not in cells:
        return call
    fixed = {name: single(value) for name, value in cells["fixed"].cell_contents.items()}
    return lambda target, **tensors: target(**tensors, **fixed)


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
    leaves = {name: Tensor(single(x), requires_grad=True) for name, x in case.inputs.items()}
    out = as_float32(case.call)(case.target, **leaves)
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


def parameters_in(case):
    """Every Parameter of the case's model, the frozen ones too."""
    cells = dict(zip(case.call.__code__.co_freevars, case.call.__closure__, strict=True))
    return list(cells["model"].cell_contents.parameters())


@pytest.mark.parametrize(
    "case",
    [case for case in MODELS if case.op in ("Transformer", "adapted", "Embedding")],
    ids=lambda case: case.name,
)
def test_whole_models_keep_float32(case, monkeypatch):
    for parameter in parameters_in(case):
        monkeypatch.setattr(parameter, "data", parameter.data.astype(np.float32))
    seen = spy_on_vjps(monkeypatch)
    out = case.fn()()
    assert out.dtype == np.float32
    out.backward(np.ones(out.shape, dtype=np.float32))
    assert seen == {("value", "float32"), ("cotangent", "float32")}
    for parameter in parameters_in(case):
        if parameter.requires_grad:
            assert parameter.grad.dtype == np.float32
        else:
            assert parameter.grad is None
        parameter.zero_grad()

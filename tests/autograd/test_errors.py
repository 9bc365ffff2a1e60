"""Bad inputs are refused with what was got and what was expected, before anything changes."""

import numpy as np
import pytest

from minilora.autograd import Tensor
from minilora.autograd import functional as F
from tests.says import refusal


def leaf(*shape, seed=0, requires_grad=True, dtype=np.float32):
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return Tensor(x, requires_grad)


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (lambda: Tensor(np.arange(3), requires_grad=True), ("int64", "float")),
        (lambda: Tensor(leaf(3)), ("Tensor",)),
        (lambda: leaf(3).backward(), ((3,),)),
        (
            lambda: (leaf(3) * 2.0).backward(np.ones((3, 1))),
            ((3, 1), (3,)),
        ),
        (lambda: leaf(3, requires_grad=False).backward(np.ones(3)), ("gradient",)),
        (lambda: setattr(leaf(3) * 2.0, "requires_grad", False), ("leaf",)),
        (lambda: leaf(3) ** leaf(3), ("Tensor",)),
        (lambda: leaf(3, 5) @ leaf(3, 5), ((3, 5),)),
        (lambda: leaf(3) @ leaf(3), ((3,),)),
        (lambda: leaf(3, 5)[np.array([0, 0])], ("ndarray", "slice", "int")),
        (lambda: F.linear(leaf(2, 3), leaf(4, 5)), ((2, 3), (4, 5))),
        (lambda: F.linear(leaf(2, 5), leaf(4, 5), leaf(5)), ((5,), (4,))),
        (
            lambda: F.lora_linear(leaf(2, 5), leaf(4, 5), leaf(2, 5), leaf(2, 4), 1.0),
            ((2, 5), (2, 4)),
        ),
        (lambda: F.embedding(leaf(4, 3), np.array([0, 4])), (0, 4, 3)),
        (lambda: F.embedding(leaf(4, 3), np.array([-1, 2])), (-1, 2, 0, 3)),
        (lambda: F.embedding(leaf(4, 3), np.array([0.0])), ("float64",)),
        (lambda: F.rms_norm(leaf(2, 3), leaf(4)), ((4,), 3, (3,))),
        (lambda: F.swiglu(leaf(2, 3), leaf(3)), ((2, 3), (3,))),
        (
            lambda: F.dropout_mask((3,), 1.0, np.random.default_rng(), np.ones(3)),
            (1.0,),
        ),
        (lambda: F.rope_tables(np.arange(3), 5, 1e4), ("head_dim", 5)),
        (
            lambda: F.rope(leaf(2, 3, 5, 4), np.ones((4, 20)), np.ones((4, 20))),
            ((2, 3, 5, 4), (4, 20)),
        ),
        (
            lambda: F.causal_attention(leaf(2, 3, 4, 2), leaf(2, 3, 3, 2), leaf(2, 3, 3, 2)),
            ("H", "Hkv"),
        ),
        (
            lambda: F.causal_attention(leaf(2, 4, 2, 2), leaf(2, 3, 2, 2), leaf(2, 3, 2, 2)),
            ("T", "S"),
        ),
        (
            lambda: F.linear_cross_entropy(leaf(2, 3), leaf(5, 3), np.array([1])),
            ((1,), (2,)),
        ),
        (
            lambda: F.linear_cross_entropy(leaf(2, 3), leaf(5, 3), np.array([1, 5])),
            (1, 5, 0, 4, -100),
        ),
        (
            lambda: F.linear_cross_entropy(leaf(2, 3), leaf(5, 3), np.array([-100, -100])),
            (-100,),
        ),
        (
            lambda: F.linear_cross_entropy(leaf(2, 3), leaf(5, 3), np.array([1, 2]), normalizer=0),
            (0,),
        ),
        (
            lambda: F.linear_cross_entropy(leaf(2, 3), leaf(5, 4), np.array([1, 2])),
            ((2, 3), (5, 4)),
        ),
    ],
)
def test_bad_inputs_are_refused_by_name(act, named):
    with refusal(ValueError, *named):
        act()


def test_a_vjp_of_the_wrong_shape_is_refused_before_any_grad_changes():
    x = leaf(3)
    out = Tensor.from_op(x.data * 2, (x, lambda g: np.ones((2, 2), dtype=np.float32)))
    with refusal(ValueError, (2, 2), (3,)):
        out.backward(np.ones(3, dtype=np.float32))
    assert x.grad is None

"""Bad inputs are refused with what was got and what was expected, before anything changes."""

import numpy as np
import pytest

from minilora.autograd import Tensor
from minilora.autograd import functional as F


def leaf(*shape, seed=0, requires_grad=True, dtype=np.float32):
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return Tensor(x, requires_grad)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Tensor(np.arange(3), requires_grad=True), "got dtype int64, expected a float"),
        (lambda: Tensor(leaf(3)), "got a Tensor as data, expected an array"),
        (lambda: leaf(3).backward(), r"got shape \(3,\) without a cotangent, expected a scalar"),
        (
            lambda: (leaf(3) * 2.0).backward(np.ones((3, 1))),
            r"got a cotangent of shape \(3, 1\), expected \(3,\)",
        ),
        (lambda: leaf(3, requires_grad=False).backward(np.ones(3)), "requires no gradient"),
        (lambda: setattr(leaf(3) * 2.0, "requires_grad", False), "expected a leaf"),
        (lambda: leaf(3) ** leaf(3), "got an exponent of type Tensor, expected a number"),
        (lambda: leaf(3, 5) @ leaf(3, 5), r"got shapes \(3, 5\) and \(3, 5\), expected"),
        (lambda: leaf(3) @ leaf(3), "expected"),
        (lambda: leaf(3, 5)[np.array([0, 0])], "index of type ndarray, expected slice or int"),
        (lambda: F.linear(leaf(2, 3), leaf(4, 5)), r"x \(2, 3\) and weight \(4, 5\), expected"),
        (lambda: F.linear(leaf(2, 5), leaf(4, 5), leaf(5)), r"bias \(5,\), expected \(4,\)"),
        (
            lambda: F.lora_linear(leaf(2, 5), leaf(4, 5), leaf(2, 5), leaf(2, 4), 1.0),
            r"A \(2, 5\) and B \(2, 4\)",
        ),
        (lambda: F.embedding(leaf(4, 3), np.array([0, 4])), "ids from 0 to 4, expected 0 to 3"),
        (lambda: F.embedding(leaf(4, 3), np.array([-1, 2])), "ids from -1 to 2, expected 0 to 3"),
        (lambda: F.embedding(leaf(4, 3), np.array([0.0])), "dtype float64, expected integers"),
        (lambda: F.rms_norm(leaf(2, 3), leaf(4)), r"weight \(4,\) for width 3, expected \(3,\)"),
        (lambda: F.swiglu(leaf(2, 3), leaf(3)), r"\(2, 3\) and \(3,\), expected equal"),
        (
            lambda: F.dropout_mask((3,), 1.0, np.random.default_rng(), np.ones(3)),
            "got dropout probability 1.0",
        ),
        (lambda: F.rope_tables(np.arange(3), 5, 1e4), "head_dim 5, expected an even number"),
        (
            lambda: F.rope(leaf(2, 3, 5, 4), np.ones((4, 20)), np.ones((4, 20))),
            r"x \(2, 3, 5, 4\) and cos \(4, 20\), expected",
        ),
        (
            lambda: F.causal_attention(leaf(2, 3, 4, 2), leaf(2, 3, 3, 2), leaf(2, 3, 3, 2)),
            "H a multiple of Hkv",
        ),
        (
            lambda: F.causal_attention(leaf(2, 4, 2, 2), leaf(2, 3, 2, 2), leaf(2, 3, 2, 2)),
            "T <= S",
        ),
        (
            lambda: F.linear_cross_entropy(leaf(2, 3), leaf(5, 3), np.array([1])),
            r"labels of shape \(1,\), expected \(2,\)",
        ),
        (
            lambda: F.linear_cross_entropy(leaf(2, 3), leaf(5, 3), np.array([1, 5])),
            "labels from 1 to 5, expected 0 to 4 or -100",
        ),
        (
            lambda: F.linear_cross_entropy(leaf(2, 3), leaf(5, 3), np.array([-100, -100])),
            "only -100 labels, expected at least one",
        ),
        (
            lambda: F.linear_cross_entropy(leaf(2, 3), leaf(5, 3), np.array([1, 2]), normalizer=0),
            "normalizer 0, expected a number above 0",
        ),
        (
            lambda: F.linear_cross_entropy(leaf(2, 3), leaf(5, 4), np.array([1, 2])),
            r"got x \(2, 3\) and weight \(5, 4\)",
        ),
    ],
)
def test_bad_inputs_are_refused_by_name(act, message):
    with pytest.raises(ValueError, match=message):
        act()


def test_a_vjp_of_the_wrong_shape_is_refused_before_any_grad_changes():
    x = leaf(3)
    out = Tensor.from_op(x.data * 2, (x, lambda g: np.ones((2, 2), dtype=np.float32)))
    with pytest.raises(ValueError, match=r"returned shape \(2, 2\), expected \(3,\)"):
        out.backward(np.ones(3, dtype=np.float32))
    assert x.grad is None

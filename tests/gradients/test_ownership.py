"""Who owns a gradient: what a vjp may return, and declarations of ops that are not true."""

import numpy as np
import pytest

from minilora.autograd import Tensor, ops
from minilora.gradients.cases import all_cases
from minilora.gradients.gradcheck import check_gradients
from minilora.gradients.op_cases import op_cases
from minilora.gradients.ownership import false_declarations


def leaf(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def result_of(case):
    return case.fn()(**case.leaves())


# -- a vjp may return any array --------------------------------------------------------------

HELD = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])

RETURNS = {
    "a captured array": lambda w, x: lambda g: w,
    "a view of a captured array": lambda w, x: lambda g: w[::-1, ::-1],
    "a part of a captured array": lambda w, x: lambda g: np.broadcast_to(w[0], x.shape),
    "its cotangent": lambda w, x: lambda g: g,
    "a view of its cotangent": lambda w, x: lambda g: g[::-1],
    "its input": lambda w, x: lambda g: x.data,
}


@pytest.mark.parametrize("uses", [1, 2, 3])
@pytest.mark.parametrize("returned", RETURNS)
def test_what_a_vjp_returns_is_neither_written_into_nor_handed_out(returned, uses):
    x, w, g = leaf(2, 3), HELD.copy(), np.full((2, 3), 0.5)
    data = x.data.copy()
    vjp = RETURNS[returned](w, x)
    expected = uses * vjp(g).copy()
    out = Tensor.from_op(x.data * 1.0, (x, vjp))
    for _ in range(uses - 1):
        out = out + Tensor.from_op(x.data * 1.0, (x, vjp))
    out.backward(g)
    np.testing.assert_allclose(x.grad, expected, rtol=1e-15)
    x.grad *= 0.25  # as clipping does
    x.grad += 7.0
    assert np.array_equal(w, HELD)
    assert np.array_equal(g, np.full((2, 3), 0.5))
    assert np.array_equal(x.data, data)


@pytest.mark.parametrize("uses", [1, 2])
def test_a_captured_array_stays_as_it_was_where_the_result_of_an_op_is_used(uses):
    x, w = leaf(2, 3), HELD.copy()
    middle = x * 2.0
    out = sum((Tensor.from_op(middle.data, (middle, lambda g: w)) for _ in range(uses)), middle)
    out.backward(np.ones((2, 3)))
    np.testing.assert_array_equal(x.grad, 2.0 * (1.0 + uses * HELD))
    assert np.array_equal(w, HELD)


def test_one_array_may_go_to_two_parents():
    """The array that prepare made reaches a and b; a has a second user, whose share is added."""
    a, b = leaf(2, 3), leaf(2, 3, seed=1)
    both = Tensor.from_op(
        a.data + b.data, (a, lambda s: s), (b, lambda s: s), prepare=lambda g: g * 3.0
    )
    (both + a * 2.0).backward(np.ones((2, 3)))
    np.testing.assert_array_equal(a.grad, np.full((2, 3), 5.0))
    np.testing.assert_array_equal(b.grad, np.full((2, 3), 3.0))
    assert not np.shares_memory(a.grad, b.grad)
    a.grad *= 0.0
    np.testing.assert_array_equal(b.grad, np.full((2, 3), 3.0))


def test_a_fresh_result_becomes_the_gradient_without_a_copy():
    x, made = leaf(2, 3), []

    def vjp(g):
        made.append(g * 2.0)
        return made[-1]

    Tensor.from_op(x.data * 2.0, (x, vjp), fresh=True).backward(np.ones((2, 3)))
    assert x.grad is made[0]


def test_a_fresh_result_is_added_into_by_the_next():
    x, made = leaf(2, 3), []

    def vjp(g):
        made.append(g * 2.0)
        return made[-1]

    parts = [Tensor.from_op(x.data * 2.0, (x, vjp), fresh=True) for _ in range(3)]
    (parts[0] + parts[1] + parts[2]).backward(np.ones((2, 3)))
    assert len(made) == 3 and x.grad is made[0]
    np.testing.assert_array_equal(x.grad, np.full((2, 3), 6.0))


# -- what an op declares is true -------------------------------------------------------------


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_what_is_declared_fresh_is_fresh(case):
    out = result_of(case)
    g = np.random.default_rng(3).standard_normal(out.shape)
    assert false_declarations(out, g) == []


def test_every_op_that_computes_its_gradients_declares_them_fresh():
    """The others hand on g, or a view of it: a declaration that is forgotten costs copies."""
    hand_on = {"add", "sub", "sum", "reshape", "transpose", "swapaxes", "concatenate"}
    undeclared = {case.op for case in op_cases() if not result_of(case).node.fresh}
    assert undeclared == hand_on


LIES = {
    **RETURNS,
    "a buffer that it writes anew": lambda w, x: lambda g: np.multiply(g, 2.0, out=w),
    "an array that refuses writes": lambda w, x: lambda g: np.broadcast_to(g.sum(), x.shape),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_false_declaration_is_found(lie):
    x, w = leaf(2, 3), HELD.copy()
    out = Tensor.from_op(x.data * 1.0, (x, LIES[lie](w, x)), fresh=True)
    assert len(false_declarations(out * 2.0, np.ones((2, 3)))) == 1


def test_what_prepare_made_for_all_is_not_fresh():
    a, b = leaf(2, 3), leaf(2, 3, seed=1)
    out = Tensor.from_op(
        a.data + b.data,
        (a, lambda s: s),
        (b, lambda s: s * 1.0),
        prepare=lambda g: g * 3.0,
        fresh=True,
    )
    assert len(false_declarations(out, np.ones((2, 3)))) == 1


def test_the_gradient_check_rejects_a_false_declaration_whose_numbers_are_right():
    def double(x):
        slope = np.full(x.shape, 2.0)
        vjp = lambda g: np.multiply(g, 2.0, out=slope)  # noqa: E731
        return Tensor.from_op(x.data * 2.0, (x, vjp), fresh=True)

    report = check_gradients(double, {"x": np.ones((2, 3))}, rng=np.random.default_rng(0))
    assert not report.ok and "fresh" in report.worst.problem


def test_looking_leaves_the_graph_as_it_was():
    x = leaf(2, 3)
    out = ops.sum(x * x)
    false_declarations(out, np.ones(()))
    out.backward()
    np.testing.assert_allclose(x.grad, 2 * x.data)
    assert false_declarations(Tensor(np.ones(3)), np.ones(3)) == []

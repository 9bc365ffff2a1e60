"""The checker itself: what it must reject, and how it says so."""

import numpy as np
import pytest

from minilora.autograd import Tensor, ops
from minilora.gradients.gradcheck import ALL, check_gradients
from tests.says import refusal


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def check(fn, inputs, **options):
    return check_gradients(fn, inputs, rng=np.random.default_rng(5), **options)


def cube_with(vjp):
    """x^3 with a vjp that the test gives."""
    return lambda x: Tensor.from_op(x.data**3, (x, lambda g: vjp(g, x.data)))


def test_accepts_the_right_vjp_and_names_what_it_compared():
    report = check(cube_with(lambda g, x: g * 3 * x * x), {"x": numbers(3, 5)}, name="cube")
    assert report.ok
    (row,) = report.rows
    assert (row.op, row.input, row.problem) == ("cube", "x", "")
    assert 0 < row.error < 1e-8
    assert row.seconds > 0


def test_takes_inputs_in_a_row_and_adds_a_row_for_all_of_them():
    report = check(lambda a, b: a * b, [numbers(2, 3), numbers(3, seed=1)])
    assert report.ok
    assert [row.input for row in report.rows] == ["0", "1", ALL]


@pytest.mark.parametrize(
    "vjp",
    [
        lambda g, x: -g * 3 * x * x,
        lambda g, x: g * 3.0001 * x * x,
        lambda g, x: np.zeros_like(x),
        lambda g, x: g * 3 * x,
        lambda g, x: np.roll(g * 3 * x * x, 1),
        lambda g, x: g * np.nan,
        lambda g, x: np.where(np.arange(x.size).reshape(x.shape) == 7, 0.0, g * 3 * x * x),
    ],
    ids=["sign", "scale", "zeros", "power", "rolled", "nan", "one element"],
)
@pytest.mark.parametrize("elementwise", [None, 0], ids=["elements", "direction only"])
def test_rejects_planted_faults(vjp, elementwise):
    assert not check(cube_with(vjp), {"x": numbers(3, 5)}, elementwise=elementwise).ok


def test_a_gradient_of_nan_is_infinitely_wrong():
    assert check(cube_with(lambda g, x: g * np.nan), {"x": numbers(3)}).worst.error == np.inf


def test_names_the_worst_element():
    def vjp(g, x):
        gx = g * 3 * x * x
        gx[1, 2] += 0.5
        return gx

    row = check(cube_with(vjp), {"x": numbers(3, 5)}).worst
    assert row.index == (1, 2)
    assert row.analytic - row.numeric == pytest.approx(0.5, abs=1e-6)
    assert "element [1, 2]" in str(row) and "FAILED" in str(row)


def test_small_gradients_beside_large_ones_are_judged_on_the_large_scale():
    scale = Tensor(np.array([1.0, 1e-4, 0.0]))
    assert check(lambda x: x * scale, {"x": numbers(2, 3)}).ok


@pytest.mark.parametrize(
    ("fn", "inputs"),
    [
        (lambda x: ops.sum(x - x), {"x": numbers(3)}),
        (lambda x, y: x * 1.0, {"x": numbers(3), "y": numbers(2)}),
        (lambda x: x * 2.0, {"x": numbers(0, 3)}),
        (lambda x: Tensor(np.ones(3)), {"x": numbers(3)}),
        (lambda x: ops.sum(x / ops.sum(x)), {"x": numbers(3) + 5}),
    ],
    ids=["zero gradient", "unused input", "empty", "constant", "zero up to rounding"],
)
def test_a_check_that_proves_nothing_fails_as_vacuous(fn, inputs):
    report = check(fn, inputs)
    assert not report.ok
    assert "vacuous" in report.worst.problem


def test_an_expected_zero_passes_and_a_wrongly_expected_one_fails():
    assert check(
        lambda x, y: x * 1.0 + ops.sum(y - y), {"x": numbers(3), "y": numbers(2)}, zero=["y"]
    ).ok
    report = check(lambda x: x * 2.0, {"x": numbers(3)}, zero=["x"])
    assert not report.ok and "zero" in report.worst.problem


def test_a_cut_graph_fails():
    report = check(lambda x, y: x.detach() * y, {"x": numbers(3), "y": numbers(3, seed=1)})
    assert not report.ok
    assert report.worst.input == "x" and "no gradient" in report.worst.problem


def test_notices_values_that_change_between_calls():
    rng = np.random.default_rng(0)
    report = check(lambda x: x * Tensor(rng.standard_normal(3)), {"x": numbers(3)})
    assert not report.ok and "random" in report.worst.problem


def test_notices_a_vjp_that_writes_into_its_cotangent():
    def vjp(g, x):
        g *= 3
        return g * x * x

    report = check(cube_with(vjp), {"x": numbers(3)})
    assert not report.ok and "cotangent" in report.worst.problem


def test_notices_an_op_that_writes_into_its_input():
    def doubles_in_place(x):
        if x.requires_grad and x.node is None:
            out = Tensor.from_op(
                x.data * 2, (x, lambda g: np.add(x.data, 1, out=x.data) * 0 + 2 * g)
            )
            return out
        raise AssertionError("the input must be a leaf")

    report = check(doubles_in_place, {"x": numbers(3)})
    assert not report.ok and "input" in report.worst.problem


def test_leaves_are_used_as_they_stand_and_left_as_they_were():
    leaf = Tensor(numbers(2, 3), requires_grad=True)
    leaf.grad = np.full((2, 3), 7.0)
    data, kept = leaf.data, leaf.data.copy()
    assert check(lambda **_: leaf * leaf, {"a name.with dots": leaf}).ok
    assert leaf.data is data and np.array_equal(data, kept)
    assert np.array_equal(leaf.grad, np.full((2, 3), 7.0))


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"x": numbers(3).astype(np.float32)}, ("x", "float32", "float64")),
        ({"ids": np.arange(3)}, ("ids", "int64", "float64")),
        ({"x": [1.0, 2.0]}, ("x", "list", "float64")),
        ({}, ()),
        ({"x": Tensor(numbers(3))}, ("leaf",)),
    ],
    ids=["float32", "integers", "list", "none", "frozen"],
)
def test_refuses_inputs_it_cannot_judge(inputs, named):
    with refusal(ValueError, *named):
        check(lambda **tensors: ops.sum(next(iter(tensors.values()))), inputs)


def test_refuses_functions_and_names_it_cannot_judge():
    with refusal(ValueError, "float32", "float64"):
        check(lambda x: Tensor(x.data.astype(np.float32)), {"x": numbers(3)})
    with refusal(ValueError, "ndarray", "float64"):
        check(lambda x: x.data, {"x": numbers(3)})
    with refusal(ValueError, "zero", "z", "x"):
        check(lambda x: x * 2.0, {"x": numbers(3)}, zero=["z"])

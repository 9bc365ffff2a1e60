"""The judge: it accepts what is right, and words what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.autograd import Tensor
from minilora.course.judge import Judge, Mistake, slopes


@pytest.fixture
def judge():
    return Judge(0)


WANT = np.arange(1.0, 7.0).reshape(2, 3)
BIG = np.zeros((4, 2, 3))


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (None, "got None"),
        ("text", "expected numbers"),
        (WANT.T, "transposed"),
        (BIG, "batch axis"),
        (WANT[0], "your shape is (3,)"),
        (0 * WANT, "all zeros"),
        (-WANT, "the sign is wrong"),
        (WANT * 0.25, "alpha / r is missing"),
        (WANT * 5, "right direction, wrong size: 5 times what it should be"),
        (WANT + np.eye(2, 3), "x[0, 0]: yours is 2, expected 1"),
        (WANT * np.nan, "6 numbers NaN or infinite"),
        (WANT[::-1], "upside down"),
    ],
)
def test_close_names_the_mistake(judge, got, words):
    with pytest.raises(Mistake, match=r"^x") as caught:
        judge.close(
            "x",
            got,
            WANT,
            factors={"alpha / r is missing": 0.25},
            instead={"that is upside down.": WANT[::-1]},
        )
    assert words in str(caught.value)
    assert judge.compared == 1


@pytest.mark.parametrize("got", [WANT, WANT.astype(np.float32), WANT.tolist(), Tensor(WANT)])
def test_close_accepts_what_is_right(judge, got):
    judge.close("x", got, WANT)
    assert judge.compared == 1


@pytest.mark.parametrize("got", [WANT * (1 + 1e-5), WANT + 1e-4])
def test_a_small_error_is_an_error(judge, got):
    with pytest.raises(Mistake):
        judge.close("x", got, WANT)


@pytest.mark.parametrize(("got", "words"), [([1.0], "an array of shape (1,)"), (2.0, "yours is 2")])
def test_number(judge, got, words):
    judge.number("n", 3, 3)
    with pytest.raises(Mistake, match="n") as caught:
        judge.number("n", got, 3)
    assert words in str(caught.value)


def test_slopes_against_a_derivative(judge):
    x = judge.normal(3, 2)
    found = slopes(lambda v: (v**3).sum(), x)
    assert np.allclose(found, 3 * x**2, atol=1e-8)


def in_place(x):
    x += 1
    return x


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda x: None, "returned None"),
        (in_place, "changed its input x in place"),
        (lambda x: x @ x, "x (2, 3)"),
    ],
)
def test_call_finds_what_went_wrong(judge, fn, words):
    with pytest.raises(Mistake) as caught:
        judge.call(fn, x=WANT.copy())
    assert words in str(caught.value)


def test_call_lets_other_errors_through(judge):
    with pytest.raises(ValueError, match="of yours"):
        judge.call(lambda x: (_ for _ in ()).throw(ValueError("one of yours")), x=WANT)


def scaled(x, w, factor=1.0):
    return Tensor.from_op(
        x.data * w.data, (x, lambda g: factor * g * w.data), (w, lambda g: g * x.data)
    )


def test_recorded_gradients(judge):
    inputs = {"x": judge.normal(3, 2), "w": judge.normal(3, 2)}
    judge.recorded_gradients(scaled, inputs)
    assert judge.compared == 2
    with pytest.raises(Mistake, match=r"gradient of x: 2 times what it should be: counted twice"):
        judge.recorded_gradients(
            lambda x, w: scaled(x, w, 2.0), inputs, factors={"x": {"counted twice": 2.0}}
        )


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda x, w: x.data, "expected a Tensor"),
        (lambda x, w: Tensor(x.data), "requires no gradient"),
        (lambda x, w: Tensor.from_op(x.data, (x, lambda g: g)), "no gradient reached w"),
    ],
)
def test_recorded_gradients_finds_what_is_not_recorded(judge, fn, words):
    with pytest.raises(Mistake) as caught:
        judge.recorded_gradients(fn, {"x": judge.normal(3, 2), "w": judge.normal(3, 2)})
    assert words in str(caught.value)

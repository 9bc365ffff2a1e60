"""The judge: it accepts what is right, and words what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.autograd import Tensor
from minilora.course.judge import Judge, Mistake, slopes
from tests.says import refusal


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
        (WANT[None], "your shape is (1, 2, 3)"),
        (WANT + 0j, "complex"),
        (0 * WANT, "all zeros"),
        (-WANT, "the sign is wrong"),
        (WANT * 0.25, "alpha / r is missing"),
        (WANT * 5, "right direction, wrong size: 5 times what it should be"),
        (WANT * 1.00002, "nearly right, and 2e-05 of the largest entry off"),
        (WANT + np.eye(2, 3), "x[0, 0]: yours is 2, expected 1"),
        (WANT * np.nan, "NaN or infinite in 6 of 6 entries"),
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


def test_close_accepts_what_is_right_where_a_mistake_would_give_the_same(judge):
    """Drawn numbers may hide a mistake: of positive numbers the largest is a magnitude too."""
    judge.close("x", WANT, WANT, instead={"that is no magnitude.": np.abs(WANT)})
    with pytest.raises(Mistake, match="no magnitude"):
        judge.close("x", np.abs(WANT), -WANT, instead={"that is no magnitude.": np.abs(WANT)})


@pytest.mark.parametrize("got", [WANT * (1 + 1e-5), WANT + 1e-4])
def test_a_small_error_is_an_error(judge, got):
    with pytest.raises(Mistake):
        judge.close("x", got, WANT)


@pytest.mark.parametrize(
    ("got", "words"),
    [
        ([1.0], "an array of shape (1,)"),
        (2.0, "yours is 2"),
        (0, "yours is 0"),
        ("3", "type str"),
        (3 + 0j, "complex"),
        (np.nan, "n: NaN or infinite."),
    ],
)
def test_number(judge, got, words):
    judge.number("n", 3, 3)
    with pytest.raises(Mistake, match="n") as caught:
        judge.number("n", got, 3)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("got", "words"),
    [
        ((2, 3, 7), None),
        ((2, 4, 7), "second: one too many"),
        ((2, 4, 9), "second: yours is 4, expected 3"),
        ((2, [3], 7), "second: got an array"),
    ],
)
def test_a_mistake_is_told_where_it_explains_every_number(judge, got, words):
    more = {"never told, for it is right.": 2}, {"one too many": 4}, {"one too many": 7}
    cases = list(zip(("first", "second", "third"), got, (2, 3, 7), more, strict=True))
    if words is None:
        return judge.numbers(cases)
    with pytest.raises(Mistake) as caught:
        judge.numbers(cases)
    assert words in str(caught.value)


def raising(error):
    raise error


def test_refuses(judge):
    assert judge.refuses(raising, ValueError("no"))
    assert not judge.refuses(abs, 1)
    with refusal(Mistake, "ValueError"):
        judge.refuses(bool, np.zeros(2))
    with refusal(Mistake, "KeyError", "ValueError"):
        judge.refuses(raising, KeyError("no"))
    with pytest.raises(NotImplementedError):
        judge.refuses(raising, NotImplementedError())


def test_call_measured_counts_what_the_function_holds(judge):
    x = judge.normal(500)
    out, held = judge.call_measured(lambda x: (x[:, None] * x).sum(), x=x)
    assert np.isclose(out, x.sum() ** 2)
    assert 500 * 500 * 8 <= held < 3 * 500 * 500 * 8
    assert judge.call_measured(lambda x: x.sum(), x=x)[1] < 500 * 8


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


@pytest.mark.parametrize(
    ("fn", "value"),
    [
        (lambda v: v[0][1].__imul__(2), [(1.0, WANT.copy()), (2.0, WANT.copy())]),
        (lambda v: v["a"].pop(), {"a": [1, 2], "b": []}),
        (lambda v: v.append(3) or v, [1, 2]),
        (lambda v: v[0].add(3) or v, [{1, 2}]),
    ],
)
def test_call_looks_into_lists_and_dictionaries(judge, fn, value):
    with refusal(Mistake, "v"):
        judge.call(fn, v=value)


def test_sizes_are_drawn_anew_all_different_and_in_the_same_order():
    like = (7, 4, 11, 2, 5)
    drawn = [Judge(seed).sizes(*like) for seed in range(20)]
    assert len(set(drawn)) > 5
    for sizes in drawn:
        assert len(set(sizes)) == len(like)
        assert np.argsort(sizes).tolist() == np.argsort(like).tolist()
        assert all(n <= size <= n + max(2, n // 2) for n, size in zip(like, sizes, strict=True))


@pytest.mark.parametrize("out", [None, (1,), (1, 2, 3), np.zeros(3), np.zeros((2, 2))], ids=str)
def test_parts(judge, out):
    for pair in ([1, 2], (1, 2), np.array([1, 2])):
        assert judge.parts(pair, 2, "two") == (1, 2)
    with refusal(Mistake, "two numbers"):
        judge.parts(out, 2, "two numbers")


def softmax(x, top, low=-np.inf, high=np.inf):
    e = np.exp(np.clip(x - top(x), low, high))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("top", "limits", "words"),
    [
        (lambda x: 0.0, (), "near 800 exp overflows"),
        (lambda x: x.min(axis=-1, keepdims=True), (), "1600 above the others"),
        (lambda x: x.max(), (), "not that of the whole array"),
        (lambda x: 0.0, (-700, 700), "800 higher and lower"),
    ],
)
def test_stable(judge, top, limits, words):
    def row_top(x):
        return x.max(axis=-1, keepdims=True)

    rows = judge.normal(3, 4)
    want = softmax(rows, row_top)
    steep = np.eye(4)[[1, 1, 1]]
    judge.stable("p", lambda x: softmax(x, row_top), rows, want, steep)
    with pytest.raises(Mistake, match="p") as caught:
        judge.stable("p", lambda x: softmax(x, top, *limits), rows, want, steep)
    assert words in str(caught.value)


def test_stable_sees_a_finite_number_that_is_wrong(judge):
    rows = judge.normal(3, 4)
    want = softmax(rows, lambda x: x.max(axis=-1, keepdims=True))

    def hushed(x):  # the mean keeps up with a shift of the row, and not with one steep entry
        return np.nan_to_num(softmax(x, lambda x: x.mean(axis=-1, keepdims=True)))

    with refusal(Mistake, 1600, "p"):
        judge.stable("p", hushed, rows, want, np.eye(4)[[1, 1, 1]])


def test_call_lets_other_errors_through(judge):
    with pytest.raises(ValueError, match="of yours"):
        judge.call(lambda x: (_ for _ in ()).throw(ValueError("one of yours")), x=WANT)


def scaled(x, w, factor=1.0):
    return Tensor.from_op(
        x.data * w.data, (x, lambda g: factor * g * w.data), (w, lambda g: g * x.data)
    )


def test_a_vjp_may_not_write_into_its_cotangent(judge):
    with refusal(Mistake, "cotangent"):
        judge.recorded_gradients(
            lambda x: Tensor.from_op(2 * x.data, (x, lambda g: np.multiply(g, 2, out=g))),
            {"x": judge.normal(3, 2)},
        )


def test_recorded_gradients(judge):
    inputs = {"x": judge.normal(3, 2), "w": judge.normal(3, 2)}
    judge.recorded_gradients(scaled, inputs)
    assert judge.compared == 2
    with refusal(Mistake, "x", 2, "counted twice"):
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

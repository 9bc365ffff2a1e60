"""The recorded graph and its walk: order, pruning, freeing, accumulation, errors."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.autograd import Tensor, is_grad_enabled, no_grad, ops
from minilora.autograd import functional as F
from minilora.autograd.ops import unbroadcast


def leaf(*shape, seed=0, requires_grad=True, dtype=np.float32):
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return Tensor(x, requires_grad)


# -- the walk --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (3, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_diamond_waits_for_all_its_users(shape, dtype):
    x = leaf(*shape, dtype=dtype)
    y = x * x  # used twice, at two depths
    z = y * y + y
    ops.sum(z + x).backward()
    expected = 4 * x.data**3 + 2 * x.data + 1
    np.testing.assert_allclose(x.grad, expected, rtol=1e-5)
    assert x.grad.dtype == dtype and isinstance(x.grad, np.ndarray)


def test_x_times_x_plus_x():
    x = Tensor(np.asarray(3.0), requires_grad=True)
    (x * x + x).backward()
    assert x.grad == 7.0


def test_a_deep_chain_meets_no_recursion_limit():
    x = leaf(3)
    y = x
    for _ in range(5000):
        y = y + 1.0
    y.backward(np.ones(3, dtype=np.float32))
    assert np.array_equal(x.grad, np.ones(3))


def test_each_vjp_runs_once_and_users_run_before_what_they_use():
    calls = []

    def traced(name, *inputs):
        pairs = [
            (x, lambda g, i=i: calls.append(f"{name}{i}") or g * 1) for i, x in enumerate(inputs)
        ]
        return Tensor.from_op(inputs[0].data * 1, *pairs)

    x = leaf(3)
    a = traced("a", x)
    b = traced("b", a)
    c = traced("c", a, b)
    c.backward(np.ones(3, dtype=np.float32))
    assert calls == ["c0", "c1", "b0", "a0"]


def test_a_second_backward_through_one_graph_is_refused():
    x = leaf(2, 3)
    loss = ops.sum(x * x)
    loss.backward()
    before = x.grad.copy()
    with pytest.raises(ValueError, match="second time"):
        loss.backward()
    assert np.array_equal(x.grad, before)


# -- pruning ---------------------------------------------------------------------------------


def test_the_vjp_of_a_frozen_input_is_never_kept_nor_called():
    called = []
    x, w = leaf(3), leaf(3, seed=1, requires_grad=False)
    out = Tensor.from_op(
        x.data * w.data,
        (x, lambda g: called.append("x") or g * w.data),
        (w, lambda g: called.append("w") or g * x.data),
    )
    assert out.node.parents == (x,)
    assert len(out.node.vjps) == 1
    out.backward(np.ones(3, dtype=np.float32))
    assert called == ["x"]
    assert w.grad is None


def test_a_frozen_linear_lets_its_input_die_and_a_trained_one_keeps_it():
    alive = {}
    for trained in (False, True):
        w = leaf(4, 5, seed=1, requires_grad=trained)
        data = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
        hidden = leaf(3, 5) + Tensor(data)
        reference = weakref.ref(hidden.data)
        out = F.linear(hidden, w)
        del hidden
        gc.collect()
        alive[trained] = reference() is not None
        assert out.requires_grad
    assert alive == {False: False, True: True}


def test_backward_frees_what_the_graph_held():
    x, w = leaf(3, 5), leaf(4, 5, seed=1)
    hidden = x * 2.0
    reference = weakref.ref(hidden.data)
    out = F.linear(hidden, w)
    del hidden
    assert reference() is not None
    out.backward(np.ones((3, 4), dtype=np.float32))
    gc.collect()
    assert reference() is None


def test_nothing_is_recorded_where_no_input_needs_a_gradient():
    out = leaf(3, requires_grad=False) * leaf(3, seed=1, requires_grad=False)
    assert out.node is None and not out.requires_grad


def test_no_grad_records_nothing_and_ends_with_its_block():
    x = leaf(3)
    with no_grad():
        assert not is_grad_enabled()
        with no_grad():
            y = F.gelu(x * x)
        assert not is_grad_enabled()
    assert y.node is None and not y.requires_grad
    assert is_grad_enabled() and (x * x).requires_grad
    with pytest.raises(RuntimeError, match="stop"), no_grad():
        raise RuntimeError("stop")
    assert is_grad_enabled()


def test_detach_shares_the_array_and_stops_the_gradient():
    x = leaf(3)
    y = x * x
    assert y.detach().data is y.data
    ops.sum(y.detach() * x).backward()
    np.testing.assert_allclose(x.grad, x.data**2, rtol=1e-6)


# -- accumulation ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3, 5)])
def test_gradients_of_two_backwards_add_up(shape):
    x = leaf(*shape)
    ops.sum(x * 2.0).backward()
    first = x.grad.copy()
    ops.sum(x * x).backward()
    np.testing.assert_allclose(x.grad, first + 2 * x.data, rtol=1e-6)
    x.zero_grad()
    assert x.grad is None


def test_leaves_fed_by_one_add_hold_separate_arrays():
    a, b = leaf(3, 5), leaf(3, 5, seed=1)
    g = np.ones((3, 5), dtype=np.float32)
    (a + b).backward(g)
    assert not np.shares_memory(a.grad, b.grad)
    assert not np.shares_memory(a.grad, g) and not np.shares_memory(b.grad, g)
    a.grad += 5.0
    assert np.array_equal(b.grad, g) and np.array_equal(g, np.ones((3, 5)))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: ops.reshape(x, (5, 3)),
        lambda x: ops.transpose(x, (1, 0)),
        lambda x: x[::-1],
        lambda x: ops.sum(x),
        lambda x: ops.concatenate([x, x]),
    ],
    ids=["reshape", "transpose", "slice", "sum", "concatenate"],
)
def test_a_gradient_never_shares_memory_with_the_cotangent(view):
    x = leaf(3, 5)
    out = view(x)
    g = np.ones(out.shape, dtype=np.float32)
    out.backward(g)
    assert not np.shares_memory(x.grad, g)
    x.grad += 1.0  # writable, and nothing else moves
    assert np.array_equal(g, np.ones(out.shape))


def test_adding_up_in_place_spoils_no_aliased_cotangent():
    """One cotangent g reaches a, b and x as it is; x also gets others, which are added to it."""
    a, b, x = leaf(3, 5), leaf(3, 5, seed=1), leaf(3, 5, seed=2)
    out = (a + x) + (b + x) + x * 2.0 + F.gelu(x) * 0.0
    g = np.full((3, 5), 3.0, dtype=np.float32)
    out.backward(g)
    assert np.array_equal(a.grad, g) and np.array_equal(b.grad, g)
    np.testing.assert_allclose(x.grad, 4 * g, rtol=1e-6)
    assert np.array_equal(g, np.full((3, 5), 3.0))


def test_a_residual_stream_of_many_branches():
    x = leaf(4, 3, dtype=np.float64)
    stream = x
    for scale in (0.5, -2.0, 3.0):
        stream = stream + stream * scale
    g = np.random.default_rng(3).standard_normal((4, 3))
    stream.backward(g)
    np.testing.assert_allclose(x.grad, g * 1.5 * -1.0 * 4.0, rtol=1e-12)


# -- unbroadcast -----------------------------------------------------------------------------


@st.composite
def broadcast_shapes(draw):
    """(shape, wider shape to which NumPy broadcasts it)."""
    wide = tuple(draw(st.lists(st.integers(1, 4), max_size=4)))
    kept = wide[draw(st.integers(0, len(wide))) :]
    shape = tuple(1 if draw(st.booleans()) else n for n in kept)
    return shape, wide


@given(broadcast_shapes())
def test_unbroadcast_is_the_transpose_of_broadcasting(shapes):
    """<broadcast(x), g> = <x, unbroadcast(g)> for every x and g, which defines it."""
    shape, wide = shapes
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal(shape), rng.standard_normal(wide)
    back = unbroadcast(g, shape)
    assert back.shape == shape
    left, right = np.sum(np.broadcast_to(x, wide) * g), np.sum(x * back)
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12)


def test_python_numbers_and_arrays_mix_with_tensors_on_either_side():
    x = leaf(3)
    array = np.array([1.0, 2.0, 4.0], dtype=np.float32)
    out = 2 - x / array + array * x + 3 / (x * x + 1) + (-x) ** 2
    expected = 2 - x.data / array + array * x.data + 3 / (x.data**2 + 1) + x.data**2
    np.testing.assert_allclose(out.data, expected, rtol=1e-5)
    assert out.dtype == np.float32

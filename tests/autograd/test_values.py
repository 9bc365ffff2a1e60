"""Values of the fused ops where float32 is in danger, and properties that need no gradient."""

import numpy as np
import pytest

from minilora.autograd import Tensor
from minilora.autograd import functional as F
from minilora.gradients import twins


def draw(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.fixture(autouse=True)
def no_silent_overflow():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        yield


@pytest.mark.parametrize("scale", [1.0, 4.0, 40.0], ids=["guarded", "at the border", "far out"])
@pytest.mark.parametrize("start", [None, np.array([2, 0])], ids=["whole", "left padding"])
def test_attention_stays_exact_for_scores_that_overflow_exp(scale, start):
    q, k = draw(2, 5, 4, 6, scale=scale), draw(2, 5, 2, 6, seed=1, scale=scale)
    v, g = draw(2, 5, 2, 6, seed=2), draw(2, 5, 4, 6, seed=3)
    results = []
    for op, dtype in ((F.causal_attention, np.float32), (twins.causal_attention, np.float64)):
        leaves = [Tensor(x.astype(dtype), requires_grad=True) for x in (q, k, v)]
        out = op(*leaves, start)
        out.backward(g.astype(dtype))
        results.append([out.data, *(leaf.grad for leaf in leaves)])
    for fast, exact in zip(*results, strict=True):
        assert fast.dtype == np.float32
        # Rounding of a score grows with the score, and moves the weights by as much.
        np.testing.assert_allclose(fast, exact, rtol=0, atol=2e-5 * max(scale, 1.0) ** 2)


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["all far above 0", "all far below 0"])
def test_attention_holds_where_every_score_is_out_of_range(sign):
    q, k, v = sign * (8 + draw(2, 5, 3, 6) / 9), 8 + draw(2, 5, 3, 6, seed=1) / 9, draw(2, 5, 3, 6)
    fast = F.causal_attention(Tensor(q.astype(np.float32)), Tensor(k), Tensor(v)).data
    exact = twins.causal_attention(*(Tensor(x.astype(np.float64)) for x in (q, k, v))).data
    assert fast.dtype == np.float32
    np.testing.assert_allclose(fast, exact, rtol=0, atol=2e-4)


def test_the_first_query_sees_the_first_key_alone():
    v = draw(2, 5, 3, 4, seed=2)
    out = F.causal_attention(Tensor(draw(2, 5, 3, 4)), Tensor(draw(2, 5, 3, 4, seed=1)), Tensor(v))
    np.testing.assert_allclose(out.data[:, 0], v[:, 0], rtol=1e-6)
    assert np.abs(out.data[:, 1] - v[:, 1]).max() > 0.1


def test_the_loss_holds_for_huge_logits():
    h = np.array([[1e4, -1e4, 0.0], [-3e4, -3e4, -3e4]], dtype=np.float32)
    x, unit = Tensor(h.copy(), requires_grad=True), Tensor(np.eye(3, dtype=np.float32))
    loss = F.linear_cross_entropy(x, unit, np.array([2, 0]))
    assert loss.item() == pytest.approx((1e4 + np.log(3)) / 2, rel=1e-6)
    loss.backward()
    expected = np.array([[0.5, 0.0, -0.5], [-1 / 3, 1 / 6, 1 / 6]])
    np.testing.assert_allclose(x.grad, expected, atol=1e-6)
    assert np.array_equal(x.data, h)  # the loss works in a buffer of its own


@pytest.mark.parametrize("op", [F.gelu, lambda x: F.swiglu(x, x * 0.0 + 1.0)])
def test_activations_hold_far_from_zero(op):
    x = Tensor(np.array([-1e3, -88.0, 0.0, 88.0, 1e3], dtype=np.float32), requires_grad=True)
    y = op(x)
    np.testing.assert_allclose(y.data, [0, 0, 0, 88, 1e3], atol=1e-4)
    y.backward(np.ones(5, dtype=np.float32))
    np.testing.assert_allclose(x.grad, [0, 0, 0.5, 1, 1], atol=1e-4)


def test_dropout_keeps_the_mean_and_the_same_mask_for_the_same_seed():
    x = np.ones((200, 300), dtype=np.float32)

    def mask(p, seed):
        return F.dropout_mask(x.shape, p, np.random.default_rng(seed), x)

    keep = mask(0.25, seed=1)
    assert keep.dtype == np.float32
    assert set(np.unique(keep)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((keep == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / keep.size)
    assert np.array_equal(mask(0.25, seed=1), keep)
    assert not np.array_equal(mask(0.25, seed=2), keep)
    assert np.array_equal(mask(0.0, seed=1), x)


def test_rotary_positions_keep_lengths_and_tell_only_distances():
    dim, theta = 6, 100.0
    q, k = draw(1, 1, 1, dim), draw(1, 1, 1, dim, seed=1)

    def at(x, position):
        cos, sin = F.rope_tables(np.array([position]), dim, theta)
        return F.rope(Tensor(x), cos, sin).data

    np.testing.assert_allclose(np.linalg.norm(at(q, 9)), np.linalg.norm(q), rtol=1e-6)
    near = [np.sum(at(q, m) * at(k, m - 3)) for m in (3, 5, 11)]
    np.testing.assert_allclose(near, near[0], rtol=1e-4)
    assert abs(np.sum(at(q, 5) * at(k, 4)) - near[0]) > 1e-2
    np.testing.assert_array_equal(at(q, 0), q)


def test_rope_tables_are_the_paper_s_angles():
    cos, sin = F.rope_tables(np.array([[0, 3], [7, 1]]), 4, 100.0)
    angles = np.array([[0, 3], [7, 1]])[..., None] * np.array([1.0, 0.1])
    np.testing.assert_allclose(cos, np.concatenate([np.cos(angles)] * 2, axis=-1), atol=1e-6)
    both = np.concatenate([-np.sin(angles), np.sin(angles)], axis=-1)
    np.testing.assert_allclose(sin, both, atol=1e-6)
    one, five = (F.rope_tables(np.arange(3), 4, 9.0, heads) for heads in (1, 5))
    np.testing.assert_array_equal(five, np.tile(one, 5))
    assert cos.dtype == sin.dtype == np.float32


@pytest.mark.parametrize("start", [None, np.array([0, 70])])
@pytest.mark.parametrize(("queries", "keys"), [(150, 150), (129, 200), (64, 64), (97, 98)])
def test_attention_in_blocks_of_queries_sees_the_same_keys(queries, keys, start):
    q, k, v = draw(2, queries, 4, 2), draw(2, keys, 2, 2, seed=1), draw(2, keys, 2, 2, seed=2)
    results = []
    for op in (F.causal_attention, twins.causal_attention):
        leaves = [Tensor(x.astype(np.float64), requires_grad=True) for x in (q, k, v)]
        out = op(*leaves, start)
        out.backward(draw(*out.shape, seed=3).astype(np.float64))
        results.append([out.data, *(leaf.grad for leaf in leaves)])
    for fused, slow in zip(*results, strict=True):
        np.testing.assert_allclose(fused, slow, atol=1e-12)


def test_unlabelled_rows_change_neither_loss_nor_gradient():
    h, w = draw(4, 5), draw(7, 5, seed=1)
    labels = np.array([3, F.IGNORE, 0, F.IGNORE])
    loss = F.linear_cross_entropy(Tensor(h), Tensor(w), labels).item()
    kept = F.linear_cross_entropy(Tensor(h[[0, 2]]), Tensor(w), labels[[0, 2]]).item()
    assert loss == pytest.approx(kept, rel=1e-6)
    x = Tensor(h, requires_grad=True)
    F.linear_cross_entropy(x, Tensor(w), labels).backward()
    assert not x.grad[[1, 3]].any() and x.grad[[0, 2]].any(axis=1).all()


def test_a_micro_batch_without_labels_adds_nothing():
    x = Tensor(draw(2, 5), requires_grad=True)
    w = Tensor(draw(7, 5, seed=1), requires_grad=True)
    loss = F.linear_cross_entropy(x, w, np.full(2, F.IGNORE), normalizer=3)
    loss.backward()
    assert loss.item() == 0.0
    assert not x.grad.any() and not w.grad.any()

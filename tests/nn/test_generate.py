"""Generation: the cache, ragged batches, stop tokens, sampling, errors."""

import sys

import numpy as np
import pytest

from minilora.nn import NotFiniteError, generate, require_finite_logits
from minilora.nn.generate import sample_token
from tests import tiny
from tests.says import refusal


def lively_model(seed=0):
    shape = dict(vocab_size=11, num_hidden_layers=2, max_position_embeddings=16)
    return tiny.model(seed, initializer_range=1.0, tie_word_embeddings=False, **shape)


PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5]]


@pytest.mark.parametrize("seed", range(4))
def test_cached_uncached_and_one_by_one_agree(seed):
    model = lively_model(seed)
    together = generate(model, PROMPTS, 8)
    assert [len(row) for row in together] == [8, 8, 8]
    assert len({tuple(row) for row in together}) > 1
    assert generate(model, PROMPTS, 8, use_cache=False) == together
    assert [generate(model, [prompt], 8)[0] for prompt in PROMPTS] == together


def test_greedy_tokens_are_those_of_a_plain_forward_pass():
    model = lively_model()
    row = list(PROMPTS[0])
    for _ in range(6):
        row.append(int(model(np.array([row])).data[0, -1].argmax()))
    assert generate(model, PROMPTS[:1], 6) == [row[5:]]


def test_sampling_is_the_same_with_and_without_the_cache():
    model = lively_model()
    settings = {"temperature": 1.5, "top_p": 0.9}
    rows = [
        generate(model, PROMPTS, 8, rng=np.random.default_rng(s), use_cache=cache, **settings)
        for s, cache in ((1, True), (1, False), (2, True))
    ]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]


def test_each_row_ends_before_its_own_first_stop_token():
    model = lively_model()
    free = generate(model, PROMPTS, 8)
    for stop_ids in ([free[0][3]], {free[1][0], free[2][5]}, (free[0][0],)):
        cut = generate(model, PROMPTS, 8, stop_ids=stop_ids)
        for row, got in zip(free, cut, strict=True):
            ends = [i for i, token in enumerate(row) if token in set(stop_ids)]
            assert got == (row[: ends[0]] if ends else row)


def test_every_row_stopped_ends_the_work():
    model, steps = lively_model(), []
    free = generate(model, PROMPTS[:1], 8)
    first = generate(
        model, PROMPTS[:1], 8, stop_ids=[free[0][2]], on_token=lambda ids: steps.append(ids)
    )
    assert len(first[0]) == free[0].index(free[0][2]) == len(steps)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e308])
def test_temperatures_at_the_ends_of_floats_give_tokens(temperature):
    logits = np.array([[3.0, -2.0, 3.5, 0.0]], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        token = sample_token(logits, temperature, 1.0, np.random.default_rng(0))[0]
    assert 0 <= token < 4 and (token == 2 or temperature > 1)


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.6), (2.0, 0.85), (1.0, 0.01)]
)
def test_sampling_follows_the_cut_distribution(temperature, top_p):
    logits = np.array([0.3, 2.0, -1.0, 1.4, 0.9, -3.0, 1.9])
    weights = np.exp(logits / temperature)
    p = weights / weights.sum()
    nucleus, mass = [], 0.0
    for token in sorted(range(len(p)), key=lambda i: -p[i]):
        nucleus.append(token)
        mass += p[token]
        if mass >= top_p:
            break
    expected = np.zeros(len(p))
    expected[nucleus] = p[nucleus] / mass
    draws = 40_000
    rows = np.broadcast_to(logits.astype(np.float32), (draws, len(p)))
    tokens = sample_token(rows, temperature, top_p, np.random.default_rng(0))
    share = np.bincount(tokens, minlength=len(p)) / draws
    assert (share[expected == 0] == 0).all()
    spread = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(share - expected) <= 4 * spread).all()


def test_rows_of_one_batch_are_sampled_each_from_its_own_logits():
    logits = np.full((500, 5), -20.0, dtype=np.float32)
    wanted = np.arange(500) % 5
    logits[np.arange(500), wanted] = 20.0
    assert np.array_equal(sample_token(logits, 1.0, 1.0, np.random.default_rng(0)), wanted)


@pytest.mark.parametrize(
    ("prompts", "options", "named"),
    [
        ([], {}, ()),
        ([[1], []], {}, ()),
        ([[1] * 9], {"max_new_tokens": 8}, (9, "max_new_tokens", 8, 16)),
        ([[1]], {"max_new_tokens": 0}, ("max_new_tokens", 0)),
        ([[1]], {"temperature": -1.0}, ("temperature", -1.0)),
        ([[1]], {"temperature": float("nan"), "rng": 0}, ("temperature", float("nan"))),
        ([[1]], {"temperature": float("inf"), "rng": 0}, ("temperature", float("inf"))),
        ([[1]], {"temperature": 1.0, "top_p": 0.0, "rng": 0}, ("top_p", 0.0)),
        ([[1]], {"top_p": 1.1}, ("top_p", 1.1)),
        ([[1]], {"top_p": float("nan")}, ("top_p", float("nan"))),
        ([[1]], {"temperature": 1.0}, ("rng",)),
        ([[1, 11]], {}, (1, 11, 0, 10)),
    ],
)
def test_bad_requests_are_refused(prompts, options, named):
    with refusal(ValueError, *named):
        generate(lively_model(), prompts, **{"max_new_tokens": 3, **options})


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_even_after_an_error(training):
    model = lively_model().train(training)
    modes = []

    def look(_):
        modes.append(model.training)
        if len(modes) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, PROMPTS, 4, on_token=look)
    assert modes == [False, False]
    assert all(module.training is training for _, module in model.named_modules())
    assert all(p.grad is None for p in model.parameters())


def test_the_longest_allowed_row_fills_the_positions():
    model = lively_model()
    assert len(generate(model, [[1] * 9], 7)[0]) == 7


@pytest.mark.parametrize("tokens", [1, 6, 11, 100])
def test_prompts_read_a_few_rows_at_a_time_are_answered_alike(tokens, monkeypatch):
    model, read = lively_model(2), []
    prompts = [[7], *PROMPTS, [1, 2], [5, 5, 5]]
    whole = generate(model, prompts, 8, use_cache=False)
    monkeypatch.setattr(sys.modules["minilora.nn.generate"], "PREFILL_TOKENS", tokens)
    hidden = model.hidden_states

    def noting(ids, *args, **kwargs):
        read.append(ids.shape)
        return hidden(ids, *args, **kwargs)

    model.hidden_states = noting
    assert generate(model, prompts, 8) == whole
    pieces = {
        1: [(1, 1), (1, 5), (1, 1), (1, 3), (1, 2), (1, 3)],  # no column of padding is read
        6: [(1, 1), (1, 5), (1, 1), (1, 3), (1, 2), (1, 3)],
        11: [(2, 5), (2, 3), (2, 3)],
        100: [(6, 5)],
    }
    assert read == pieces[tokens]


@pytest.mark.parametrize("cache", [True, False])
def test_rows_that_ended_leave_the_batch_and_change_nothing(cache):
    model, sizes, newest = lively_model(1), [], []
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 11, n).tolist() for n in (5, 2, 4, 1, 3, 5, 2, 4)]
    free, stops = generate(model, prompts, 10), {2, 3}
    hidden = model.hidden_states

    def counting(ids, *args, **kwargs):
        sizes.append(len(ids))
        return hidden(ids, *args, **kwargs)

    model.hidden_states = counting
    got = generate(
        model, prompts, 10, stop_ids=stops, use_cache=cache, on_token=lambda t: newest.append(t)
    )
    for row, whole in zip(got, free, strict=True):
        ends = [i for i, token in enumerate(whole) if token in stops]
        assert row == (whole[: ends[0]] if ends else whole)
    assert sorted(len(row) for row in got) == [0, 2, 3, 4, 10, 10, 10, 10]
    assert {len(tokens) for tokens in newest} == {len(prompts)}
    assert [int(t[got.index(max(got, key=len))]) for t in newest] == max(got, key=len)
    if not cache:
        assert sizes == [8, 8, 8, 6, 6, 4, 4, 4, 4, 4]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(broken, temperature):
    """One bad number in one row of the head: such a model used to answer with empty lines."""
    model = lively_model()
    rng = np.random.default_rng(0)
    assert generate(model, [[1, 2], [3]], 3, temperature=temperature, rng=rng)
    model.head_weight.data[4, 0] = broken
    with pytest.raises(NotFiniteError):
        generate(model, [[1, 2], [3]], 3, temperature=temperature, rng=rng)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_logit_that_is_not_finite_is_found_among_many(bad, dtype):
    logits = np.random.default_rng(0).normal(0, 5, (3, 1000)).astype(dtype)
    assert require_finite_logits(logits) is logits
    logits[1, 7] = bad
    with refusal(NotFiniteError, 1, 3000, bad):
        require_finite_logits(logits)


def test_finite_logits_whose_squares_overflow_are_no_fault(recwarn):
    logits = np.full((2, 3), np.finfo(np.float32).max)
    assert require_finite_logits(logits) is logits
    assert not recwarn.list

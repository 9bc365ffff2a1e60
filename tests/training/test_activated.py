"""Training an activated adapter: cut rows give the gradients of whole ones, kept prompts too."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.autograd import IGNORE
from minilora.lora import LoRAConfig, attach
from minilora.lora.activated import invocation_of
from minilora.nn.generate import new_caches
from minilora.nn.reading import read_past
from minilora.text import Example
from minilora.text.examples import one_answer_each
from minilora.training import Batches, TrainingConfig, fit
from minilora.training.parallel import Workers, accumulate_gradients
from minilora.training.prompts import (
    KeptPrompts,
    answer_begins,
    answer_spans,
    cut_pieces_a_worker,
    kept_prompts,
    split_at_invocation,
)
from tests import tiny
from tests.lora.conftest import randomise
from tests.says import refusal

INVOCATION = (4, 1)
SHAPE = dict(num_hidden_layers=2, vocab_size=37)


def examples(count: int = 12, seed: int = 0) -> list[Example]:
    """Prompts of unlike lengths with an invocation before the answer; some begin with it."""
    rng, made = np.random.default_rng(seed), []
    for i in range(count):
        prompt = rng.integers(5, 36, 0 if i % 4 == 0 else rng.integers(1, 9))
        if i % 3 == 0:
            prompt = np.concatenate([INVOCATION, prompt])  # an earlier one, which does not count
        answer = rng.integers(5, 36, rng.integers(1, 6))
        ids = np.concatenate([prompt, INVOCATION, answer]).astype(np.int32)
        labels = np.full(len(ids), IGNORE, np.int32)
        labels[-len(answer) - 1 : -1] = answer
        made.append(Example(ids[:-1], labels[:-1]))
    return made


def model(targets="all-linear", invocation=INVOCATION, dtype=np.float32, **changes):
    config = LoRAConfig(3, 4, targets, invocation=invocation, **changes)
    made = tiny.model(1, dtype=dtype, **SHAPE)
    return randomise(attach(made, config, np.random.default_rng(2))).model.train()


def cut(batch, pieces: int):
    return split_at_invocation(batch, pieces, (0,), answer_spans(batch, INVOCATION))


def gradients(made) -> dict[str, np.ndarray]:
    return {name: p.grad for name, p in made.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj"), ("k_proj", "down_proj")])
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("kept", [False, True])
def test_cut_rows_give_loss_and_gradients_of_whole_rows(targets, pieces, kept):
    batches = Batches(examples(), 6, seed=0)
    batch = batches.batch(0)
    whole, other = (model(targets, dtype=np.float64) for _ in range(2))
    whole.zero_grad()
    loss = 0.0
    for number in batch.indices:  # one by one: a shorter row's padding is no part of what it says
        example = batches.examples[number]
        one = whole.loss(example.ids[None], example.labels[None], float(batch.tokens))
        one.backward()
        loss += one.item()
    parts = cut(batch, pieces)
    how = {}
    if kept:
        how["read"] = KeptPrompts(other, batches, range(12), INVOCATION).read
    other.zero_grad()
    got = accumulate_gradients(other, parts, float(batch.tokens), **how)
    assert got == pytest.approx(loss, rel=1e-6)
    expected = gradients(whole)
    for name, array in gradients(other).items():
        scale = np.abs(expected[name]).max()
        assert scale > 0
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=2e-6 * scale)


def test_read_prompts_are_the_bases_bit_for_bit():
    made, base = model(), tiny.model(1, **SHAPE)
    prompts = [np.array([3, 4, 1, 9, 8]), np.array([7, 7, 2, 5, 6])]
    past, caches = read_past(made, prompts), new_caches(base, 2, 5)
    base.hidden_states(np.stack(prompts), caches=caches)
    for (keys, values), cache in zip(past.layers, caches, strict=True):
        assert keys.swapaxes(1, 2).tobytes() == cache.keys.tobytes()
        assert values.swapaxes(1, 2).tobytes() == cache.values.tobytes()
    assert past.lengths.tolist() == [5, 5] and past.columns == 5


def test_prompts_of_unlike_lengths_read_together_are_those_alone():
    made = model(dtype=np.float64)
    prompts = [np.array([3, 9, 8]), np.array([7]), np.array([], int), np.array([5, 6, 2, 2])]
    past = read_past(made, prompts)
    for row, prompt in enumerate(prompts):
        alone = read_past(made, [prompt])
        for together, own in zip(past.layers, alone.layers, strict=True):
            for a, b in zip(together, own, strict=True):
                np.testing.assert_allclose(a[row, 4 - len(prompt) :], b[0], atol=1e-6)


def trained(workers: int, prompt_bytes: int, steps: int = 9, **changes):
    made = model(**changes)
    config = TrainingConfig(
        steps, 0.01, workers=workers, prompt_bytes=prompt_bytes, micro_batches=2
    )
    fit(made, Batches(examples(), 4, seed=3), config, progress=False)
    return {name: p.data for name, p in made.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_kept_prompts_and_workers_change_nothing_but_rounding(dropout):
    start = {n: p.data for n, p in model().named_parameters() if p.requires_grad}
    read_anew = trained(1, 0, lora_dropout=dropout)
    for workers, room in [(1, 1 << 20), (2, 0), (2, 1 << 20)]:
        got = trained(workers, room, lora_dropout=dropout)
        if dropout and workers == 2:
            continue  # other pieces, other masks
        for name, array in got.items():
            assert np.abs(array - start[name]).max() > 1e-3
            np.testing.assert_allclose(array, read_anew[name], atol=2e-4)


def test_two_workers_with_kept_prompts_repeat_bit_for_bit():
    one, other = trained(2, 1 << 20), trained(2, 1 << 20)
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_what_is_kept_stays_in_its_bound_and_is_read_once():
    made, batches = model(), Batches(examples(), 4, seed=0)
    prompts = sum(answer_begins(e.ids, e.labels, INVOCATION) for e in batches.examples)
    each = 2 * 2 * 1 * 6 * 4  # k and v, layers, heads, dim, bytes
    exact = prompts * each
    assert kept_prompts(made, batches, 6, INVOCATION, exact).nbytes == exact
    assert kept_prompts(made, batches, 6, INVOCATION, exact - 1) is None
    assert kept_prompts(made, batches, len(batches), INVOCATION, exact) is None  # one pass
    kept = kept_prompts(made, batches, 6, INVOCATION, exact)
    pieces = cut(batches.batch(0), 1)
    first = kept.read(made, pieces[0])
    made.load_state_dict(model(dtype=np.float32).state_dict())
    for parameter in made.parameters():
        parameter.data = np.zeros_like(parameter.data)  # what is read from now on would be zeros
    again = kept.read(made, pieces[0])
    for a, b in zip(first.layers, again.layers, strict=True):
        assert a[0].any() and a[0].tobytes() == b[0].tobytes()


def test_the_base_never_changes_and_gets_no_gradient():
    made = model()
    before = {n: p.data.tobytes() for n, p in made.named_parameters() if not p.requires_grad}
    fit(made, Batches(examples(), 4, seed=3), TrainingConfig(4, 0.01, workers=1), progress=False)
    for name, parameter in made.named_parameters():
        if not parameter.requires_grad:
            assert parameter.data.tobytes() == before[name] and parameter.grad is None


def chat(turns: int) -> Example:
    """Turns of an invocation, two answer tokens and an end that is learned, then a question."""
    ids, learn = [], []
    for turn in range(turns):
        ids += [7, 8 + turn, *INVOCATION, 20 + turn, 30 + turn, 2]
        learn += [False] * 4 + [True] * 3
    labels = [i if yes else IGNORE for i, yes in zip(ids, learn, strict=True)]
    return Example(np.array(ids[:-1], np.int32), np.array(labels[1:], np.int32), "chat")


def test_a_chat_of_several_turns_is_refused_as_one_row_and_learned_as_several():
    example = chat(3)
    with refusal(ValueError, "several answers"):
        answer_begins(example.ids, example.labels, INVOCATION)
    with refusal(ValueError, "example 0", "several answers"):
        config = TrainingConfig(1, 0.01, workers=1)
        fit(model(), Batches([example], 1, seed=0), config, progress=False)
    rows = one_answer_each(example)
    assert [answer_begins(r.ids, r.labels, INVOCATION) for r in rows] == [2, 9, 16]
    assert sum((r.labels != IGNORE).sum() for r in rows) == (example.labels != IGNORE).sum()
    for row in rows:
        stop = len(row)
        assert row.ids.tolist() == example.ids[:stop].tolist() and row.source == "chat"
        assert row.labels[-1] == 2 and (row.labels != IGNORE).sum() == 3
    assert one_answer_each(chat(1))[0].ids.tolist() == chat(1).ids.tolist()


def test_a_row_without_an_invocation_before_its_answer_is_refused():
    ids = np.array([3, 9, 4, 1, 5], np.int32)
    labels = np.array([IGNORE, 4, 1, 5, 6], np.int32)
    with refusal(ValueError, "no invocation"):
        answer_begins(ids, labels, INVOCATION)
    with refusal(ValueError, "no token to learn"):
        answer_begins(ids, np.full(5, IGNORE), INVOCATION)


def test_an_invocation_in_the_answer_does_not_move_the_cut():
    ids = np.array([3, 4, 1, 5, 4, 1, 5], np.int32)
    labels = np.array([IGNORE, IGNORE, 5, 4, 1, 5, 6], np.int32)
    assert answer_begins(ids, labels, INVOCATION) == 1


def test_workers_sum_the_gradients_of_all_pieces():
    batches = Batches(examples(), 6, seed=0)
    batch = batches.batch(0)
    pieces = cut(batch, 4)
    one, two = model(), model()
    with Workers(one, 1) as pool:
        loss = pool.gradients(pieces, float(batch.tokens))
    with Workers(two, 2) as pool:
        assert pool.gradients(pieces, float(batch.tokens)) == pytest.approx(loss, rel=1e-5)
    for name, array in gradients(two).items():
        np.testing.assert_allclose(array, gradients(one)[name], atol=1e-5)
    assert invocation_of(one) == INVOCATION and invocation_of(tiny.model()) is None


@pytest.mark.parametrize(
    ("spans", "workers", "pieces"),
    [
        ([(110, 150)] * 32, 2, 1),
        ([(110, 150)] * 32, 1, 2),
        ([(10, 510)] * 8, 2, 2),
        ([(1000, 1010)] * 8, 1, 4),
        ([(0, 1)], 4, 1),
    ],
)
def test_pieces_are_as_large_as_their_answers_and_prompts_allow(spans, workers, pieces):
    assert cut_pieces_a_worker(spans, workers) == pieces


@pytest.mark.parametrize("room", [0, 1 << 20])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, room):
    """Prompts are read again after the stop, the same ones together, so that keys are the same."""
    settings = dict(workers=1, prompt_bytes=room, checkpoint_every=4, eval_every=1)
    config = TrainingConfig(9, 0.01, **settings)

    def stop(step: int) -> dict:
        if step == 6:
            raise KeyboardInterrupt
        return {}

    whole, stopped, resumed = model(), model(), model()
    fit(whole, Batches(examples(), 4, seed=3), config, progress=False)
    batches, how = Batches(examples(), 4, seed=3), dict(out_dir=tmp_path / "run", progress=False)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, batches, config, on_eval=stop, **how)
    history = fit(resumed, batches, config, resume=True, on_eval=lambda step: {}, **how)
    assert history.records[-1]["step"] == 9
    for name, parameter in whole.named_parameters():
        other = dict(resumed.named_parameters())[name]
        assert parameter.data.tobytes() == other.data.tobytes()

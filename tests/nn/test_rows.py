"""A layer that treats rows differently is told which rows, and which positions, it sees.

The probe adds another vector for each row of the batch, from one of the row's own positions on. It
stands at every place where nn reads a part of a batch; what it computes there must be what it
computes for each row alone.
"""

import sys

import numpy as np
import pytest

from minilora.autograd import IGNORE, Tensor, no_grad
from minilora.nn import Linear, Module, generate
from minilora.nn.rows import Rows, rows_of, rows_seen, seeing
from minilora.text import Example
from minilora.text.answers import Raw, answer_ids
from minilora.training import evaluate
from minilora.training.batches import pad_examples
from minilora.training.parallel import Workers
from minilora.training.step import split_batch
from tests import tiny
from tests.says import refusal

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5], [7, 7, 3, 1], [8, 2]]
ROOM = 9


class Probe(Module):
    """base(x) + shifts[row] from position starts[row] on."""

    def __init__(self, base: Linear, rows: int, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.base = base
        self.shifts = rng.normal(0, 1.0, (rows, base.out_features)).astype(np.float32)
        self.starts = rng.integers(0, 6, rows)

    def matrix(self) -> None:
        return None

    def forward(self, x: Tensor) -> Tensor:
        rows = rows_seen()
        assert rows.batch == len(self.shifts)
        y = self.base(x)
        if y.ndim == 3:
            at = np.broadcast_to(rows.at, len(rows.of))[:, None] + np.arange(x.shape[1])
            of = np.broadcast_to(rows.of[:, None], at.shape)
        else:
            of, at = rows.of, np.broadcast_to(rows.at, len(rows.of))
        assert of.shape == y.shape[:-1]
        return y + Tensor(self.shifts[of] * (at >= self.starts[of])[..., None])


def probed(rows: int = len(PROMPTS), **changes):
    """A tiny model with a probe in place of every Linear."""
    shape = dict(num_hidden_layers=2, max_position_embeddings=32)
    model = tiny.model(3, initializer_range=0.6, **shape, **changes)
    linears = [name for name, module in model.named_modules() if isinstance(module, Linear)]
    for seed, name in enumerate(linears):
        model.set_submodule(name, Probe(model.get_submodule(name), rows, seed))
    return model.eval()


def alone(row: int, rows: int = len(PROMPTS)) -> Rows:
    return Rows(rows, np.array([row]))


def one_by_one(model, **settings) -> list[list[int]]:
    answers = []
    for i, prompt in enumerate(PROMPTS):
        with seeing(alone(i)):
            answers += generate(model, [prompt], ROOM, **settings)
    return answers


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("tokens", [2048, 5, 11])  # prompts read in pieces
def test_prompts_read_in_pieces_keep_their_rows(tokens, use_cache, monkeypatch):
    model = probed()
    monkeypatch.setattr(sys.modules["minilora.nn.generate"], "PREFILL_TOKENS", tokens)
    together = generate(model, PROMPTS, ROOM, use_cache=use_cache)
    assert together == one_by_one(model, use_cache=False)
    assert len({tuple(answer) for answer in together}) == len(PROMPTS)


@pytest.mark.parametrize("use_cache", [True, False])
def test_rows_whose_answers_have_ended_leave_and_the_others_stay_what_they_are(use_cache):
    model = probed()
    free = one_by_one(model)
    stops = {free[0][0], free[2][3], free[4][5]}
    expected = one_by_one(model, stop_ids=stops)
    assert generate(model, PROMPTS, ROOM, use_cache=use_cache, stop_ids=stops) == expected
    assert len({len(answer) for answer in expected}) > 2


def test_every_probe_matters_to_the_answers():
    model = probed()
    together = generate(model, PROMPTS, ROOM)
    for seed, (_, probe) in enumerate(m for m in model.named_modules() if isinstance(m[1], Probe)):
        kept, probe.shifts = probe.shifts, np.roll(probe.shifts, 1, axis=0)
        assert generate(model, PROMPTS, ROOM) != together, seed
        probe.shifts = kept


def labelled(rows: int = 5, time: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 37, (rows, time))
    labels = rng.integers(0, 37, (rows, time))
    labels[rng.random(labels.shape) < 0.6] = IGNORE
    labels[:, 2] = 1
    return ids, labels


def loss_of_each(model, ids: np.ndarray, labels: np.ndarray) -> float:
    """The mean over all labels, each row read alone, from the logits at every position."""
    total = 0.0
    for i in range(len(ids)):
        with seeing(alone(i, len(ids))), no_grad():
            logits = model(ids[i : i + 1]).data[0].astype(np.float64)
        told = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        at = np.flatnonzero(labels[i] != IGNORE)
        total -= told[at, labels[i, at]].sum()
    return total / (labels != IGNORE).sum()


def test_the_last_block_at_chosen_positions_keeps_their_rows():
    ids, labels = labelled()
    model = probed()
    assert model.loss(ids, labels).item() == pytest.approx(loss_of_each(model, ids, labels), 1e-5)


def test_padding_moves_no_position():
    model = probed(2)
    ids = np.array([[0, 0, 3, 1], [2, 9, 4, 5]])
    with no_grad():
        padded = model.hidden_states(ids, np.array([2, 0]), only=np.array([2, 3, 6, 7])).data
        with seeing(alone(0, 2)):
            first = model.hidden_states(ids[:1, 2:]).data
        with seeing(alone(1, 2)):
            second = model.hidden_states(ids[1:]).data
    np.testing.assert_allclose(padded[:2], first[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(padded[2:], second[0, 2:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pieces", "workers"), [(1, 1), (2, 1), (5, 1), (4, 2)])
def test_pieces_of_a_training_batch_keep_their_rows(pieces, workers):
    ids, labels = labelled()
    batch = pad_examples([Example(i, t) for i, t in zip(ids, labels, strict=True)], np.arange(5))
    model = probed()
    with Workers(model, workers) as pool:
        loss = pool.gradients(split_batch(batch, pieces, (0,)), float(batch.tokens))
    assert loss == pytest.approx(loss_of_each(model, ids, labels), 1e-5)


def test_evaluation_keeps_the_rows_of_its_batches():
    ids, labels = labelled()
    examples = [Example(i, t) for i, t in zip(ids, labels, strict=True)]
    model = probed()
    expected = loss_of_each(model, ids, labels)
    assert evaluate(model, examples, batch_size=2) == pytest.approx(expected, 1e-5)


def test_answers_sorted_by_length_keep_their_rows():
    words = tiny.tokenizer()
    prompts = [Raw(text) for text in ("Pulse regular and 88", "No", "The patient takes", "mg", "a")]
    model = probed(tokenizer=words)
    expected = []
    for i, prompt in enumerate(prompts):
        with seeing(alone(i)):
            expected += answer_ids(model, words, [prompt], 4)
    assert answer_ids(model, words, prompts, 4, batch_size=2) == expected


def test_nothing_is_seen_outside_and_another_number_of_rows_is_refused():
    assert rows_seen() is None
    with seeing(Rows(5, np.array([4, 2]))):
        assert rows_of(2) is rows_seen()
        with refusal(ValueError, 3, 2):
            generate(probed(), PROMPTS[:3], 2)
    assert rows_seen() is None

"""Forked workers: the same gradient, repeatable bits, and no process left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest

from minilora.training import Batches, TrainingConfig, fit
from minilora.training.parallel import Workers
from minilora.training.step import split_batch
from tests.says import refusal

pytestmark = [
    pytest.mark.processes,
    pytest.mark.usefixtures("no_child_is_left"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked"),
]


def gradients(model, tiny, workers, micro_batches, step=0, size=9):
    batch = Batches(tiny.copy_examples(), size, 3).batch(step)
    pieces = split_batch(batch, workers * micro_batches, (0, step))
    with Workers(model, workers) as pool:
        loss = pool.gradients(pieces, float(batch.tokens))
        return loss, {n: p.grad.copy() for n, p in model.named_parameters() if p.requires_grad}


SPLITS = [(1, 1), (1, 2), (1, 4), (1, 9), (2, 1), (2, 3), (3, 1), (3, 5)]


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(("workers", "micro_batches"), SPLITS[1:])
def test_pieces_add_up_to_the_whole_batchs_gradient(tiny, adapted, workers, micro_batches):
    model = tiny.model(adapted=adapted, dropout=0.0)
    for name, p in model.named_parameters():  # float64: pieces that fold s B A round otherwise
        p.data = p.data.astype(np.float64)
        if name.endswith("lora_B"):
            p.data = np.random.default_rng(3).standard_normal(p.shape)
    for size in (9, 1):  # with one row some workers get nothing to do
        loss, whole = gradients(model, tiny, 1, 1, size=size)
        other_loss, pieces = gradients(model, tiny, workers, micro_batches, size=size)
        assert other_loss == pytest.approx(loss, rel=1e-6)
        assert pieces.keys() == whole.keys()
        for name, g in whole.items():
            assert pieces[name].dtype == np.float64
            np.testing.assert_allclose(pieces[name], g, rtol=1e-9, atol=1e-12, err_msg=name)
        assert max(np.abs(g).max() for g in whole.values()) > 0.01


@pytest.mark.parametrize(("workers", "micro_batches"), SPLITS[:5])
def test_a_run_repeats_bit_for_bit(tiny, workers, micro_batches):
    results = []
    for _ in range(2):
        model = tiny.model(adapted=True, dropout=0.3)
        config = TrainingConfig(6, 0.02, workers=workers, micro_batches=micro_batches)
        history = fit(model, Batches(tiny.copy_examples(), 4, 3), config, progress=False)
        state = {n: p.data.tobytes() for n, p in model.named_parameters()}
        results.append((history.series("loss"), history.series("grad_norm"), state))
    assert results[0] == results[1]
    assert len(set(results[0][0][1])) == 6


def test_workers_see_the_updates_and_give_the_values_back(tiny):
    """Two workers follow one process closely through several updates, in ordinary arrays."""
    finals = []
    for workers in (1, 2):
        model = tiny.model()
        config = TrainingConfig(12, 0.02, workers=workers)
        fit(model, Batches(tiny.copy_examples(), 6, 3), config, progress=False)
        assert all(p.data.flags.owndata and p.data.flags.writeable for p in model.parameters())
        finals.append({n: p.data for n, p in model.named_parameters()})
    start = {n: p.data for n, p in tiny.model().named_parameters()}
    for name, p in finals[0].items():
        np.testing.assert_allclose(p, finals[1][name], atol=2e-3, err_msg=name)
        assert np.abs(p - start[name]).max() > 0.02


class Fails:
    """Makes a model's loss fail in one process: the worker's, or the parent's."""

    def __init__(self, model, action, in_child=True):
        self.loss, self.action, self.parent = model.loss, action, os.getpid()
        self.in_child = in_child
        self.steps = 0

    def __call__(self, *args):
        self.steps += 1
        if (os.getpid() != self.parent) == self.in_child and self.steps == 3:
            self.action()
        return self.loss(*args)


def raise_(error):
    def action():
        raise error

    return action


class Odd(Exception):
    """Cannot be pickled: it holds a lock. Libraries teach pickle other odd exceptions."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.lock = threading.Lock()


def run_with(model, tiny, workers=2):
    config = TrainingConfig(6, 0.02, workers=workers)
    fit(model, Batches(tiny.copy_examples(), 6, 3), config, progress=False)


@pytest.mark.parametrize("workers", [2, 3])
def test_what_a_worker_raises_surfaces_in_the_parent(tiny, workers, capfd):
    model = tiny.model()
    model.loss = Fails(model, raise_(ZeroDivisionError("in the worker")))
    with pytest.raises(ZeroDivisionError, match="in the worker"):
        run_with(model, tiny, workers)
    assert all(p.data.flags.owndata for p in model.parameters())
    assert "Traceback" not in capfd.readouterr().err


def test_an_exception_that_cannot_travel_surfaces_as_text(tiny):
    model = tiny.model()
    model.loss = Fails(model, raise_(Odd("left", "right")))
    with refusal(RuntimeError, "Odd", "left and right"):
        run_with(model, tiny)


@pytest.mark.parametrize("workers", [2, 3])
def test_a_worker_killed_in_a_step_is_an_error(tiny, workers):
    model = tiny.model()
    model.loss = Fails(model, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with refusal(ChildProcessError, -9):
        run_with(model, tiny, workers)


def test_a_worker_killed_between_steps_is_an_error(tiny):
    model = tiny.model()
    batch = Batches(tiny.copy_examples(), 4, 3).batch(0)
    pieces = split_batch(batch, 2, (0, 0))
    with Workers(model, 2) as pool:
        pool.gradients(pieces, 1.0)
        child = pool.children[0].process
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        with refusal(ChildProcessError, -9):
            pool.gradients(pieces, 1.0)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("no room")])
def test_a_parent_that_stops_leaves_no_worker_and_no_noise(tiny, capfd, error):
    model = tiny.model()
    model.loss = Fails(model, raise_(error), in_child=False)
    with pytest.raises(type(error)):
        run_with(model, tiny)
    assert all(p.data.flags.owndata for p in model.parameters())
    assert "Traceback" not in capfd.readouterr().err


def test_ctrl_c_reaches_the_whole_group_and_ends_the_run(tiny, capfd, no_child_is_left):
    """A terminal sends SIGINT to the workers too; they leave it to the parent."""
    model = tiny.model()

    def ctrl_c():
        for child in set(multiprocessing.active_children()) - no_child_is_left:
            os.kill(child.pid, signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    model.loss = Fails(model, ctrl_c, in_child=False)
    with pytest.raises(KeyboardInterrupt):
        run_with(model, tiny)
    assert "Traceback" not in capfd.readouterr().err


def test_a_fork_that_fails_leaves_no_worker(tiny, monkeypatch):
    model, fork, forks = tiny.model(), os.fork, []

    def second_fails():
        forks.append(1)
        if len(forks) == 2:
            raise OSError("no more processes")
        return fork()

    monkeypatch.setattr(os, "fork", second_fails)
    with pytest.raises(OSError, match="no more processes"):
        run_with(model, tiny, workers=3)
    assert all(p.data.flags.owndata for p in model.parameters())


def test_frozen_arrays_are_not_copied_for_workers(tiny):
    model = tiny.model(adapted=True)
    before = {n: p.data for n, p in model.named_parameters()}
    with Workers(model, 2):
        for name, p in model.named_parameters():
            assert (p.data is before[name]) == (not p.requires_grad), name


def test_the_number_of_workers_is_checked(tiny):
    for count in (0, -1):
        with refusal(ValueError, count):
            Workers(tiny.model(), count)

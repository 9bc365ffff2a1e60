"""Freed memory is kept and handed out again; no number may depend on that."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from minilora.lora import LoRAConfig, attach
from minilora.nn import Transformer
from minilora.training import AdamW
from minilora.training.parallel import Piece, Workers
from tests import tiny

SHAPE = tiny.config(vocab_size=61, hidden_size=48, intermediate_size=112, head_dim=12)

TWO_BATCHES = """
import hashlib, os
import numpy as np
from minilora import backend
from minilora.training import parallel
from tests.training.test_reuse import adapted_model, piece, take_step
from minilora.training import AdamW

if os.environ["KEEP"] == "no":
    parallel.keep_freed_memory = lambda: False
model = adapted_model()
optimizer = AdamW(model.named_parameters())
with parallel.Workers(model, 1) as pool:
    losses = [take_step(pool, optimizer, piece(seed, rows)) for seed, rows in [(0, 9), (1, 4)] * 3]
digest = hashlib.sha256(repr(losses).encode())
for parameter in model.parameters():
    digest.update(parameter.data.tobytes())
print(digest.hexdigest(), len(set(losses)))
"""


def adapted_model() -> Transformer:
    """A small model with an adapter on every layer kind, B at random."""
    model = Transformer(SHAPE, np.random.default_rng(0))
    attach(model, LoRAConfig(r=3, target_modules="all-linear"), np.random.default_rng(1))
    rng = np.random.default_rng(2)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            parameter.data[...] = rng.normal(0, 0.1, parameter.shape)
    return model


def piece(seed: int, rows: int) -> Piece:
    """Random tokens, a label on the second half of each row."""
    ids, labels = np.random.default_rng(seed).integers(0, SHAPE.vocab_size, (2, rows, 90))
    labels[:, :45] = -100
    return Piece(ids, labels, (seed,))


def take_step(pool: Workers, optimizer: AdamW, batch: Piece) -> float:
    loss = pool.gradients([batch], float((batch.labels >= 0).sum()))
    optimizer.step(1e-2)
    return loss


@pytest.mark.processes
def test_two_batches_in_turn_give_the_same_bits_with_and_without_reuse():
    printed = []
    for keep in ("yes", "no"):
        run = subprocess.run(
            [sys.executable, "-c", TWO_BATCHES],
            env={**os.environ, "KEEP": keep, "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        printed.append(run.stdout)
    assert printed[0] == printed[1]
    assert printed[0].split()[1] == "6"  # every step saw another loss: training went on


def test_what_is_held_on_to_stays_as_it_was():
    model = adapted_model()
    first = piece(0, 5)
    hidden = model.hidden_states(first.ids)
    loss = model.loss(first.ids, first.labels)
    loss.backward()
    held = {"hidden": hidden.data, "loss": loss.data}
    held |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    before = {name: array.copy() for name, array in held.items()}
    assert len(held) > 20
    optimizer = AdamW(model.named_parameters())
    for seed in (1, 2):
        model.zero_grad()
        model.loss(piece(seed, 7).ids, piece(seed, 7).labels).backward()
        optimizer.step(1e-2)
    for name, array in held.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert not np.array_equal(model.hidden_states(first.ids).data, held["hidden"])


def test_a_graph_that_is_held_gives_the_gradient_of_its_own_batch():
    model = adapted_model()
    first, second = piece(0, 5), piece(1, 5)
    wanted = model.loss(first.ids, first.labels)
    model.loss(second.ids, second.labels).backward()  # its passes over owned buffers come between
    model.zero_grad()
    wanted.backward()
    late = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.loss(first.ids, first.labels).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            np.testing.assert_array_equal(late[name], parameter.grad, err_msg=name)

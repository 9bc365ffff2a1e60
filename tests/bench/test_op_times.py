"""The stopwatch sees every op and changes no result."""

import numpy as np
import pytest

from minilora import machine
from minilora.autograd import functional as F
from minilora.bench import workloads as w
from minilora.bench.op_times import Stopwatch, profile
from minilora.bench.watching import FUSED, watching
from tests.says import refusal


@pytest.fixture(autouse=True)
def low_rank(monkeypatch):
    monkeypatch.setattr(w, "RANK", 2)


def gradients(model, ids, labels):
    model.zero_grad()
    model.loss(ids, labels).backward()
    return [p.grad for p in model.parameters() if p.requires_grad]


def test_watching_changes_no_gradient_and_ends(tiny, tmp_path):
    job = w.JOBS["lora-qv"]
    w.write_weights(tiny, job, tmp_path)
    model = w.load_model(tiny, job, tmp_path)
    before, linear = gradients(model, *tiny.batch()), F.linear
    watch = Stopwatch()
    with watching(watch.timed):
        watched = gradients(model, *tiny.batch())
    for a, b in zip(before, watched, strict=True):
        np.testing.assert_array_equal(a, b)
    assert F.linear is linear
    assert watch.calls.keys() == {*FUSED, "reshape", "add"}
    assert watch.calls["lora_linear"] == 4 and watch.calls["linear"] == 10
    parts = {name for name, part in watch.seconds if part == "backward"}
    assert parts == {*FUSED, "reshape", "add"}
    # The tokens' embedding is frozen and has no vjp; the choice of labelled positions has one.
    assert watch.calls["embedding"] == 2


def test_the_shares_add_up(tiny):
    found = profile(tiny, w.JOBS["full"], seconds=0.01)
    parts = found.matmul + found.passes + found.faults + found.python
    assert parts == pytest.approx(found.total)
    assert found.ops["embedding"][0] == 2 and found.ops["embedding"][2] > 0
    assert found.ops["linear"][3] > 0 and found.ops["swiglu"][3] == 0


def test_only_steps_are_profiled(tiny):
    with refusal(ValueError, "forward"):
        profile(tiny, w.JOBS["forward"])


def test_a_profile_where_the_system_counts_no_page_faults(tiny, monkeypatch):
    monkeypatch.setattr(machine, "_resource", lambda: None)
    assert profile(tiny, w.JOBS["lora-qv"], seconds=0.01).fault_count is None

"""torch's side of the benchmark computes what ours does: losses, steps and greedy tokens."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("transformers")

from minilora.bench import workloads as w  # noqa: E402
from minilora.bench.race import race  # noqa: E402
from minilora.bench.records import best_title, race_record  # noqa: E402
from minilora.bench.torch_peer import ATTENTION, Work, best_attention, loss_of  # noqa: E402
from minilora.nn.generate import generate  # noqa: E402
from tests import tiny  # noqa: E402

pytestmark = pytest.mark.interop

CONFIG = tiny.config(
    hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=4, rms_norm_eps=1e-3, rope_theta=500.0, initializer_range=0.5,
)  # fmt: skip
TINY = w.Workload("tiny", CONFIG, rows=6, time=9, labels=4)


@pytest.mark.parametrize("name", ["lora-qv", "lora-all", "full"])
def test_losses_and_trained_parameters_are_equal(tmp_path, name):
    job = w.JOBS[name]
    w.write_weights(TINY, job, tmp_path)
    ours, theirs = w.load_model(TINY, job, tmp_path), Work(TINY, job, str(tmp_path), 0)
    expected = ours.loss(*TINY.batch()).item()
    assert theirs.loss() == pytest.approx(expected, rel=1e-5)
    kept = loss_of(theirs.model, theirs.ids, theirs.labels, TINY.labels)
    assert kept.item() == pytest.approx(expected, rel=1e-5)
    trained = sum(p.size for p in ours.parameters() if p.requires_grad)
    assert sum(p.numel() for p in theirs.trained) == trained
    before = theirs.loss()
    theirs.probe()
    assert theirs.loss() == before
    theirs.once()
    assert theirs.loss() < before


def test_both_attention_kernels_give_the_same_loss(tmp_path):
    job = w.JOBS["lora-qv"]
    w.write_weights(TINY, job, tmp_path)
    work = Work(TINY, job, str(tmp_path), 0)
    assert best_attention(work.model, work.probe) in ATTENTION
    layer = work.model.base_model.model.model.layers[0].self_attn
    losses = []
    for kernel in ATTENTION:
        work.model.base_model.config._attn_implementation = kernel
        assert layer.config._attn_implementation == kernel
        losses.append(work.loss())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("name", ["generate-1", "generate-8"])
def test_greedy_tokens_are_equal(tmp_path, name, bare):
    job = w.JOBS[name]
    w.write_weights(TINY, job, tmp_path)
    ours, theirs = w.load_model(TINY, job, tmp_path), Work(TINY, job, str(tmp_path), 0, bare)
    assert (theirs.decoder is not None) == bare
    prompts = TINY.prompts(job.rows)
    expected = generate(ours, prompts.tolist(), w.NEW_TOKENS)
    got = theirs.generate().numpy()
    assert got.shape == (job.rows, w.NEW_TOKENS)
    np.testing.assert_array_equal(got, expected)


def test_a_race_finds_equal_losses_before_and_after_three_steps():
    sides = [("minilora", 1), ("torch-labelled", 1), ("full", 1)]
    job = w.JOBS["lora-all"]
    result = race(TINY, job, sides, pairs=1, starts=1, seconds=0.01)
    ours, theirs = result.about["minilora@1"], result.about["torch-labelled@1"]
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert ours["loss_after"] == pytest.approx(theirs["loss_after"], rel=1e-5)
    assert abs(ours["loss"] - ours["loss_after"]) > 1e-4


def test_peft_mixes_the_same_adapters():
    """The race refuses sides whose losses of a mixed batch differ."""
    sides = [(kind, 1) for kind in ("minilora", "bank-8", "peft", "peft-8")]
    record = race_record(race(TINY, w.JOBS["bank"], sides, pairs=1, starts=1, seconds=0.01))
    ratio = record["ratios"][best_title("peft-8")]
    assert (ratio["over"], ratio["under"]) == ("peft-8@1", "bank-8@1")
    assert record["ratios"]["peft-8@1 / bank-8@1, CPU"]["pairs"] == record["rounds"]


def test_autocast_computes_the_same_loss_in_fewer_digits(tmp_path):
    job = w.JOBS["lora-qv"]
    w.write_weights(TINY, job, tmp_path)
    whole, half = (Work(TINY, job, str(tmp_path), 0, half=half) for half in (False, True))
    losses = [loss_of(x.model, x.ids, x.labels, 0, x.half).item() for x in (whole, half)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)
    half.once()
    assert all(p.dtype is torch.float32 for p in half.trained)


def test_activated_steps_race_beside_plain_ones():
    kinds = ("minilora", "activated", "activated-kept", "torch-bf16")
    result = race(
        TINY, w.JOBS["lora-qv"], [(kind, 1) for kind in kinds], pairs=1, starts=1, seconds=0.01
    )
    losses = {kind: result.about[f"{kind}@1"] for kind in kinds}
    assert losses["activated"]["loss"] == losses["activated-kept"]["loss"]
    kept, anew = (losses[k]["loss_after"] for k in ("activated-kept", "activated"))
    assert kept == pytest.approx(anew, rel=1e-4) and kept != losses["activated"]["loss"]
    assert result.ratio("minilora@1", "activated@1")["pairs"] >= 0

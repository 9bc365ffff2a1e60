"""verify(plan): an adapter is trained again; a changed byte anywhere is found."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from minilora.lora import Adapter, AdapterError
from minilora.lora.peft_format import provenance_sha256
from minilora.runs import RunFolder, run
from minilora.runs.verify import Verdict, VerifyPlan, verify
from minilora.storage import read_safetensors, write_safetensors
from minilora.training import made_by as making
from minilora.training.checkpoint import checkpoints
from tests.cli.conftest import pairs, write_jsonl
from tests.says import refusal


@pytest.fixture
def trained(plan):
    made = replace(plan, steps=20, lora_dropout=0.1, keep_checkpoints=True)
    run(made)
    return made


@pytest.fixture
def verify_plan(trained):
    return VerifyPlan(adapter=trained.out, data=trained.data, base=trained.base)


def edit(folder, change, seal=False):
    """Change minilora.json; with `seal`, so that its hash fits again."""
    path = folder / "minilora.json"
    told = json.loads(path.read_text())
    change(told["provenance"])
    if seal:
        told["provenance_sha256"] = provenance_sha256(told["provenance"])
    path.write_text(json.dumps(told))


def forge(folder):
    """Another bit in a tensor, and a sidecar that says that it is right."""
    adapter = Adapter.read(folder)
    factors = {name: adapter.factors(name) for name in adapter.modules}
    A, B = (array.copy() for array in factors[adapter.modules[0]])
    A.view(np.uint32)[0, 0] ^= 1
    factors[adapter.modules[0]] = (A, B)
    forged = Adapter(adapter.config, factors, base=adapter.base, provenance=adapter.provenance)
    shutil.rmtree(folder)
    forged.write(folder)


# -- what is as it was -----------------------------------------------------------------------------


def test_an_adapter_says_what_made_it(trained):
    origin = Adapter.read(trained.out).provenance
    made = origin["made_by"]
    assert made["workers"] == 1 and made["threads"] >= 1
    assert made["code"].startswith("sha256:") and made["kernel"] and made["blas"]
    assert origin["training"]["seed"] == 0 and origin["data"]["sha256"]


def test_the_whole_run_gives_the_same_bytes(verify_plan, trained, tmp_path):
    found = verify(replace(verify_plan, json_file=tmp_path / "v.json"))
    assert found.verdict is Verdict.VERIFIED and not found.others and not found.faults
    (stretch,) = found.stretches
    assert (stretch.first, stretch.last, stretch.difference) == (0, 20, 0.0) and found.steps == 20
    told = json.loads((tmp_path / "v.json").read_text())
    assert told == found.to_dict() and told["verdict"] == "verified"


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [(18, 20)]), (2, [(0, 2), (18, 20)]), (99, None)]
)
def test_stretches_between_checkpoints_give_the_same_bytes(verify_plan, count, expected):
    found = verify(replace(verify_plan, segments=count))
    steps = [(one.first, one.last) for one in found.stretches]
    assert found.verdict is Verdict.VERIFIED
    if expected is None:
        expected = [(i, i + 2) for i in range(0, 20, 2)]
    assert steps == expected


def test_with_two_processes_replay_and_held_out_rows_too(plan, tmp_path):
    replayed = write_jsonl(tmp_path / "replay.jsonl", pairs(10, 200))
    made = replace(plan, steps=6, workers=2, seed=3, target_modules="all-linear", replay=0.25,
                   replay_data=replayed)  # fmt: skip
    run(made)
    asked = VerifyPlan(adapter=made.out, data=made.data, base=made.base)
    with refusal(ValueError, "--replay-data", "replay.jsonl"):
        verify(asked)
    assert verify(replace(asked, replay_data=replayed)).verdict is Verdict.VERIFIED
    write_jsonl(replayed, pairs(10, 201))
    assert verify(replace(asked, replay_data=replayed)).verdict is Verdict.REFUTED


# -- what was changed ------------------------------------------------------------------------------


def test_a_changed_byte_of_the_data_is_found_before_training(verify_plan, trained):
    text = trained.data.read_bytes()
    trained.data.write_bytes(text.replace(b"mg", b"kg", 1))
    found = verify(verify_plan)
    assert found.verdict is Verdict.REFUTED and not found.stretches
    assert str(trained.data) in found.faults[0]


def test_a_changed_byte_of_the_tensors_is_found(verify_plan, trained):
    path = trained.out / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with refusal(AdapterError, trained.out):
        verify(verify_plan)


@pytest.mark.parametrize("segments", [None, 1])
def test_so_is_one_that_every_hash_agrees_with(verify_plan, trained, segments):
    forge(trained.out)
    found = verify(replace(verify_plan, segments=segments))
    assert found.verdict is Verdict.REFUTED and not found.faults
    assert found.stretches[-1].difference > 0


SETTINGS = [("seed", 1), ("lr", 0.021), ("batch_size", 5), ("clip_norm", 0.5), ("steps", 21)]


@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_a_changed_setting_is_found_by_its_seal(verify_plan, trained, name, value):
    edit(trained.out, lambda told: told["training"].update({name: value}))
    found = verify(verify_plan)
    assert found.verdict is Verdict.REFUTED and not found.stretches
    assert "minilora.json" in found.faults[0]


@pytest.mark.parametrize(("name", "value"), SETTINGS)
@pytest.mark.parametrize("segments", [None, 2])
def test_and_without_it_by_training_again(verify_plan, trained, name, value, segments):
    edit(trained.out, lambda told: told["training"].update({name: value}), seal=True)
    found = verify(replace(verify_plan, segments=segments))
    assert found.verdict is Verdict.REFUTED


def test_a_changed_setting_of_the_adapter_is_found(verify_plan, trained):
    path = trained.out / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_dropout": 0.2}))
    assert verify(verify_plan).verdict is Verdict.REFUTED


def test_a_changed_checkpoint_is_found(verify_plan, trained):
    folder = checkpoints(RunFolder(trained.out).checkpoints)[0]
    path = folder / "trainable.safetensors"
    state, _ = read_safetensors(path)
    name = next(iter(state))
    state[name] = state[name] * np.float32(1.001)
    write_safetensors(path, state)
    found = verify(replace(verify_plan, segments=99))
    assert found.verdict is Verdict.REFUTED
    assert [one.difference > 0 for one in found.stretches][:3] == [True, True, False]


# -- what is another here --------------------------------------------------------------------------


def test_another_kernel_is_said_and_equal_bytes_are_a_proof_all_the_same(verify_plan, monkeypatch):
    kernel = {"blas": "openblas 9", "kernel": "Other"}
    monkeypatch.setattr(making, "blas_kernel", lambda: kernel)
    found = verify(verify_plan)
    assert found.verdict is Verdict.VERIFIED
    assert found.others["kernel"][1] == "Other" and found.others["blas"][1] == "openblas 9"


def test_with_another_kernel_other_bytes_prove_nothing(verify_plan, trained, monkeypatch):
    forge(trained.out)
    monkeypatch.setattr(making, "blas_kernel", lambda: {"blas": "x", "kernel": "Other"})
    found = verify(verify_plan)
    assert found.verdict is Verdict.CANT_TELL and set(found.others) == {"blas", "kernel"}


def test_other_code_is_said(verify_plan, monkeypatch):
    monkeypatch.setattr(making, "code_fingerprint", lambda: "sha256:other")
    assert list(verify(verify_plan).others) == ["code"]


def test_an_adapter_of_before_loads_and_is_verified_where_its_bytes_are_the_same(
    verify_plan, trained
):
    path = trained.out / "minilora.json"
    told = json.loads(path.read_text())
    del told["provenance"]["made_by"], told["provenance_sha256"]
    path.write_text(json.dumps(told))
    found = verify(verify_plan)
    assert found.verdict is Verdict.VERIFIED
    assert {then for then, _ in found.others.values()} == {"unknown"}
    forge(trained.out)
    del told
    assert verify(verify_plan).verdict is Verdict.CANT_TELL


def test_what_can_not_be_verified_is_refused(verify_plan, trained):
    with refusal(ValueError, "--segments", 0):
        replace(verify_plan, segments=0)
    shutil.rmtree(RunFolder(trained.out).checkpoints)
    with refusal(ValueError, "--segments", 2):
        verify(replace(verify_plan, segments=2))
    edit(trained.out, lambda told: told.pop("training"), seal=True)
    with refusal(ValueError, trained.out):
        verify(verify_plan)
    edit(trained.out, lambda told: told.update(training={"batch_size": 1, "x": 2}), seal=True)
    with refusal(ValueError, "x"):
        verify(verify_plan)

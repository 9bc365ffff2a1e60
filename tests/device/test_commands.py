"""`--device gpu` in the commands, with the strict stand-in as the GPU."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilora import backend
from minilora.cli import cost
from minilora.cli.app import main
from minilora.lora import Adapter
from minilora.runs import adapt as adapting
from minilora.runs.capstone import reload, steps
from minilora.text import answers as answering
from tests.cli.conftest import make_base, pairs, write_jsonl
from tests.device.strict_cupy import syncs
from tests.says import names


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setattr(adapting, "plot_loss", lambda history, path: None)
    # The stand-in has arrays and no memory pool; tests/gpu asks a real one.
    held = backend.DeviceMemory(1, 3 << 20, None)
    monkeypatch.setattr(cost, "device_memory", lambda device: held)
    data = write_jsonl(tmp_path / "my.jsonl", pairs(30))
    return make_base(tmp_path / "base", 0), data, tmp_path


def adapt(paths, device, *flags):
    base, data, folder = paths
    flags = ("--steps", "4", "--workers", "1", "--r", "2", "--batch-size", "4", *flags)
    where = ("--base", str(base), "--data", str(data), "--out", str(folder / device))
    return main(["adapt", *where, *flags, "--device", device])


@pytest.mark.parametrize("flags", [(), ("--activated",)])
def test_an_adapter_made_on_the_gpu_is_that_of_the_cpu(cupy, paths, capsys, flags):
    assert adapt(paths, "cpu", *flags) == adapt(paths, "gpu", *flags) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert names(said, "gpu", "3.0 MiB")
    one, other = (Adapter.read(paths[2] / device) for device in ("cpu", "gpu"))
    assert {a.provenance["device"] for a in (one, other)} == {"cpu", "gpu"}
    assert one.modules == other.modules
    for name in one.modules:
        for array, twin in zip(one.factors(name), other.factors(name), strict=True):
            np.testing.assert_allclose(twin, array, rtol=1e-3, atol=1e-5)
    assert max(np.abs(one.factors(name)[1]).max() for name in one.modules) > 1e-3  # trained


@pytest.mark.parametrize("flags", [(), ("--activated",)])
def test_answers_and_scores_on_the_gpu(cupy, paths, capsys, flags):
    base, data, folder = paths
    assert adapt(paths, "cpu", *flags) == 0
    capsys.readouterr()
    asked = ["--base", str(base), "--adapter", str(folder / "cpu")]
    answers, scores = [], []
    for device in ("cpu", "gpu"):
        waits = len(syncs)
        assert main(["generate", *asked, "--prompt", "Dose of aspirin no 2?",
                     "--max-new-tokens", "6", "--device", device]) == 0  # fmt: skip
        answers.append(capsys.readouterr().out)
        file = folder / f"{device}.json"
        assert main(["evaluate", *asked, "--data", str(data), "--rows", "5",
                     "--device", device, "--json", str(file)]) == 0  # fmt: skip
        capsys.readouterr()
        scores.append([v["outputs"] for v in json.loads(file.read_text())["variants"]])
        assert (len(syncs) > waits) is (device == "gpu")  # it ran where it was told
    assert answers[0] == answers[1] and answers[0].strip()
    assert scores[0] == scores[1] and any(scores[0][0])


@pytest.mark.parametrize("command", ["adapt", "generate", "evaluate"])
def test_a_gpu_that_is_not_there_is_refused_first(command, paths, capsys, monkeypatch):
    monkeypatch.setattr(backend, "is_gpu_available", lambda: False)
    base, data, folder = paths
    flags = {
        "adapt": ["--data", str(data), "--out", str(folder / "out")],
        "generate": ["--prompt", "x"],
        "evaluate": ["--data", str(data)],
    }[command]
    for device, told in (("gpu", "CuPy"), ("cuda", "'cuda'")):
        assert main([command, "--base", str(base), *flags, "--device", device]) != 0
        found = capsys.readouterr()
        assert names(found.err, told) and not found.out
    assert not (folder / "out").exists() and not (folder / "out.run").exists()


def test_a_gpu_answers_in_one_process(cupy, paths, capsys, monkeypatch):
    base, data, _ = paths
    dealt, real = [], answering.side_by_side

    def spy(function, jobs, workers, done):
        dealt.append(workers)
        return real(function, jobs, workers, done)

    monkeypatch.setattr(answering, "side_by_side", spy)
    for device in ("cpu", "gpu"):
        assert main(["evaluate", "--base", str(base), "--data", str(data), "--rows", "6",
                     "--device", device, "--workers", "2"]) == 0  # fmt: skip
    assert dealt == [2, 1]


def test_a_capstone_on_the_gpu_finds_what_the_cpu_does(cupy, paths, capsys, monkeypatch):
    monkeypatch.setattr(reload, "PACKAGES", ("nosuchpackage",))
    base, data, folder = paths
    data = write_jsonl(folder / "more.jsonl", pairs(120))
    suite = write_jsonl(folder / "old.jsonl", pairs(8, start=500))
    flags = ("--steps", "4", "--batch-size", "4", "--r", "2", "--lr", "0.02", "--workers", "1")
    found, merged, real = [], [], steps.open_base
    monkeypatch.setattr(steps, "open_base", lambda *a, **k: merged.append(k) or real(*a, **k))
    for device in ("cpu", "gpu"):
        where = ("--base", str(base), "--data", str(data), "--out", str(folder / device))
        argv = ["capstone", *where, "--suite", str(suite), "--shots", "1", *flags]
        waits = len(syncs)
        assert main([*argv, "--device", device]) == 0
        assert (len(syncs) > waits) is (device == "gpu")
        found.append(json.loads((folder / device / "capstone.json").read_text("utf-8"))["steps"])
    one, other = found
    assert other["scores"]["outputs"] == one["scores"]["outputs"]
    assert other["gate"]["metrics"] == one["gate"]["metrics"]
    assert other["rows"] == one["rows"]
    assert merged == [{"device": "cpu"}, {"device": "gpu"}]
    assert Adapter.read(folder / "gpu" / "adapter").provenance["device"] == "gpu"
    assert names((folder / "gpu" / "card.md").read_text(), "GPU")
    assert not names((folder / "cpu" / "card.md").read_text(), "GPU")


def test_stored_weights_stay_on_the_cpu(cupy, paths, capsys):
    assert adapt(paths, "gpu", "--base-dtype", "float16") != 0
    assert names(capsys.readouterr().err, "cpu")

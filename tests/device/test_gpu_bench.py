"""`bench --device gpu` with the strict stand-in as the card; no time is judged."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from minilora import backend
from minilora.bench import gpu, workloads
from minilora.cli.app import main
from tests import tiny
from tests.device.strict_cupy import syncs
from tests.says import error_line, names, refusal


@pytest.fixture(autouse=True)
def small(monkeypatch):
    config = tiny.config(
        hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    monkeypatch.setitem(workloads.WORKLOADS, "S", workloads.Workload("S", config, 3, 5, 2))
    for name, value in (("LARGE", 8), ("WARM_UPS", 2), ("STEPS", 3)):
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(gpu.race_on_gpu, "__defaults__", (2, 3))


@pytest.mark.parametrize("job", ["lora-qv", "lora-all", "full", "forward"])
def test_a_race_on_the_card(cupy, tmp_path, capsys, job):
    waits = syncs["get"]
    out = tmp_path / "gpu.json"
    flags = ["--workload", "S", "--job", job, "--no-torch", "--device", "gpu", "--json", str(out)]
    assert main(["bench", *flags]) == 0
    assert names(capsys.readouterr().out, "stand-in", "minilora", job)
    (record,) = json.loads(out.read_text())["results"]
    assert (
        record["flops"] > 0
        and record["card"] == "stand-in"
        and list(record["sides"]) == ["minilora"]
    )
    side = record["sides"]["minilora"]
    assert side["quartiles"][0] <= side["seconds"] <= side["quartiles"][1]
    assert record["bound_seconds"] > 0
    assert (syncs["get"] > waits) is (job != "forward")  # a step reads its loss, on the card
    assert syncs["event"] == 2  # a wait for each side, and not one a step


def test_seconds_of_every_step(cupy):
    job, workload = workloads.JOBS["lora-qv"], workloads.WORKLOADS["S"]
    race = gpu.race_on_gpu(workload, job, torch=False)
    assert race.to_dict()["sides"].keys() == {"minilora"}
    assert len(gpu.product_seconds(4, 6)) == 6
    clock = backend.DeviceClock()
    assert clock.seconds() == []
    for _ in range(4):
        clock.mark()
    times = [event.time for event in clock._events]
    assert clock.seconds() == pytest.approx([b - a for a, b in pairwise(times)])


def test_without_a_card_it_is_refused_at_once(monkeypatch, capsys):
    monkeypatch.setattr(backend, "is_gpu_available", lambda: False)
    for device, told in (("gpu", "CuPy"), ("cuda", "'cuda'")):
        assert main(["bench", "--workload", "S", "--device", device]) == 1
        assert names(error_line(capsys), told)
    with refusal(ValueError, "CUDA"):
        backend.DeviceClock()
    assert backend.device_count() == 0


def test_what_is_not_timed_on_a_card(cupy, capsys):
    for flags in (["--job", "generate-1"], ["--busy"], ["--growth"], ["--profile"]):
        assert main(["bench", "--workload", "S", *flags, "--device", "gpu"]) == 1
        assert names(error_line(capsys), "--device", "gpu")

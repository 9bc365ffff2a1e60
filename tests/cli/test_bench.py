"""`minilora bench`: a tiny race from end to end, and what it refuses. No time is judged."""

import json

import pytest

from minilora.baselines import workloads
from minilora.cli import bench as command
from minilora.cli.app import main
from minilora.nn import TransformerConfig

RUN = ["bench", "--pairs", "1", "--starts", "1", "--seconds", "0.01"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    config = TransformerConfig(
        vocab_size=37, hidden_size=16, intermediate_size=20, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    monkeypatch.setitem(workloads.WORKLOADS, "S", workloads.Workload("S", config, 3, 5, 2))


def test_a_race_without_torch(tmp_path, capsys):
    out = tmp_path / "bench.json"
    flags = ["--workload", "S", "--job", "lora-qv,generate-1", "--no-torch", "--json", str(out)]
    assert main([*RUN, *flags]) == 0
    text = capsys.readouterr().out
    assert "left out by --no-torch" in text and "each side at its best setting" in text
    found = json.loads(out.read_text())
    assert found["about"]["dtype"] == "float32"
    step, generation = found["results"]
    numpy_sides = {"minilora@1", "minilora@2", "matmul@1", "matmul@2"}
    assert step["sides"].keys() == numpy_sides | {"textbook@1"}
    assert generation["sides"].keys() == numpy_sides
    assert step["job"] == "lora-qv" and step["workload"]["config"]["hidden_size"] == 16
    assert step["best"].keys() == {"minilora", "matmul", "textbook"}
    side = step["sides"]["minilora@2"]
    assert side.keys() >= {"seconds", "tokens_per_second", "cpu_seconds", "turns", "memory"}
    assert side["turns"][0].keys() == {"wall", "cpu", "foreign"}
    assert side["memory"]["peak"] == side["memory"]["base"] + side["memory"]["growth"]
    assert side["loss"] != side["loss_after"]
    losses = [step["sides"][name]["loss_after"] for name in ("minilora@1", "textbook@1")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    ratios = step["ratios"]
    assert {"minilora@1 / matmul@1", "textbook@1 / minilora@1, CPU"} < ratios.keys()
    for ratio in ratios.values():
        assert ratio.keys() == {"median", "low", "high", "pairs", "dropped"}


def test_a_stopped_run_keeps_the_cells_that_are_done(tmp_path, monkeypatch):
    real, begun = command.race, []

    def stopped(workload, job, *args, **terms):
        begun.append(job.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(workload, job, *args, **terms)

    monkeypatch.setattr(command, "race", stopped)
    out = tmp_path / "bench.json"
    flags = ["--workload", "S", "--job", "forward,full", "--threads", "1", "--no-torch"]
    assert main([*RUN, *flags, "--json", str(out)]) == 130
    assert [r["job"] for r in json.loads(out.read_text())["results"]] == ["forward"]


def test_a_profile(tmp_path, capsys):
    out = tmp_path / "profile.json"
    flags = ["--workload", "S", "--profile", "--no-torch", "--json", str(out)]
    assert main([*RUN, *flags]) == 0
    assert "passes over elements" in capsys.readouterr().out
    found = json.loads(out.read_text())["results"][0]
    assert found["profile"]["ops"].keys() >= {"lora_linear", "swiglu", "causal_attention"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workload", "X"], ("--workload X", "S, W, M, G, R")),
        (["--job", "lora"], ("--job lora", "lora-qv")),
        (["--threads", "0"], ("--threads '0'", "above 0")),
        (["--torch-logits", "some"], ("'some'", "labelled")),
        (["--workload", "R", "--job", "full"], ("full step of R",)),
        (["--profile", "--job", "forward"], ("forward", "training step")),
    ],
)
def test_a_wrong_option_is_one_line(flags, words, capsys):
    assert main([*RUN, "--no-torch", *flags]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert all(word in message for word in words)


def test_torch_races_where_it_is_installed(monkeypatch):
    small, job = workloads.WORKLOADS["S"], workloads.JOBS["full"]
    kinds = [kind for kind, _ in command.sides(small, job, [1, 2], True)]
    assert kinds.count("torch") == 2 and kinds.count("textbook") == 1
    monkeypatch.setattr(command, "PEERS", ("torch", "no_such_package"))
    assert "no_such_package" in command.missing_peers()

"""`minilora bench`: a tiny race from end to end, and what it refuses. No time is judged."""

import json
import multiprocessing
from dataclasses import replace

import pytest

from minilora.bench import about, cells, growth, workloads
from minilora.bench.cells import racing_sides
from minilora.cli import bench_runs
from minilora.cli.app import main
from tests import tiny
from tests.says import error_line, names

RUN = ["bench", "--pairs", "1", "--starts", "1", "--seconds", "0.01"]


@pytest.fixture(autouse=True)
def tiny_workload(monkeypatch):
    config = tiny.config(
        hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip

    monkeypatch.setitem(workloads.WORKLOADS, "S", workloads.Workload("S", config, 3, 5, 2))


@pytest.mark.processes
def test_a_race_without_torch(tmp_path, capsys):
    out = tmp_path / "bench.json"
    flags = ["--workload", "S", "--job", "lora-qv,generate-1", "--no-torch", "--json", str(out)]
    assert main([*RUN, *flags]) == 0
    assert names(capsys.readouterr().out, "--no-torch", "lora-qv", "generate-1", "textbook")
    found = json.loads(out.read_text())
    assert found["about"]["dtype"] == "float32"
    step, generation = found["results"]
    numpy_sides = {"minilora@1", "minilora@2", "matmul@1", "matmul@2"}
    others = ("textbook", "full", "activated", "activated-kept")
    more = {f"{kind}@{count}" for kind in others for count in (1, 2)}
    assert step["sides"].keys() == numpy_sides | more
    assert generation["sides"].keys() == numpy_sides
    assert step["job"] == "lora-qv" and step["workload"]["config"]["hidden_size"] == 16
    assert step["best"].keys() == {"minilora", "matmul", *others}
    side = step["sides"]["minilora@2"]
    assert side.keys() >= {"seconds", "tokens_per_second", "cpu_seconds", "turns", "memory"}
    assert side["turns"][0].keys() == {"wall", "cpu", "foreign"}
    assert side["memory"]["peak"] == side["memory"]["base"] + side["memory"]["growth"]
    assert side["loss"] != side["loss_after"]
    losses = [step["sides"][name]["loss_after"] for name in ("minilora@1", "textbook@1")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    ratios = step["ratios"]
    assert {"minilora@1 / matmul@1", "textbook@1 / minilora@1, CPU"} < ratios.keys()
    assert "minilora / activated, best" in ratios
    assert {"minilora / full, best", "textbook / minilora, best"} < ratios.keys()
    for title, ratio in ratios.items():
        assert ratio.keys() == {"median", "low", "high", "pairs", "dropped", "over", "under"}
        assert ratio["over"].partition("@")[0] == title.split(" / ")[0].partition("@")[0]


@pytest.mark.processes
def test_a_stopped_run_keeps_the_cells_that_are_done(tmp_path, monkeypatch):
    real, begun = bench_runs.race, []

    def stopped(workload, job, *args, **terms):
        begun.append(job.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(workload, job, *args, **terms)

    monkeypatch.setattr(bench_runs, "race", stopped)
    out = tmp_path / "bench.json"
    flags = ["--workload", "S", "--job", "full,forward", "--threads", "1", "--no-torch"]
    assert main([*RUN, *flags, "--json", str(out)]) == 130
    assert [r["job"] for r in json.loads(out.read_text())["results"]] == ["full"]


@pytest.mark.processes
def test_a_busy_neighbour(tmp_path, capsys):
    out = tmp_path / "busy.json"
    flags = ["--busy", "--workload", "S", "--no-torch", "--json", str(out), "--markdown"]
    assert main([*RUN, *flags]) == 0
    text = capsys.readouterr().out
    assert "| S | lora-qv | " in text and names(text, "minilora@2")
    cell = json.loads(out.read_text())["results"][0]
    assert cell["slowdowns"].keys() == {"minilora@2", "blas@2"} == cell["pairs"].keys()
    assert cell["fair"] > 1
    for pairs in cell["pairs"].values():
        assert pairs[0].keys() == {"alone", "busy"}


@pytest.mark.processes
def test_growth(tmp_path, capsys, monkeypatch):
    axes = {"batch": (1, 3), "length": (8, 16), "width": (32, 64)}
    monkeypatch.setattr(growth, "AXES", axes)
    monkeypatch.setattr(growth, "BASE", {"batch": 3, "length": 8, "width": 32})
    monkeypatch.setattr(growth, "TRIES", 1)
    out, plot = tmp_path / "growth.json", tmp_path / "growth.png"
    flags = ["--growth", "--no-torch", "--threads", "1", "--json", str(out), "--out", str(plot)]
    assert main([*RUN, *flags]) == 0
    first = capsys.readouterr().out
    assert names(first, "width", "batch", "length", 32, 64)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main(["bench", "--from", str(out)]) == 0
    again = capsys.readouterr().out
    assert again and again in first  # the same tables
    found = json.loads(out.read_text())["results"][0]
    assert {axis: tuple(columns["values"]) for axis, columns in found["axes"].items()} == axes
    length = found["axes"]["length"]
    for job in ("lora-qv", "full"):
        rates = length[f"minilora {job} tokens/s"]
        assert min(rates) > 0 and length[f"expected {job} tokens/s"][0] == pytest.approx(rates[0])
    memory = found["memory"]["minilora"]
    assert len(memory) == 2
    assert all(m["peak"] == m["base"] + m["growth"] > m["growth"] for m in memory)


@pytest.mark.processes
def test_a_file_is_shown_again(tmp_path, capsys):
    out = tmp_path / "bench.json"
    flags = ["--workload", "S", "--no-torch", "--threads", "1", "--json", str(out)]
    assert main([*RUN, *flags]) == 0
    capsys.readouterr()
    assert main(["bench", "--from", str(out), "--markdown"]) == 0
    text = capsys.readouterr().out
    assert "| S lora-qv |" in text and "| S | lora-qv | " in text and names(text, 0.7)
    brief = tmp_path / "brief.json"
    assert main(["bench", "--from", str(out), "--json", str(brief)]) == 0
    capsys.readouterr()
    assert main(["bench", "--from", str(brief), "--markdown"]) == 0
    assert capsys.readouterr().out == text
    turns = [
        "turns" in side for side in json.loads(brief.read_text())["results"][0]["sides"].values()
    ]
    assert turns and not any(turns)
    out.write_text('{"other": 1}')
    assert main(["bench", "--from", str(out)]) == 1
    assert names(error_line(capsys), out)


def test_a_profile(tmp_path, capsys):
    out = tmp_path / "profile.json"
    flags = ["--workload", "S", "--profile", "--no-torch", "--json", str(out)]
    assert main([*RUN, *flags]) == 0
    assert names(capsys.readouterr().out, "lora_linear", "swiglu", "causal_attention")
    found = json.loads(out.read_text())["results"][0]
    assert found["profile"]["ops"].keys() >= {"lora_linear", "swiglu", "causal_attention"}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--workload", "X"], ("--workload", "X", "S", "W", "M", "G", "R")),
        (["--job", "lora"], ("--job", "lora", "lora-qv")),
        (["--threads", "0"], ("--threads", 0, 1, 64)),
        (["--threads", "1000000"], ("--threads", 1000000, 1, 64)),
        (["--torch-logits", "some"], ("'some'", "labelled")),
        (["--workload", "R", "--job", "full"], ("full", "R")),
        (["--profile", "--job", "forward"], ("forward",)),
        (["--busy", "--job", "forward"], ("forward",)),
        (["--busy", "--growth"], ("--busy", "--growth")),
    ],
)
def test_a_wrong_option_is_one_line(flags, named, capsys):
    assert main([*RUN, "--no-torch", *flags]) == 1
    assert names(error_line(capsys), *named)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e308"])
def test_a_turn_has_a_length(seconds, capsys):
    assert main([*RUN, "--no-torch", "--seconds", seconds]) == 2
    assert names(error_line(capsys), "--seconds")


def test_torch_races_where_it_is_installed(monkeypatch):
    small, ward, jobs = workloads.WORKLOADS["S"], workloads.WORKLOADS["W"], workloads.JOBS
    both = ("torch", "torch-labelled")

    def raced(workload, job, torches):
        return {kind for kind, _ in racing_sides(workload, jobs[job], [1, 2], torches)}

    monkeypatch.setattr(cells, "has_bfloat16", lambda: True)
    activated = {"activated", "activated-kept"}
    kinds = {"minilora", "matmul", "full", "torch-bf16", *both, *activated}
    assert raced(ward, "lora-qv", both) == kinds
    monkeypatch.setattr(cells, "has_bfloat16", lambda: False)
    assert raced(ward, "lora-qv", both) == kinds - {"torch-bf16"}
    assert raced(ward, "full", ()) == {"minilora", "matmul"}
    every = replace(small, labels=small.time)  # all positions are labelled: one side is enough
    assert raced(every, "full", both) == {"minilora", "matmul", "textbook", "torch"}
    assert raced(ward, "generate-1", both) == {"minilora", "matmul", "torch", "transformers"}
    assert raced(ward, "generate-1", ()) == {"minilora", "matmul"}
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    step, answer = (racing_sides(ward, jobs[j], [1, 2], both) for j in ("lora-qv", "generate-1"))
    assert {count for _, count in step} == {1} and {count for _, count in answer} == {1, 2}
    monkeypatch.setattr(about, "PEERS", ("torch", "no_such_package"))
    assert "no_such_package" in about.missing_peers()

"""`--workers`: every command that writes many answers deals them out, and writes the same ones."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from minilora import processes
from minilora.cli.app import main
from minilora.text import answers as answering
from tests.cli.conftest import pairs, write_jsonl
from tests.says import error_line, names


@pytest.fixture
def data(tmp_path):
    return write_jsonl(tmp_path / "asked.jsonl", pairs(36))


@pytest.fixture
def dealt(monkeypatch):
    """The number of processes that each batch of answers was dealt to."""
    counts, real = [], answering.side_by_side

    def spy(function, jobs, workers, done):
        counts.append(workers)
        return real(function, jobs, workers, done)

    monkeypatch.setattr(answering, "side_by_side", spy)
    return counts


def commands(base, adapter, data, folder):
    """Command -> its words but for --workers; each writes what it found to found.json."""
    base, adapter, data = map(str, (base, adapter, data))
    found = ["--base", base, "--json", str(folder / "found.json")]
    return {
        "evaluate": ["evaluate", "--data", data, "--adapter", adapter, *found],
        "gate": ["gate", "--adapter", adapter, "--task", data, *found],
        "gate, sequential": ["gate", "--adapter", adapter, "--task", data, "--sequential", *found],
        "gate, merged": ["gate", "--adapter", adapter, "--merge", "--task", data, *found],
        "gate, a model": ["gate", "--model", base, "--task", data, *found],
        "diff": ["diff", "__base__", adapter, "--data", data, "--causes", "1", *found],
        "compose": ["compose", f"a={adapter}:0.5", "--out", str(folder / "joined"),
                    "--eval", f"a={data}", *found],
    }  # fmt: skip


NAMES = tuple(commands("", "", "", Path()))


def timeless(value):
    """What a command found, without how long it took."""
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if key != "seconds"}
    return [timeless(one) for one in value] if isinstance(value, list) else value


@pytest.mark.processes
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_find_what_one_does(base, adapter, data, dealt, tmp_path, name):
    argv, found = commands(base, adapter, data, tmp_path)[name], []
    for workers in (1, 2):
        dealt.clear()
        assert main([*argv, "--workers", str(workers)]) in (0, 1, 2)
        assert dealt and set(dealt) <= {workers, 1 if name == "diff" else workers}
        assert workers in dealt
        found.append(timeless(json.loads((tmp_path / "found.json").read_text("utf-8"))))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", NAMES)
def test_without_it_there_are_as_many_as_recommended(
    base, adapter, data, dealt, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(processes, "usable_cores", lambda: 3)
    monkeypatch.setattr(processes, "uses_accelerate", lambda: False)
    assert main(commands(base, adapter, data, tmp_path)[name]) in (0, 1, 2)
    assert 3 in dealt


@pytest.mark.processes
def test_rows_are_answered_alike(base, adapter, data, dealt, capfdbinary):
    told = []
    for workers in (1, 2):
        dealt.clear()
        flags = ["--adapter", f"it={adapter}", "--max-new-tokens", "8", "--workers", str(workers)]
        rows = [json.loads(line) | {"adapter": "it"} for line in data.read_text().splitlines()]
        path = write_jsonl(data.with_name("rows.jsonl"), rows)
        assert main(["generate", "--base", str(base), "--data", str(path), *flags]) == 0
        assert dealt == [workers]
        told.append(capfdbinary.readouterr().out)
    assert told[0] == told[1] and told[0].strip()


@pytest.mark.parametrize("count", ["-1", "1000000"])
@pytest.mark.parametrize(
    "words",
    [
        *NAMES,
        ("adapt", "--data", "no.jsonl"),
        ("capstone", "--data", "no.jsonl"),
        ("tour",),
        ("pretrain",),
        ("specialists",),
        ("steering",),
        ("generate", "--data", "no.jsonl"),
    ],
    ids=lambda words: words if isinstance(words, str) else words[0],
)
def test_a_number_that_makes_no_sense_is_one_line(
    base, adapter, data, tmp_path, capsys, words, count
):
    out = tmp_path / "out"
    if isinstance(words, str):
        argv = commands(base, adapter, data, tmp_path)[words]
    else:
        argv = [*words, *(["--out", str(out)] if words[0] != "generate" else [])]
    assert main([*argv, "--workers", count]) not in (0, 2)
    assert names(error_line(capsys), "workers", count)
    assert not out.exists() and not (tmp_path / "found.json").exists()


@pytest.mark.processes
def test_a_process_that_dies_ends_it_in_one_line(base, adapter, data, tmp_path, capfd, monkeypatch):
    own, real = os.getpid(), answering.generate

    def dies(*args, **more):
        if os.getpid() != own:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **more)

    monkeypatch.setattr(answering, "generate", dies)
    argv = commands(base, adapter, data, tmp_path)["gate"]
    assert main([*argv, "--workers", "2"]) == 3
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "found.json").exists()
    assert main([*argv, "--workers", "1"]) in (0, 1, 2)  # it is the processes that die


@pytest.mark.processes
def test_stopped_by_hand_it_leaves_no_process(base, adapter, data, tmp_path, monkeypatch):
    made, real = [], processes.fork_child

    def fork(*args):
        made.append(real(*args))
        return made[-1]

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "fork_child", fork)
    monkeypatch.setattr(processes, "answer_of", stop)
    argv = commands(base, adapter, data, tmp_path)["evaluate"]
    assert main([*argv, "--workers", "2"]) == 130
    assert len(made) == 2 and not any(child.process.is_alive() for child in made)
    assert all(child.pipe.closed for child in made)

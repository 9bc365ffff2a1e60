"""The activated step's own measurement: every kind does its work, and ratios are of one round."""

from __future__ import annotations

import sys

from minilora.bench import activated_steps
from minilora.bench.workloads import shaped


def test_every_kind_is_timed_in_every_round():
    tiny = shaped("tiny", (2, 16, 2, 32), rows=4, time=12, labels=5)
    seconds = activated_steps.measure(tiny, 2)
    assert list(seconds) == ["plain", "activated", "activated, prompts kept"]
    assert all(len(times) == 2 and min(times) > 0 for times in seconds.values())


def test_ratios_are_taken_within_rounds():
    found = activated_steps.summary({"plain": [2.0, 4.0, 3.0], "activated": [1.0, 1.0, 3.0]})
    assert found["activated"] == {
        "seconds": 1.0, "plain / this": 2.0, "least": 1.0, "largest": 4.0,
    }  # fmt: skip
    assert found["plain"]["plain / this"] == 1.0


def test_without_a_workload_it_measures_w_and_r(monkeypatch, capsys):
    monkeypatch.setattr(activated_steps, "measure", lambda workload, rounds: {"plain": [1.0]})
    monkeypatch.setattr(sys, "argv", ["activated_steps"])
    activated_steps.main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["W", "R"]

"""Slow-downs: which pairs count, and a neighbour that works when told to."""

import os
import time

import pytest

from minilora.bench import busy as b
from minilora.bench import processes
from minilora.bench import workloads as w
from minilora.bench.neighbour import Neighbour
from minilora.bench.race import Turn
from minilora.machine import machine_seconds, process_seconds
from tests.says import refusal

LORA = w.JOBS["lora-qv"]


def pair(alone, busy, foreign=0.0):
    return Turn(alone, alone, 0.0), Turn(busy, busy, foreign)


def test_a_slowdown_is_the_median_of_clean_pairs(tiny):
    found = b.Busy(tiny, LORA, fair=2.0)
    found.pairs["torch@2"] = [pair(1, 2), pair(2, 10), pair(1, 3), pair(1, 40, foreign=0.3)]
    slow = found.slowdown("torch@2")
    assert slow == {"median": 3.0, "low": 2.0, "high": 5.0, "pairs": 3, "dropped": 1}
    assert found.seconds("torch@2") == (1, 3)
    found.alone, found.beside = [10.0, 30.0, 20.0], {"torch@2": [5.0, 4.0, 9.0]}
    assert found.left("torch@2") == 0.25


def test_enough_is_clean_pairs_or_three_times_as_many(tiny):
    found = b.Busy(tiny, LORA, fair=2.0)
    assert not found.enough(1)
    found.pairs = {"a": [pair(1, 2)] * 2, "b": [pair(1, 2, foreign=1.0)] * 5}
    assert not found.enough(2)
    found.pairs["b"].append(pair(1, 2, foreign=1.0))
    assert found.enough(2)


def test_no_pairs_are_refused(tiny):
    with refusal(ValueError, 1):
        b.disturb(tiny, LORA, [("minilora", 1)], 2, pairs=0)


@pytest.mark.processes
def test_the_neighbour_works_between_go_and_stop():
    neighbour = Neighbour(2)
    try:
        assert len(set(neighbour.pids)) == 2 and os.getpid() not in neighbour.pids
        assert neighbour._tell("stop") == 0  # asleep until it is told to go
        neighbour.go()
        while neighbour._tell("go") < 20:
            time.sleep(0.01)
        products, cores = neighbour.stop()
        assert products > 0 and 0 <= cores < 3  # two processes, and what clocks round
    finally:
        neighbour.close()
    assert all(process_seconds(pid) == 0.0 for pid in neighbour.pids)  # they are gone


@pytest.mark.processes
def test_own_work_is_not_foreign_and_that_of_others_is():
    if machine_seconds() is None:
        pytest.skip("this system does not tell how busy it is")
    neighbour = Neighbour(1)
    try:
        watched = (
            processes.Foreign([os.getpid(), *neighbour.pids]),
            processes.Foreign([os.getpid()]),
        )
        neighbour.go()
        while process_seconds(neighbour.pids[0]) < 0.3:
            time.sleep(0.01)
        without, within = (foreign.cores(1.0) for foreign in watched)
        assert within - without >= 0.25
    finally:
        neighbour.close()

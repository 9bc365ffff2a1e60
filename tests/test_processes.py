"""Work dealt to forked processes: order, errors, deaths, and nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from minilora import processes
from minilora.processes import fork_child, recommended_workers, send, serve, side_by_side
from tests.says import refusal

pytestmark = [
    pytest.mark.usefixtures("no_child_is_left"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system can't fork"),
]


@pytest.mark.parametrize(("cores", "recommended"), [(1, 1), (3, 3), (4, 4), (64, 4)])
def test_a_process_a_core_is_recommended_and_at_most_four(monkeypatch, cores, recommended):
    monkeypatch.setattr(processes, "usable_cores", lambda: cores)
    monkeypatch.setattr(processes, "uses_accelerate", lambda: False)
    assert recommended_workers() == recommended


def test_the_recommended_number_fits_this_machine():
    assert 1 <= recommended_workers() <= 4


def test_apples_accelerate_is_recommended_one_process(monkeypatch):
    built = {"Build Dependencies": {"blas": {"name": "accelerate"}}}
    monkeypatch.setattr(np, "show_config", lambda mode: built)
    assert recommended_workers() == 1


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_results_come_in_the_jobs_order_from_any_number_of_processes(workers):
    table, ended = np.arange(7.0), []
    found = side_by_side(lambda i: (i, table[i : i + 2]), range(7), workers, ended.append)
    assert [number for number, _ in found] == list(range(7))
    for number, part in found:
        np.testing.assert_array_equal(part, table[number : number + 2])
    assert sorted(ended) == list(range(7))


def test_jobs_are_dealt_to_several_processes_and_leave_this_one_as_it_was():
    held = [0]

    def job(number):
        held[0] += number
        return os.getpid()

    pids = side_by_side(job, [1, 2, 3, 4], 2)
    assert os.getpid() not in pids and 1 <= len(set(pids)) <= 2
    assert held == [0]
    assert side_by_side(job, [5], 2) == [os.getpid()]
    assert held == [5]


def test_a_process_without_children_of_its_own_works_alone():
    assert all(side_by_side(lambda _: len(set(side_by_side(_pid, [1, 2], 2))) == 1, [1, 2], 2))


def test_a_process_without_children_of_its_own_is_recommended_one_worker():
    assert side_by_side(lambda _: recommended_workers(), [1, 2], 2) == [1, 1]


def test_where_the_system_can_not_fork_all_is_done_here(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert side_by_side(_pid, [1, 2, 3], 3) == [os.getpid()] * 3
    assert recommended_workers() == 1


def test_results_larger_than_a_pipe_holds_come_whole():
    found = side_by_side(lambda size: np.ones(size), [1_000_000, 10, 2_000_000, 1_000_000], 2)
    assert [one.sum() for one in found] == [1_000_000, 10, 2_000_000, 1_000_000]


def _pid(_):
    return os.getpid()


def test_no_jobs_have_no_results():
    assert side_by_side(_pid, [], 3) == []


class _Odd(Exception):
    """One that no process can send to another, whatever has been taught to pickle exceptions."""

    def __init__(self, *args):
        super().__init__(*args)
        self.held = lambda: 0


@pytest.mark.parametrize(
    ("error", "kind"), [(ValueError("three"), ValueError), (_Odd("three"), RuntimeError)]
)
def test_what_a_job_raises_is_raised_here(error, kind):
    def job(number):
        if number == 3:
            raise error
        return number

    with refusal(kind, "three"):
        side_by_side(job, range(6), 2)


def test_a_result_that_can_not_be_pickled_is_an_error():
    with pytest.raises(Exception, match="pickle"):
        side_by_side(lambda _: lambda: 0, [1, 2], 2)


def test_a_process_that_dies_is_an_error():
    with refusal(ChildProcessError, -9):
        side_by_side(lambda _: os.kill(os.getpid(), signal.SIGKILL), [1, 2, 3], 2)


def test_work_for_a_process_that_has_died_is_an_error():
    child = fork_child(lambda pipe: os._exit(7), [])
    child.process.join()
    with refusal(ChildProcessError, 7):
        send(child, "work")
    child.pipe.close()


def test_a_process_sees_that_it_has_no_more_work_while_a_younger_one_still_has():
    """The younger one was forked with the elder's pipe open, and would hold it so."""
    elder = fork_child(lambda pipe: serve(pipe, _pid), [])
    younger = fork_child(lambda pipe: time.sleep(600), [elder])
    try:
        elder.pipe.close()
        elder.process.join(timeout=60)
        assert elder.process.exitcode == 0 and younger.process.is_alive()
    finally:
        for child in (elder, younger):
            child.process.kill()
            child.process.join()
            child.pipe.close()

"""What the machine says of itself, and that nothing fails where a system says less."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from minilora import machine

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_physical_cores_are_at_most_the_usable_and_these_the_logical_ones():
    assert 1 <= machine.physical_cores() <= machine.usable_cores() <= machine.logical_cores()


@LINUX
def test_memory_is_ordered():
    assert 0 < machine.resident_memory() <= machine.peak_memory() < machine.total_memory()
    assert machine.process_memory(os.getpid())["VmRSS"] > 0


@LINUX
def test_work_is_counted():
    before, whole = machine.process_seconds(os.getpid()), machine.machine_seconds()
    began = time.process_time()
    while time.process_time() - began < 0.2:
        pass
    assert machine.process_seconds(os.getpid()) - before >= 0.1
    assert machine.machine_seconds() >= whole
    assert machine.system_seconds()[1] > 0


def test_a_process_that_is_gone_has_used_nothing():
    assert machine.process_seconds(2**22 + 1) == 0.0
    assert machine.process_memory(2**22 + 1) == {}


def test_a_system_that_says_nothing_breaks_nothing(monkeypatch):
    """No /proc, no resource, no affinity, no sysconf: as on Windows."""

    def missing(self, *args, **kwargs):
        raise OSError(2, "No such file or directory", str(self))

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(machine, "_resource", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert machine.physical_cores() == machine.usable_cores() == machine.logical_cores() >= 1
    assert machine.peak_memory() is machine.peak_child_memory() is machine.total_memory() is None
    assert machine.resident_memory() is machine.machine_seconds() is None
    assert machine.process_seconds(1) == 0.0
    seconds, faults = machine.system_seconds()
    assert isinstance(seconds, float) and faults is None
    assert isinstance(machine.cpu_name(), str)

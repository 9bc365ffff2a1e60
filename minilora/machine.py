"""What this machine has and what processes use of it: cores, memory, processor time.

The one place that asks the system. Linux tells most of it in /proc; where a system does not say,
the answer is None (or the best that there is), and nothing here fails on Windows or macOS.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path
from types import ModuleType

KIB = 1024
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

# ------------------------------------------------------------------------------------------- cores


def logical_cores() -> int:
    """Cores of the machine, hyper-threads counted each."""
    return os.cpu_count() or 1


def usable_cores() -> int:
    """Cores that this process may run on, hyper-threads counted each."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical_cores()


def physical_cores() -> int:
    """Cores that this process may run on, hyper-threads of one core counted once.

    Where the system does not say which belong together, as `usable_cores`.
    """
    if not hasattr(os, "sched_getaffinity"):
        return logical_cores()
    allowed = os.sched_getaffinity(0)
    groups = set()
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            groups.add(path.read_text().strip())
        except OSError:
            return len(allowed)
    return len(groups)


def cpu_name() -> str:
    """The processor, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; False where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = {
        flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()
    }
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


# ------------------------------------------------------------------------------------------ memory


def total_memory() -> int | None:
    """Bytes of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def process_memory(pid: int | str = "self") -> dict[str, int]:
    """Linux's memory fields of a process in bytes (VmRSS, VmHWM, RssAnon, ...); {} elsewhere."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(value) * KIB for name, value, _ in fields}


def resident_memory() -> int | None:
    """Bytes that this process holds now."""
    return process_memory().get("VmRSS")


def peak_memory() -> int | None:
    """The most bytes that this process has held, since its start or a reset of the peak."""
    return process_memory().get("VmHWM") or _peak_of("RUSAGE_SELF")


def peak_child_memory() -> int | None:
    """The most bytes that one of its ended children held; 0 where none has ended.

    A forked child shares its parent's arrays, and they count in both.
    """
    return _peak_of("RUSAGE_CHILDREN")


def _resource() -> ModuleType | None:
    """The standard library's resource, which Windows does not have."""
    try:
        return importlib.import_module("resource")
    except ImportError:
        return None


def _peak_of(who: str) -> int | None:
    resource = _resource()
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else KIB
    return resource.getrusage(getattr(resource, who)).ru_maxrss * unit


# ---------------------------------------------------------------------------------- processor time


def machine_seconds() -> float | None:
    """Core seconds that the machine has worked since it started."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_A_SECOND


def process_seconds(pid: int) -> float:
    """Core seconds that a process has used; 0 where that is not known or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def system_seconds() -> tuple[float, int | None]:
    """(core seconds that the system spent on this process, its page faults).

    The faults are None where the system does not count them, as on Windows.
    """
    resource = _resource()
    if resource is None:
        return os.times().system, None
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_stime, usage.ru_minflt

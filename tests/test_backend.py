from __future__ import annotations

import os
import subprocess
import sys
import types

import numpy as np
import pytest

from minilora import backend
from tests.says import refusal


class DeviceArray:
    """Stands for cupy.ndarray: its bytes come to the host only by get()."""

    def __init__(self, array):
        self.array = np.array(array)

    def get(self):
        return self.array.copy()


@pytest.fixture
def cupy(monkeypatch):
    """A stand-in module named cupy, with one device."""
    module = types.ModuleType("cupy")
    module.ndarray = DeviceArray
    module.asarray = DeviceArray
    pool = types.SimpleNamespace(used_bytes=lambda: 3, total_bytes=lambda: 7)
    module.get_default_memory_pool = lambda: pool
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 1, memGetInfo=lambda: (5, 11))
    module.cuda = types.SimpleNamespace(runtime=runtime)
    monkeypatch.setitem(sys.modules, "cupy", module)
    backend.is_gpu_available.cache_clear()
    yield module
    backend.is_gpu_available.cache_clear()


@pytest.fixture
def no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it now raises ImportError
    backend.is_gpu_available.cache_clear()
    yield
    backend.is_gpu_available.cache_clear()


@pytest.fixture
def no_override(monkeypatch):
    for name in ("MINILORA_THREADS", "OPENBLAS_NUM_THREADS", "MINILORA_BLAS_DEFAULT"):
        monkeypatch.delenv(name, raising=False)


def test_module_follows_the_array(cupy):
    assert backend.get_array_module(DeviceArray([1.0])) is cupy
    assert backend.get_array_module(np.ones(3)) is np
    assert backend.get_array_module(2.5) is np


def test_round_trip_through_the_device(cupy):
    x = np.arange(5, dtype=np.float32)
    there = backend.to_device(x, "gpu")
    assert isinstance(there, DeviceArray)
    assert backend.to_device(there, "gpu") is there
    back = backend.to_device(there, "cpu")
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, x)


def test_host_arrays_are_not_copied(no_cupy):
    x = np.ones(3, dtype=np.float32)
    assert backend.to_device(x, "cpu") is x
    assert backend.to_numpy(x) is x


def test_gpu_without_cupy_is_a_clear_error(no_cupy):
    assert not backend.is_gpu_available()
    with refusal(ValueError, "CuPy", "CUDA"):
        backend.to_device(np.ones(3), "gpu")
    with refusal(ValueError, "CuPy", "CUDA"):
        backend.device_memory("gpu")


@pytest.mark.parametrize("function", [lambda d: backend.to_device(1.0, d), backend.device_memory])
def test_unknown_device_is_named(function):
    with refusal(ValueError, "tpu"):
        function("tpu")


def test_a_broken_driver_means_no_gpu(cupy):
    def fail():
        raise RuntimeError("cudaErrorInsufficientDriver")

    cupy.cuda.runtime.getDeviceCount = fail
    assert not backend.is_gpu_available()


def test_device_memory(cupy):
    assert backend.device_memory("gpu") == (3, 7, 11)


@pytest.mark.processes
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_host_memory_grows_with_an_array():
    code = """
import numpy as np
from minilora import backend
before = backend.device_memory()
big = np.ones(8_000_000)
after = backend.device_memory()
print(after.used - before.used, big.nbytes, after.used <= after.peak < after.total)
"""  # in a process of its own: here an array may take memory that was freed and kept
    told = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert int(told[0]) > 0.8 * int(told[1])
    assert told[2] == "True"


@pytest.mark.parametrize(
    ("hidden_size", "cores", "threads"),
    [(1, 8, 1), (511, 8, 1), (512, 2, 2), (576, 1, 1), (768, 8, 4)],
)
def test_threads_follow_the_width(monkeypatch, no_override, hidden_size, cores, threads):
    monkeypatch.setattr(backend.machine, "physical_cores", lambda: cores)
    assert backend.recommended_blas_threads(hidden_size) == threads


def test_the_user_overrides_the_rule(monkeypatch, no_override):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")
    assert backend.recommended_blas_threads(64) == 5
    monkeypatch.setenv("MINILORA_THREADS", "3")
    assert backend.recommended_blas_threads(64) == 3
    assert backend.blas_threads_override() == ("MINILORA_THREADS", 3)


def test_our_own_default_is_no_override(monkeypatch, no_override):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setenv("MINILORA_BLAS_DEFAULT", "1")
    assert backend.blas_threads_override() is None


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5"])
def test_a_bad_override_is_named(monkeypatch, no_override, text):
    monkeypatch.setenv("MINILORA_THREADS", text)
    with refusal(ValueError, "MINILORA_THREADS", text):
        backend.recommended_blas_threads(64)


@pytest.mark.parametrize("size", [0, -3])
def test_a_bad_width_is_named(size):
    with refusal(ValueError, size):
        backend.recommended_blas_threads(size)


def test_blas_threads_are_set_and_put_back():
    before = backend.current_blas_threads()
    with pytest.raises(KeyError), backend.blas_threads(2):
        assert backend.current_blas_threads() == 2
        raise KeyError
    assert backend.current_blas_threads() == before
    with refusal(ValueError, 0), backend.blas_threads(0):
        pass


SHOW = "from minilora.backend import current_blas_threads as n; print(n())"


@pytest.mark.processes
@pytest.mark.parametrize("first", ["", "import numpy; "])
@pytest.mark.parametrize(
    ("settings", "threads"),
    [({}, 1), ({"MINILORA_THREADS": "2"}, 2), ({"OPENBLAS_NUM_THREADS": "2"}, 2)],
)
def test_importing_minilora_sets_the_threads(no_override, first, settings, threads):
    if (os.cpu_count() or 1) < 2:
        pytest.skip("with one core every answer is 1")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        settings = {name: "2", **settings}
    done = subprocess.run(
        [sys.executable, "-c", first + "import minilora; " + SHOW],
        env={**os.environ, **settings}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) == threads


@pytest.mark.processes
def test_importing_minilora_is_light():
    code = (
        "import minilora, sys; print(sorted({'numpy', 'matplotlib', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.processes
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is Linux's")
def test_freed_memory_is_kept_for_the_next_array():
    code = """
import resource, numpy as np
from minilora import backend
if KEEP: assert backend.keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5): [np.ones(1_000_000) for _ in range(12)]  # like a step: many, then none
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    counts = [
        int(subprocess.check_output([sys.executable, "-c", code.replace("KEEP", str(keep))]))
        for keep in (True, False)
    ]
    assert counts[0] < 200 < counts[1]

"""The stand-in refuses what CuPy refuses, counts what makes the host wait, and computes right."""

from __future__ import annotations

import copy
import importlib.util
import pickle

import numpy as np
import pytest

from minilora.backend import get_array_module, is_gpu_available, to_device, to_numpy
from tests.device import record_cupy_api, strict_cupy
from tests.device.strict_cupy import counted

HOST = np.arange(6, dtype=np.float32).reshape(2, 3)

# name -> (what is tried with xp and a device array, the error, words of its message)
MISUSES = {
    "host array added": (lambda xp, d: d + HOST, TypeError, "Unsupported type"),
    "added to host array": (lambda xp, d: HOST + d, TypeError, "Unsupported type"),
    "host array added in place": (lambda xp, d: d.__iadd__(HOST), TypeError, "Unsupported"),
    "into a host array in place": (lambda xp, d: HOST.copy().__iadd__(d), TypeError, "ufuncs"),
    "0-d host array": (lambda xp, d: d * np.array(2.0), TypeError, "Unsupported type"),
    "host array in a ufunc": (lambda xp, d: xp.multiply(d, HOST), TypeError, "Unsupported"),
    "host array in matmul": (lambda xp, d: d @ HOST.T, TypeError, "Unsupported type"),
    "host array in a list": (lambda xp, d: xp.concatenate([d, HOST]), TypeError, "host array"),
    "host array compared": (lambda xp, d: d == HOST, TypeError, "Unsupported type"),
    "host array assigned": (lambda xp, d: d.__setitem__(slice(None), HOST), TypeError, "assigned"),
    "host index": (lambda xp, d: d[np.array([0, 1])], TypeError, "indices on the host"),
    "list in a ufunc": (lambda xp, d: xp.exp([1.0, 2.0]), TypeError, "Unsupported type"),
    "host out": (lambda xp, d: xp.exp(d, out=HOST.copy()), TypeError, "out must be"),
    "np.asarray": (lambda xp, d: np.asarray(d), TypeError, "Implicit conversion"),
    "np.exp": (lambda xp, d: np.exp(d), TypeError, "ufuncs"),
    "np.sum": (lambda xp, d: np.sum(d), TypeError, "device array"),
    "np.concatenate": (lambda xp, d: np.concatenate([d, d]), TypeError, "device array"),
    "host slice assigned from the device": (
        lambda xp, d: HOST.copy().__setitem__(0, d[0]), TypeError, "Implicit conversion",
    ),
    "sum(where=)": (lambda xp, d: xp.sum(d, where=d > 1), TypeError, "'where'"),
    "max(initial=) as a method": (lambda xp, d: d.max(initial=0), TypeError, "'initial'"),
    "clip(min=)": (lambda xp, d: xp.clip(d, min=0), TypeError, "'min'"),
    "take(mode=)": (lambda xp, d: xp.take(d, xp.arange(2), mode="clip"), TypeError, "'mode'"),
    "sort(stable=)": (lambda xp, d: xp.sort(d, stable=True), TypeError, "'stable'"),
    "matmul by keyword": (lambda xp, d: xp.matmul(x1=d, x2=d.T), TypeError, "'x1'"),
    "einsum(out=)": (lambda xp, d: xp.einsum("ij->i", d, out=d[:, 0]), TypeError, "'out'"),
    "zeros(like=)": (lambda xp, d: xp.zeros((2,), like=d), TypeError, "'like'"),
    "maximum.reduce": (lambda xp, d: xp.maximum.reduce(d), NotImplementedError, "reduce"),
    "add.reduceat": (lambda xp, d: xp.add.reduceat(d, [0, 1]), AttributeError, "reduceat"),
    "exp.at": (lambda xp, d: xp.exp.at(d, xp.arange(2)), NotImplementedError, "at"),
    "add.at on float16": (
        lambda xp, d: xp.add.at(d.astype(np.float16), xp.arange(2), 1.0), TypeError, "float16",
    ),
    "vecdot": (lambda xp, d: xp.vecdot(d, d), AttributeError, "vecdot"),
    "errstate": (lambda xp, d: xp.errstate(all="ignore"), AttributeError, "errstate"),
    "random": (lambda xp, d: xp.random.default_rng(0), AttributeError, "random"),
    "writeable flag": (lambda xp, d: d.flags.writeable, AttributeError, "writeable"),
    "writeable flag set": (
        lambda xp, d: setattr(d.flags, "writeable", False), AttributeError, "writeable",
    ),
    "strings": (lambda xp, d: xp.asarray(["a"]), ValueError, "dtype"),
    "pickle": (lambda xp, d: pickle.dumps(d), TypeError, "pickle"),
    "as a key": (lambda xp, d: {d: 1}, TypeError, "unhashable"),
    "own attribute": (lambda xp, d: setattr(d, "name", 1), AttributeError, "name"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISUSES)
def test_a_misuse_is_refused(cupy, name):
    attempt, error, words = MISUSES[name]
    device = cupy.asarray(HOST)
    with pytest.raises(error, match=words):
        attempt(cupy, device)
    np.testing.assert_array_equal(device.get(), HOST)


READS = {
    "float": lambda xp, d: float(d[0, 0]),
    "int": lambda xp, d: int(d[0, 0]),
    "bool": lambda xp, d: bool(d[0, 0]),
    "if": lambda xp, d: 1 if d[0, 0] < 3 else 0,
    "item": lambda xp, d: d.sum().item(),
    "tolist": lambda xp, d: d.tolist(),
    "get": lambda xp, d: d.get(),
    "asnumpy": lambda xp, d: xp.asnumpy(d),
    "print": lambda xp, d: print(d),
    "repr": lambda xp, d: repr(d),
    "format": lambda xp, d: f"{d[0, 0]:.3f}",
    "as an index": lambda xp, d: [1, 2][d[0, 0].astype(np.int64)],
    "max() of Python": lambda xp, d: max(d[0, 0], d[0, 1]),
    "boolean index": lambda xp, d: d[d > 1],
    "flatnonzero": lambda xp, d: xp.flatnonzero(d > 1),
    "where with a condition only": lambda xp, d: xp.where(d > 1),
    "nonzero as a method": lambda xp, d: d.nonzero(),
}


@pytest.mark.parametrize("name", READS)
def test_a_read_is_counted_once(cupy, name):
    device = cupy.asarray(HOST)
    with counted() as waits:
        READS[name](cupy, device)
    assert waits.total() == 1, waits


def test_computing_makes_nobody_wait(cupy):
    device = cupy.asarray(HOST)
    with counted() as waits:
        total = (device * 2 + np.float32(1) * device - 1.0).sum(axis=0, keepdims=True).mean()
        rows = device[cupy.asarray(np.array([1, 0]))]
        rows[:, 0] = total
        rows += 1
        _ = copy.deepcopy(rows).T, len(rows), np.shape(rows), rows.nbytes, cupy.tanh(rows)
    assert not waits
    expected = HOST[[1, 0]]
    expected[:, 0] = (HOST * 3 - 1).sum(axis=0).mean()
    np.testing.assert_array_equal(rows.get(), expected + 1)


def test_results_are_device_arrays_of_no_axis(cupy):
    device = cupy.asarray(HOST)
    values = (
        device.sum(),
        device[0, 1],
        cupy.vdot(device, device),
        cupy.array_equal(device, device),
    )
    for value in (*values, device.argmax(), cupy.count_nonzero(device)):
        assert isinstance(value, cupy.ndarray) and value.shape == ()
    assert device.sum().dtype == np.float32 and (device * 0.5).dtype == np.float32
    assert (device * np.float64(0.5)).dtype == np.float64  # a NumPy scalar widens, as in NumPy 2


def test_arrays_keep_their_identity_and_their_base(cupy):
    device = cupy.asarray(HOST)
    assert cupy.asarray(device) is device and device.astype(np.float32, copy=False) is device
    assert cupy.exp(device, out=device) is device
    assert cupy.array(device) is not device and device.copy().base is None
    assert device.T.base is not None and device[:1].base is not None and (device + 1).base is None
    row = device[0]
    row += 5
    assert device[0, 0].item() == row[0].item()


def test_the_seam_sees_the_stand_in(cupy):
    assert is_gpu_available()
    device = to_device(HOST, "gpu")
    assert get_array_module(device) is cupy and to_device(device, "gpu") is device
    np.testing.assert_array_equal(to_numpy(device), HOST)
    device += 1
    assert HOST[0, 0] == 0  # a copy, not a view of the host's memory


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="needs CuPy, not a GPU")
def test_the_record_is_that_of_the_installed_cupy():
    found = record_cupy_api.record()
    if found["cupy"] != strict_cupy.RECORDED["cupy"]:
        pytest.skip(f"recorded {strict_cupy.RECORDED['cupy']}, installed {found['cupy']}")
    assert found == strict_cupy.RECORDED

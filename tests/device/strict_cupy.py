"""A stand-in for CuPy on the CPU that is at least as strict, for machines without a GPU.

Its arrays hold a NumPy array that nobody can reach without `get()`. Names and keywords are those
of the recorded CuPy (cupy_api.json), host and device arrays never mix, reductions stay 0-d
arrays, and everything that would make the host wait for a GPU is counted. Stricter than CuPy: no
NumPy function takes these arrays (CuPy lets some through), no index array may be on the host, and
`cupy.random` is missing, because the library draws on the host.

It proves which device a number is on and who asked for it. It proves nothing about rounding,
memory, the order of atomics, or kernels.
"""

from __future__ import annotations

import contextlib
import json
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

RECORDED = json.loads(Path(__file__).with_name("cupy_api.json").read_text())
NAMES: dict[str, str] = RECORDED["names"]
SCALARS = (bool, int, float, complex, np.generic)
CREATORS = {"array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray"}
PLAIN = {"zeros", "ones", "empty", "full", "arange", "linspace", "eye", "identity", "tri"}
DATA_SIZED = {"nonzero", "flatnonzero", "argwhere", "unique", "compress", "extract", "bincount"}
ABOUT_TYPES = {"can_cast", "result_type", "shape", "ndim", "size", "isscalar", "broadcast_shapes"}
CONSTANTS = {"pi", "e", "inf", "nan", "newaxis", "euler_gamma"}

syncs: Counter[str] = Counter()
"""What made the host wait, since the counter was last cleared."""


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Inside the `with`, a counter of the waits that begin there."""
    before, found = Counter(syncs), Counter()
    try:
        yield found
    finally:
        found.update(syncs - before)


def _wait(reason: str) -> None:
    syncs[reason] += 1


# ----------------------------------------------------------------------------- host and device


def to_host(value: object) -> object:
    """Device arrays in an argument as NumPy arrays; refuses host arrays at any depth."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: a host array among device arrays")
    if isinstance(value, (list, tuple)):
        return type(value)(to_host(x) for x in value)
    return value


def to_device(result: object, arguments: tuple = ()) -> object:
    """NumPy's result as device arrays; an argument's own array comes back as that argument."""
    if isinstance(result, (np.ndarray, *SCALARS)):
        for argument in arguments:
            if isinstance(argument, ndarray) and argument._host is result:
                return argument
        return ndarray(result)
    if isinstance(result, (list, tuple)):
        return tuple(to_device(x) for x in result)
    return result


def _run(function: Callable, args: tuple, kwargs: dict) -> object:
    with np.errstate(all="ignore"):  # a GPU gives no warnings
        result = function(*to_host(args), **{k: to_host(v) for k, v in kwargs.items()})
    outs = kwargs.get("out")
    outs = outs if isinstance(outs, tuple) else (outs,)
    return to_device(result, (*args, *outs))


def _check_keywords(name: str, args: tuple, kwargs: dict, extra: tuple[str, ...] = ()) -> None:
    recorded = NAMES[name]
    if recorded == "...":
        return
    known = ("out", "dtype", "casting") if recorded == "ufunc" else tuple(recorded.split())
    for key in kwargs:
        if key not in known + extra:
            raise TypeError(f"cupy.{name}() got an unexpected keyword argument {key!r}")
    if recorded != "ufunc" and "*" not in known and len(args) > len(known):
        raise TypeError(f"cupy.{name}() takes {len(known)} arguments, got {len(args)}")


def _check_out(name: str, kwargs: dict) -> None:
    outs = kwargs.get("out")
    for out in outs if isinstance(outs, tuple) else (outs,):
        if out is not None and not isinstance(out, ndarray):
            raise TypeError(f"cupy.{name}: out must be a device array, got {type(out)}")


def _index(index: object) -> object:
    if isinstance(index, tuple):
        return tuple(_index(part) for part in index)
    if isinstance(index, ndarray):
        if index.dtype == bool:
            _wait("boolean index")
        return index._host
    if isinstance(index, (np.ndarray, list)):
        raise TypeError(f"indices on the host ({type(index)}) for a device array")
    return index


# ----------------------------------------------------------------------------------- the array


class Flags(NamedTuple):
    """What CuPy tells of an array's memory; there is no `writeable`."""

    c_contiguous: bool
    f_contiguous: bool
    owndata: bool


class ndarray:
    """A device array: shape and dtype may be asked freely, values only by waiting."""

    __slots__ = ("__weakref__", "_host")
    __hash__ = None
    __array_ufunc__ = None  # NumPy's functions refuse it; operators come to the methods below

    def __init__(self, host: object) -> None:
        self._host = np.asarray(host)
        if self._host.dtype.kind not in "biufc":
            raise ValueError(f"Unsupported dtype {self._host.dtype}")

    # -- the host asks -------------------------------------------------------------------------

    def __array__(self, *_: object, **__: object) -> None:
        raise TypeError("Implicit conversion to a NumPy array is not allowed; use `.get()`")

    def __array_function__(self, function: Callable, _: object, args: tuple, __: dict) -> object:
        if function in (np.shape, np.ndim, np.size):
            return function(args[0]._host)
        raise TypeError(f"numpy.{function.__name__} got a device array")

    def __reduce__(self) -> None:
        raise TypeError("got a device array to pickle; save host arrays")

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self._host)))

    def __format__(self, spec: str) -> str:
        _wait("format")
        return format(self._host.item(), spec) if self._host.ndim == 0 else str(self._host)

    # -- the device computes -------------------------------------------------------------------

    def __getitem__(self, index: object) -> ndarray:
        return ndarray(self._host[_index(index)])

    def __setitem__(self, index: object, value: object) -> None:
        if not isinstance(value, (ndarray, *SCALARS)):
            raise TypeError(f"a device array can't be assigned from {type(value)}")
        self._host[_index(index)] = to_host(value)

    def __copy__(self) -> ndarray:
        return ndarray(self._host.copy())

    def __deepcopy__(self, _: dict) -> ndarray:
        return ndarray(self._host.copy())

    def __getattr__(self, name: str) -> object:
        recorded = NAMES.get(f"ndarray.{name}") if not name.startswith("_") else None
        if recorded is None or not hasattr(self._host, name):
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        if recorded == "attribute":
            return self._attribute(name)

        def method(*args: object, **kwargs: object) -> object:
            _check_keywords(f"ndarray.{name}", args, kwargs)
            _check_out(name, kwargs)
            if name in DATA_SIZED:
                _wait(name)
            bound = getattr(self._host, name)
            result = _run(bound, args, {k: v for k, v in kwargs.items() if v is not None})
            unchanged = isinstance(result, ndarray) and result._host is self._host
            return self if unchanged else result

        return method

    def _attribute(self, name: str) -> object:
        if name == "flags":
            flags = self._host.flags
            return Flags(flags.c_contiguous, flags.f_contiguous, flags.owndata)
        if name == "base":
            return None if self._host.base is None else ndarray(self._host.base)
        if name in ("data", "device", "flat"):
            raise AttributeError(f"the stand-in has no {name}")
        value = getattr(self._host, name)
        return ndarray(value) if isinstance(value, np.ndarray) else value


def _reader(name: str, read: Callable) -> Callable:
    def method(self: ndarray) -> object:
        _wait(name)
        return read(self._host)

    return method


READERS: dict[str, Callable] = {
    "get": np.copy, "item": np.ndarray.item, "tolist": np.ndarray.tolist,
    "tobytes": np.ndarray.tobytes, "__float__": float, "__int__": int, "__bool__": bool,
    "__index__": np.ndarray.__index__, "__complex__": complex, "__repr__": repr, "__str__": str,
}  # fmt: skip
for _name, _read in READERS.items():
    setattr(ndarray, _name, _reader(_name.strip("_"), _read))


def _operator(function: np.ufunc, swapped: bool, in_place: bool) -> Callable:
    def method(self: ndarray, other: object) -> object:
        if not isinstance(other, (ndarray, *SCALARS)):
            if isinstance(other, (np.ndarray, list, tuple)):
                raise TypeError(f"Unsupported type {type(other)} beside a device array")
            return NotImplemented
        operands = (other, self) if swapped else (self, other)
        return _run(function, operands, {"out": self} if in_place else {})

    return method


OPERATORS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide,
    "floordiv": np.floor_divide, "mod": np.remainder, "pow": np.power, "matmul": np.matmul,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip
COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
for _name, _ufunc in OPERATORS.items():
    setattr(ndarray, f"__{_name}__", _operator(_ufunc, False, False))
    setattr(ndarray, f"__r{_name}__", _operator(_ufunc, True, False))
    setattr(ndarray, f"__i{_name}__", _operator(_ufunc, False, True))
for _name, _ufunc in COMPARISONS.items():
    setattr(ndarray, f"__{_name}__", _operator(_ufunc, False, False))
for _name, _ufunc in {"neg": np.negative, "abs": np.absolute, "invert": np.invert}.items():
    setattr(ndarray, f"__{_name}__", lambda self, f=_ufunc: _run(f, (self,), {}))


# ---------------------------------------------------------------------------------- the module


class Function:
    """A function or ufunc of the recorded table."""

    def __init__(self, name: str, function: Callable) -> None:
        self.name, self.function = name, function

    def __call__(self, *args: object, **kwargs: object) -> object:
        _check_keywords(self.name, args, kwargs)
        _check_out(self.name, kwargs)
        last = self.name.rpartition(".")[2]
        if NAMES[self.name] == "ufunc" or last in ("matmul", "where"):
            self._check_operands(args)
        if last in PLAIN and any(isinstance(x, (ndarray, np.ndarray)) for x in args):
            raise TypeError(f"cupy.{last} got an array, expected plain numbers")
        if last in DATA_SIZED or (last == "where" and len(args) == 1):
            _wait(last)
        if last in ABOUT_TYPES:
            return self.function(*to_host(args), **kwargs)
        return _run(self.function, args, kwargs)

    def _check_operands(self, args: tuple) -> None:
        for arg in args:
            if not isinstance(arg, (ndarray, *SCALARS)) and arg is not None:
                raise TypeError(f"cupy.{self.name}: Unsupported type {type(arg)}")

    def at(self, a: ndarray, indices: object, b: object = None) -> None:
        """Unbuffered in-place operation, for the ufuncs and dtypes that CuPy has it for."""
        if self.name not in RECORDED["ufuncs_with_at"]:
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        if a.dtype.name not in ("int32", "int64", "uint32", "uint64", "float32", "float64"):
            raise TypeError(f"{self.name}.at got {a.dtype}")
        self.function.at(a._host, _index(indices), to_host(b))

    def reduce(self, array: ndarray, axis: int = 0, **kwargs: object) -> object:
        """Only sums and products can be reduced with a ufunc."""
        if self.name not in ("add", "multiply"):
            raise NotImplementedError(f"`{self.name}.reduce` is not supported yet")
        _check_keywords("sum", (), kwargs)
        return _run(self.function.reduce, (array, axis), kwargs)


def _create(name: str) -> Callable:
    """array, asarray and their kind: the way from the host to the device."""

    def create(a: object, dtype: object = None, **kwargs: object) -> ndarray:
        _check_keywords(name, (), kwargs)
        if isinstance(a, (list, tuple)) and any(isinstance(x, np.ndarray) for x in a):
            raise TypeError(f"cupy.{name} got a list of host arrays")
        copies = name == "array" and kwargs.get("copy") in (True, None)
        if isinstance(a, ndarray):
            laid_out = not name.startswith("asc") or a.flags.c_contiguous
            if not copies and dtype in (None, a.dtype) and laid_out:
                return a
            return ndarray(np.array(a._host, dtype=dtype))
        if isinstance(a, (list, tuple)):
            a = to_host(a)
        return ndarray(np.array(a, dtype=dtype))

    return create


def _asnumpy(a: object) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


class Namespace(types.ModuleType):
    """cupy, or cupy.linalg: exactly the recorded names that NumPy can stand for."""

    def __init__(self, name: str, prefix: str, source: types.ModuleType) -> None:
        super().__init__(name)
        self._prefix, self._source = prefix, source

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        source = getattr(self._source, name, None)
        if isinstance(source, type) and issubclass(source, np.generic):
            return source
        if name in CONSTANTS:
            return source
        full = self._prefix + name
        if full not in NAMES or not callable(source):
            raise AttributeError(f"module 'cupy' has no attribute {full!r}")
        return _create(name) if full in CREATORS else Function(full, source)


class Event:
    """A CUDA event: it has a time once it is recorded, and may be read once it is waited for."""

    def __init__(self) -> None:
        self.time: float | None = None

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        if self.time is None:
            raise RuntimeError("an event is waited for that was never recorded")
        syncs["event"] += 1


def _elapsed(start: Event, end: Event) -> float:
    """Milliseconds."""
    if start.time is None or end.time is None:
        raise RuntimeError("an event is read that was never recorded")
    return 1000 * (end.time - start.time)


def make_cupy() -> types.ModuleType:
    """A module to put in sys.modules as cupy; it has one device."""
    module = Namespace("cupy", "", np)
    module.__version__ = f"{RECORDED['cupy']} (stand-in)"
    module.ndarray, module.asnumpy = ndarray, _asnumpy
    module.linalg = Namespace("cupy.linalg", "linalg.", np.linalg)
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1, getDeviceProperties=lambda number: {"name": b"stand-in"}
    )
    module.cuda = types.SimpleNamespace(
        runtime=runtime, is_available=lambda: True, Event=Event, get_elapsed_time=_elapsed
    )
    return module

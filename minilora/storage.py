"""Files that appear whole, fingerprints, and the one reader of JSON and of safetensors."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import mmap
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minilora.backend import Array, to_numpy

if TYPE_CHECKING:
    from filelock import FileLock

# What a folder of ours (adapter, model, checkpoint) may hold; others are never replaced.
OUR_SUFFIXES = {".safetensors", ".json", ".jsonl", ".jinja", ".md", ".txt", ".model"}

TEMPORARY = ".tmp"

# JSON takes up to 20 times its size as Python's objects, and no file of settings is so long.
JSON_LIMIT = 16 << 20

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


# ---------------------------------------------------------------------------------- atomic writing


def require_place(option: str, path: Path | None) -> None:
    """Raise ValueError unless a file can be put at `path`; None asks for none.

    Called before minutes are spent on what goes into the file.
    """
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ValueError(f"got {option} {path}, expected a file in a folder that is there")


def atomic_write(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a kill, sees the old file or the new one.

    The bytes go to a file beside it, reach the disk, and take the name in one step. Missing
    parent folders are made. A symbolic link stays, and what it points to is written.

    Raises OSError naming `path`, also where the system names no file, as for a full disk.
    """
    with _in_place_of(path) as (place, temporary):
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
        _sync_folder(place.parent)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `path` when the `with` ends well and vanishes otherwise.

    An existing `path` is replaced if it is empty or a folder of ours: plain files with the
    suffixes of OUR_SUFFIXES, one of them .safetensors. On Linux the exchange is a single step;
    elsewhere a kill between its two renames leaves the old folder as `.NAME.previous`, which the
    next call puts back. A symbolic link stays, and the folder that it points to is replaced.

    Raises ValueError, before anything is written, when `path` is something else, and OSError as
    `atomic_write` does.
    """
    with _in_place_of(path) as (place, temporary):
        previous = place.parent / f".{place.name}.previous"
        if previous.exists() and not place.exists():
            os.rename(previous, place)
        _require_replaceable(place, Path(path))
        temporary.mkdir()
        yield temporary
        for folder, _, files in os.walk(temporary, topdown=False):
            for name in files:
                _sync_file(Path(folder) / name)
            _sync_folder(Path(folder))
        _put_in_place(temporary, place, previous)  # `temporary` is now the old folder, if any
        _sync_folder(place.parent)


def real_place(path: str | Path) -> Path:
    """`path`, or what it points to where it is a symbolic link, also one that leads nowhere yet.

    Raises OSError for links that point to each other in a circle.
    """
    path = Path(path)
    if not path.is_symlink():
        return path
    place = Path(os.path.realpath(path))
    if place.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return place


@contextlib.contextmanager
def _in_place_of(path: str | Path) -> Iterator[tuple[Path, Path]]:
    """(the place that is written, a new name beside it, so that one rename moves there).

    The name is this process's alone, and nothing of it is left in the end. What killed processes
    left beside the place goes: who uses such a name holds a lock, which ends with the process.
    """
    place = path = Path(path)
    temporary = None
    lock = None
    try:
        place = real_place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        _sweep(place)
        temporary = place.parent / f".{place.name}.{secrets.token_hex(6)}{TEMPORARY}"
        lock = _try_lock(temporary)
        yield place, temporary
    except OSError as error:
        _name_path(error, path, place, temporary)
        raise
    finally:
        if temporary is not None:
            _remove(temporary)
            _unlock(temporary, lock)


def _sweep(place: Path) -> None:
    """Remove the temporary files and folders of `place` whose process is dead."""
    # Several endings where a temporary folder was itself being replaced.
    pattern = re.compile(rf"\.+{re.escape(place.name)}(\.[0-9a-f]{{12}}{re.escape(TEMPORARY)})+")
    with contextlib.suppress(OSError):  # a folder that can be written and not be listed
        for entry in place.parent.iterdir():
            if pattern.fullmatch(entry.name) and (lock := _try_lock(entry)):
                _remove(entry)
                _unlock(entry, lock)


def _try_lock(temporary: Path) -> FileLock | None:
    """The lock of a temporary name; None where another holds it, or the disk knows no locks."""
    from filelock import FileLock  # here, since whoever only reads need not wait for it

    lock = FileLock(f"{temporary}.lock")
    try:
        lock.acquire(blocking=False)
    except (OSError, NotImplementedError):  # Timeout is an OSError
        return None
    return lock


def _unlock(temporary: Path, lock: FileLock | None) -> None:
    if lock is not None:
        lock.release()
        with contextlib.suppress(OSError):
            os.unlink(f"{temporary}.lock")


def _remove(path: Path) -> None:
    """Remove a file or folder of ours as far as the system lets us."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _name_path(error: OSError, path: Path, place: Path, temporary: Path | None) -> None:
    """Let an error name what the caller wrote, not a temporary name, a link's target or nothing."""
    if error.errno is None:
        return
    if not isinstance(error.filename, (str, bytes)):
        error.filename = str(path)
        return
    named = Path(os.fsdecode(error.filename))
    if temporary is not None and named.is_relative_to(temporary):
        error.filename = str(path / named.relative_to(temporary))
    elif place != path and (place.is_relative_to(named) or named.is_relative_to(place)):
        error.filename = str(path)


def _require_replaceable(place: Path, path: Path) -> None:
    if not place.exists():
        return
    if not place.is_dir():
        raise ValueError(f"expected {path} to be a folder or absent, got a file")
    entries = list(place.iterdir())
    foreign = [
        entry.name for entry in entries if entry.suffix not in OUR_SUFFIXES or entry.is_dir()
    ]
    if not foreign and entries and not any(entry.suffix == ".safetensors" for entry in entries):
        foreign = [entry.name for entry in entries]
    if foreign:
        raise ValueError(
            f"will not replace {path}: it holds {sorted(foreign)[0]!r}, which is not an adapter's "
            "or a model's file; choose another folder or empty this one"
        )


def _put_in_place(temporary: Path, path: Path, previous: Path) -> None:
    if not path.exists():
        os.rename(temporary, path)
        return
    if _exchange(temporary, path):
        return
    shutil.rmtree(previous, ignore_errors=True)
    os.rename(path, previous)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.rename(previous, path)
        raise
    shutil.rmtree(previous)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step with Linux's renameat2; False where that does not exist."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def _sync_file(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------ fingerprints


def fingerprint(arrays: Mapping[str, Array]) -> str:
    """ "sha256:..." over names, dtypes, shapes and bytes, in the order of the sorted names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        little = np.dtype(array.dtype).newbyteorder("<")
        digest.update(json.dumps([name, little.str, list(array.shape)]).encode())
        for block in _blocks_of_rows(array):
            block = np.ascontiguousarray(block).astype(little, copy=False)
            digest.update(block.reshape(-1).view(np.uint8))
    return "sha256:" + digest.hexdigest()


def _blocks_of_rows(array: Array) -> Iterator[np.ndarray]:
    """The array's rows, in order; of a stored one block by block, as it never is a whole array.

    It is known by its `parts`, (outputs, their columns), since its room comes after this one.
    """
    if hasattr(array, "parts"):
        for _, columns in array.parts(array.dtype):
            yield columns.T
    else:
        yield to_numpy(array)


def sha256_file(path: str | Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------- safetensors


def write_safetensors(
    path: str | Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays (either device) to a safetensors file, atomically."""
    host = {name: np.ascontiguousarray(to_numpy(array)) for name, array in arrays.items()}
    host = {name: array.reshape(np.shape(arrays[name])) for name, array in host.items()}
    atomic_write(path, save(host, metadata=dict(metadata or {})))


class MappedFile:
    """The bytes of a file, mapped read-only: only the part in hand takes memory.

    Raises ValueError for an empty file, and OSError where there is none that can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open(self.path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise ValueError(f"{self.path} is empty, expected a file of weights")
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.bytes)

    def view(self, offset: int, size: int) -> np.ndarray:
        """uint8 (size,): the file's own pages, read-only."""
        return np.frombuffer(self.bytes, np.uint8, size, offset)

    def release(self, offset: int, size: int) -> None:
        """Give pages back that have been read: a mapped file counts as the process's memory."""
        if size and hasattr(self.bytes, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            start = offset - offset % mmap.ALLOCATIONGRANULARITY
            self.bytes.madvise(mmap.MADV_DONTNEED, start, offset + size - start)


class SafetensorsFile:
    """The tensors of one safetensors file, each read when it is asked for.

    path; metadata: texts by key; shapes and dtypes ("F32", "BF16", ...) by name, in the file's
    order. Format: github.com/huggingface/safetensors.

    Raises ValueError naming the file and the reason when it is truncated or corrupt; OSError
    where there is none that can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open(self.path, "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        try:
            if header_bytes > JSON_LIMIT:
                raise ValueError(f"its header has {header_bytes} bytes, expected fewer")
            with safe_open(str(self.path), framework="np"):  # checks the header and every offset
                pass
        except (SafetensorError, ValueError) as error:
            raise ValueError(
                f"{self.path} is not a whole safetensors file: {one_line(error)}"
            ) from None
        self._file = MappedFile(self.path)
        self._start = 8 + header_bytes
        self._entries = json.loads(self._file.bytes[8 : self._start])
        self.metadata: dict[str, str] = self._entries.pop("__metadata__", None) or {}
        self.shapes = {name: tuple(entry["shape"]) for name, entry in self._entries.items()}
        self.dtypes: dict[str, str] = {n: entry["dtype"] for n, entry in self._entries.items()}

    def read(self, name: str, dtype: str | None = None) -> np.ndarray:
        """A tensor as a fresh array of the file's dtype, or of `dtype`; bfloat16 as float32.

        float16 and bfloat16 widen exactly; a float64 beyond float32 becomes an infinity. Raises
        ValueError for a dtype that NumPy has not.
        """
        kind = self.dtypes[name]
        if kind not in _DTYPES:
            raise ValueError(
                f"{self.path}: {name} has dtype {kind}; expected one of {sorted(_DTYPES)}"
            )
        begin, end = (self._start + offset for offset in self._entries[name]["data_offsets"])
        raw = self._file.view(begin, end - begin).view(_DTYPES[kind])
        if kind == "BF16":  # the upper half of a float32
            bits = raw.astype(np.uint32)
            bits <<= 16
            array = bits.view(np.float32).astype(dtype or np.float32, copy=False)
        else:
            with np.errstate(over="ignore"):
                array = raw.astype(dtype or raw.dtype)
        self._file.release(begin, end - begin)
        return array.reshape(self.shapes[name])


def read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays and the metadata of a safetensors file, with the errors of SafetensorsFile."""
    file = SafetensorsFile(path)
    return {name: file.read(name) for name in file.shapes}, file.metadata


def one_line(message: object, longest: int = 300) -> str:
    """A library's message as one line: it may repeat what a file says, of any length."""
    return " ".join(str(message).split())[:longest]


# -------------------------------------------------------------------------------------------- JSON


def read_json(path: str | Path) -> dict:
    """The object in a JSON file.

    Raises ValueError naming a file that is no JSON, is nested too deeply, has more bytes than
    JSON_LIMIT, or holds something else than an object; OSError for none that can be read.
    """
    path = Path(path)
    with open(path, "rb") as file:
        # A read asks for all the memory that it is allowed, also for a file of a few bytes.
        data = file.read(min(os.fstat(file.fileno()).st_size, JSON_LIMIT) + 1)
    if len(data) > JSON_LIMIT:
        raise ValueError(f"{path} has more than {JSON_LIMIT} bytes, expected a small JSON file")
    try:
        value = json.loads(data.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} is not JSON: its brackets are nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value

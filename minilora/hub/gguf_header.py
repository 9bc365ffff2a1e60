"""The head of a GGUF file: its metadata, and where each tensor lies.

Format: github.com/ggml-org/ggml, docs/gguf.md, versions 2 and 3, little-endian. The `gguf` package
has a reader too; it makes an array object per token and merge, which takes seconds.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilora.storage import MappedFile

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class RawTensor:
    """A tensor as the file lists it; `shape` has the rows first, `offset` counts from the data."""

    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int


@dataclass(frozen=True)
class Header:
    """Metadata by key, tensors in the file's order, and where their data begins.

    alignment: each tensor begins at a multiple of so many bytes from there.
    """

    metadata: dict[str, Any]
    tensors: list[RawTensor]
    data_start: int
    alignment: int


class _Cursor:
    """Reads little-endian values one after another; a value beyond the end is a ValueError."""

    def __init__(self, file: MappedFile) -> None:
        self.bytes, self.at, self.path = file.bytes, 0, file.path

    def take(self, size: int) -> bytes:
        if size > len(self.bytes) - self.at:
            raise ValueError(f"{self.path} is not a whole GGUF file: its head ends too soon")
        self.at += size
        return self.bytes[self.at - size : self.at]

    def numbers(self, code: str, count: int) -> tuple:
        size = struct.calcsize(f"<{code}")
        return struct.unpack(f"<{count}{code}", self.take(count * size))

    def number(self, code: str) -> Any:
        return self.numbers(code, 1)[0]

    def text(self) -> str:
        raw = self.take(self.number("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: a text in its head is not UTF-8: {error}") from None

    def value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise ValueError(f"{self.path} has metadata of type {kind}, expected one up to 12")
        inner, count = self.number("I"), self.number("Q")
        if inner in SCALARS:
            return list(self.numbers(SCALARS[inner], count))
        if inner != STRING:
            raise ValueError(f"{self.path} has a list of type {inner}, expected texts or numbers")
        return [self.text() for _ in range(count)]


def read_header(file: MappedFile) -> Header:
    """Parse the head. Raises ValueError naming the file and what is wrong with it."""
    cursor = _Cursor(file)
    if file.bytes[:4] != MAGIC:
        raise ValueError(f"{file.path} does not begin with {MAGIC!r}, expected a GGUF file")
    cursor.take(4)
    version = cursor.number("I")
    if version not in VERSIONS:
        raise ValueError(
            f"{file.path} is GGUF version {version:#x}, expected one of {VERSIONS}, little-endian"
        )
    tensor_count, key_count = cursor.numbers("Q", 2)
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.number("I"))
    tensors = [_raw_tensor(cursor) for _ in range(tensor_count)]
    twice = [name for name, n in Counter(t.name for t in tensors).items() if n > 1]
    if twice:
        raise ValueError(f"{file.path} holds {twice[:3]} twice")
    alignment = _alignment(file.path, metadata)
    return Header(metadata, tensors, cursor.at + -cursor.at % alignment, alignment)


def _raw_tensor(cursor: _Cursor) -> RawTensor:
    name = cursor.text()
    dims = cursor.numbers("Q", cursor.number("I"))
    kind, offset = cursor.number("I"), cursor.number("Q")
    return RawTensor(name, tuple(reversed(dims)), kind, offset)


def _alignment(path: Path, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"{path} has general.alignment {alignment!r}, expected a positive number")
    return alignment

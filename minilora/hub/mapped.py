"""A file read through the page cache: only the tensor in hand takes memory."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np


class MappedFile:
    """The bytes of a file, mapped read-only. Raises ValueError for an empty or missing file."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file() or not self.path.stat().st_size:
            raise ValueError(f"{self.path} is missing or empty, expected a file of weights")
        with open(self.path, "rb") as file:
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.bytes)

    def view(self, offset: int, size: int) -> np.ndarray:
        """uint8 (size,): the file's own pages, read-only."""
        return np.frombuffer(self.bytes, np.uint8, size, offset)

    def release(self, offset: int, size: int) -> None:
        """Give pages back that have been read: a mapped file counts as the process's memory."""
        if hasattr(self.bytes, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            start = offset - offset % mmap.ALLOCATIONGRANULARITY
            self.bytes.madvise(mmap.MADV_DONTNEED, start, offset + size - start)

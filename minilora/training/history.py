"""History: one record a step, in memory and line by line in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from minilora.storage import atomic_write


@dataclass
class History:
    """One record a step (step, loss, lr, grad_norm, tokens, seconds), evaluations among them."""

    records: list[dict] = field(default_factory=list)
    path: Path | None = None

    def add(self, record: dict) -> None:
        """Append, and write the line through to the file where there is one.

        Raises OSError naming the file, also where the system names none, as for a full disk.
        """
        self.records.append(record)
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise

    def rewind(self, step: int) -> None:
        """Keep the file's records up to `step`: the steps after it will be taken again."""
        if self.path is None or not self.path.exists():
            return
        records = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break  # A kill cut this line short, so everything after it is newer than `step`.
        self.records = [r for r in records if r["step"] <= step]
        atomic_write(self.path, "".join(json.dumps(r) + "\n" for r in self.records).encode())

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """(steps, values) of the records that have `key`, for plots."""
        having = [r for r in self.records if key in r]
        return [r["step"] for r in having], [r[key] for r in having]

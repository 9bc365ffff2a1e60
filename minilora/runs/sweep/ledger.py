"""The ledger of a sweep: a line for each run handed out, done or failed, never written over."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

STARTED, DONE, FAILED = "started", "done", "failed"


class Ledger:
    """`ledger.jsonl`: its first line names the sweep, each further line tells of one run.

    One process writes, and a line is on the disk before the next run's is. So whatever kills a
    sweep, what was done is known: a run of which only the beginning is known is run again.
    """

    def __init__(self, path: Path, sweep: str) -> None:
        """sweep: the fingerprint of the sweep file.

        Raises ValueError for a ledger of another sweep, or a file that is no ledger.
        """
        self.path, self.results, self.failures = path, {}, {}
        self._begun: set[str] = set()
        lines = _whole_lines(path)
        if lines is None:
            self._append({"sweep": sweep, "format": 1})
            return
        head = lines[0] if lines else {}
        if "sweep" not in head:
            raise ValueError(f"{path} is no ledger of a sweep, expected one or none")
        if head["sweep"] != sweep:
            raise ValueError(
                f"{path} belongs to another sweep ({head['sweep'][:19]}…), got {sweep[:19]}…: the "
                "sweep file or its data changed; expected the same, or another --out"
            )
        for line in lines[1:]:
            self._take(line)

    def _take(self, line: Mapping) -> None:
        state, run = line["state"], line["id"]
        if state == STARTED:
            self._begun.add(run)
        elif state == DONE:
            self.results[run] = line["result"]
            self.failures.pop(run, None)
        else:
            self.failures[run] = line["error"]

    @property
    def in_flight(self) -> set[str]:
        """Runs that were handed out and of which nothing was heard since."""
        return self._begun - self.results.keys() - self.failures.keys()

    def started(self, run: str, settings: Mapping) -> None:
        """A run is handed out."""
        self.failures.pop(run, None)
        self._tell({"state": STARTED, "id": run, "settings": settings})

    def done(self, run: str, result: Mapping) -> None:
        """A run ended with this result."""
        self._tell({"state": DONE, "id": run, "result": result})

    def failed(self, run: str, error: str) -> None:
        """A run ended with an error."""
        self._tell({"state": FAILED, "id": run, "error": error})

    def _tell(self, line: dict) -> None:
        self._append(line)
        self._take(json.loads(json.dumps(line)))

    def _append(self, line: dict) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _whole_lines(path: Path) -> list[dict] | None:
    """The lines of a ledger, None where there is none; a last line cut off by a kill goes.

    Raises ValueError for any other line that is no JSON object.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    if not whole:
        path.unlink()
        return None
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
    except ValueError:
        lines = []
    if not lines or not all(isinstance(line, dict) for line in lines):
        raise ValueError(f"{path} is no ledger of a sweep, expected one JSON object a line")
    return lines

"""The ledger of a sweep: a line for each run handed out, done or failed, never written over."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

STARTED, DONE, FAILED = "started", "done", "failed"
LEDGER, LOCK = "ledger.jsonl", "ledger"
"""A ledger in its folder, and what the lock of who writes it is named after."""
BEGINNING = b'{"sweep": "'


def require_ledger_folder(out: Path) -> None:
    """Raise ValueError unless `out` is absent, empty, or a folder with a ledger in it."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"got --out {out}, which is a file; expected a folder to make")
    names = sorted({entry.name for entry in out.iterdir()} - {f"{LOCK}.run"})
    if names and LEDGER not in names:
        raise ValueError(
            f"got --out {out}, which holds {names[0]!r} and no {LEDGER}; expected a folder that is "
            "absent, empty or of runs that were begun in it"
        )


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
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        whole = data[: data.rfind(b"\n") + 1]
        if not whole and not BEGINNING.startswith(data[: len(BEGINNING)]):
            raise _no_ledger(path)
        lines = _lines(path, whole)
        if lines and lines[0]["sweep"] != sweep:
            raise ValueError(
                f"{path} belongs to another sweep ({lines[0]['sweep'][:19]}…), got {sweep[:19]}…: "
                "the sweep file or its data changed; expected the same, or another --out"
            )
        for line in lines[1:]:
            self._take(line)
        if len(whole) < len(data):  # a kill cut the last line off; the rest is a ledger's
            with path.open("r+b") as file:
                file.truncate(len(whole))
        if not lines:
            self._append({"sweep": sweep, "format": 1})

    def _take(self, line: Mapping) -> None:
        state, run = line["state"], line["id"]
        if state == STARTED:
            self._begun.add(run)
            self.failures.pop(run, None)
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
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            error.filename = str(self.path)  # of a full disk the system names no file
            raise


def _lines(path: Path, whole: bytes) -> list[dict]:
    """The lines of a ledger. Raises ValueError where one of them is none of a ledger's."""
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
    except ValueError:
        raise _no_ledger(path) from None
    if not all(isinstance(line, dict) for line in lines) or (
        lines and not isinstance(lines[0].get("sweep"), str)
    ):
        raise _no_ledger(path)
    for number, line in enumerate(lines[1:], 2):
        needed = {STARTED: "settings", DONE: "result", FAILED: "error"}.get(str(line.get("state")))
        if needed not in line or not isinstance(line.get("id"), str):
            raise ValueError(
                f"{path}, line {number} tells of no run, expected state {STARTED}, {DONE} or "
                f"{FAILED}, an id and what came of it"
            )
    return lines


def _no_ledger(path: Path) -> ValueError:
    return ValueError(f"{path} is no ledger of a sweep, expected one JSON object a line, or none")

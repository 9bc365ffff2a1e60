"""The folder of a run, beside what the run makes: its settings, its state, and who writes there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import warnings
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from minilora.storage import atomic_write, read_json, real_place
from minilora.training.checkpoint import checkpoints

if TYPE_CHECKING:
    from filelock import FileLock

RUNNING, DIVERGED, FINISHED = "running", "diverged", "finished"
LOCK, HOLDER = "lock", "holder.json"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class RunHeldError(ValueError):
    """Another process writes into this run's folder."""


class RunFolder:
    """`OUT.run`: run.json (settings, state), history.jsonl, loss.png, and checkpoints meanwhile.

    It lies beside what the run makes, so that this appears whole and holds only what others read.
    Where OUT is a symbolic link, beside the folder that it points to: there is the room, and two
    links to one folder are one place.

    suffix: what the folder's name has after ".run". The folder of a run before it began has only
    the lock in it, and goes with the lock.
    """

    def __init__(self, out: Path, suffix: str = "") -> None:
        out = real_place(out)
        self.path = out.with_name(f"{out.name}.run{suffix}")
        self.checkpoints = self.path / "checkpoints"
        self._about = self.path / "run.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """This process alone writes here meanwhile; the system lets go when it ends or is killed.

        Raises RunHeldError, at once, naming the process that holds it. Warns where the disk knows
        no locks, and goes on.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        lock, holder = self._lock(), self.path / HOLDER
        try:
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            about = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
            atomic_write(holder, json.dumps(about).encode())
            yield
        finally:
            holder.unlink(missing_ok=True)
            _let_go(lock, self.path / LOCK)
            with contextlib.suppress(OSError):  # a run began, and its files are here
                for folder in made:
                    folder.rmdir()

    def _lock(self) -> FileLock:
        from filelock import FileLock, Timeout  # here, as what only reads need not wait for it

        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise RunHeldError(
                f"{self.path} is being written by {_holder_text(self.path / HOLDER)}; expected it "
                "to end first, or another --out"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            text = f"nothing keeps another run out of {self.path}: its disk knows no locks"
            warnings.warn(text, stacklevel=2)
        return lock

    def read(self) -> dict | None:
        """The run that the folder holds, None without one. ValueError for another folder.

        "settings" is None for a run that was begun before run.json was written.
        """
        if not self.path.is_dir():
            if self.path.exists():
                raise ValueError(f"{self.path} is a file, expected the folder of a run")
            return None
        names = {entry.name for entry in self.path.iterdir()} - {LOCK, HOLDER}
        if not names:
            return None
        if names <= {"history.jsonl", "checkpoints"}:
            return {"settings": None, "state": RUNNING}
        try:
            about = read_json(self._about)
            return {"settings": about["settings"], "state": about["state"]}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self.path} is where this run's history goes, and it holds something else; "
                "choose another --out"
            ) from None

    def check(self, resume: bool) -> None:
        """Raise ValueError unless a run may begin here, or with `resume` continue."""
        run = self.read()
        if not resume:
            saved = checkpoints(self.checkpoints)
            if run and run["state"] == RUNNING and saved:
                raise ValueError(
                    f"{self.path} holds a run that was stopped after {saved[-1].name}; continue it "
                    "with --resume, or delete the folder to begin anew"
                )
        elif run is None:
            raise ValueError(f"got --resume, but there is no run to continue in {self.path}")
        elif run["state"] != RUNNING:
            raise ValueError(
                f"got --resume, but the run in {self.path} has {run['state']}; leave --resume "
                "out to begin anew"
            )

    def is_running(self) -> bool:
        """Whether a run began here that has neither finished nor diverged."""
        run = self.read()
        return run is not None and run["state"] == RUNNING

    def check_settings(self, settings: dict) -> None:
        """Raise ValueError where the run that is to be resumed had other settings than these."""
        settings, old = json.loads(json.dumps(settings)), self.read()["settings"]
        if old is None:
            return
        names = sorted(old.keys() | settings.keys())
        changed = [name for name in names if old.get(name) != settings.get(name)]
        if changed:
            pairs = ", ".join(f"{k}: {old.get(k)} then, {settings.get(k)} now" for k in changed)
            raise ValueError(f"got --resume with other settings than the run's: {pairs}")

    def begin(self, settings: dict) -> None:
        """Make the folder ready for a new run; one that was here before goes."""
        if self.read() is not None:  # a run that is over, or stopped before a checkpoint
            for name in ("history.jsonl", "loss.png"):
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.mark(RUNNING, settings)

    def mark(self, state: str, settings: dict | None = None, keeps: bool = False) -> None:
        """Note the run's state; a finished run keeps its checkpoints only where that is asked."""
        settings = self.read()["settings"] if settings is None else settings
        about = {"format": 1, "state": state, "settings": settings}
        atomic_write(self._about, (json.dumps(about, indent=2, sort_keys=True) + "\n").encode())
        if state == FINISHED and not keeps:
            shutil.rmtree(self.checkpoints, ignore_errors=True)


def _holder_text(holder: Path) -> str:
    """The process that holds the lock, in words."""
    try:
        about = read_json(holder)
        return f"process {about['pid']} on {about['host']} since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just beginning, or ending
        return "another process"


def _let_go(lock: FileLock, path: Path) -> None:
    """Release the lock and remove its file.

    POSIX lets the file go while it is held, so that nobody finds a free lock on a file that is
    about to go; Windows removes no open file, and no file that another has opened.
    """
    if os.name != "nt":
        path.unlink(missing_ok=True)
    lock.release()
    if os.name == "nt":
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def require_free(out: Path, mark: str, files: Collection[str], kind: str) -> None:
    """Raise ValueError unless `out` is absent, empty, or a folder of this kind to be replaced.

    A folder of the kind has the file `mark` and no entry beyond `files`.
    """
    if not out.name:
        raise ValueError(f"got --out {out}, expected the name of a folder to make")
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"got --out {out}, which is a file; expected a folder to make")
    names = sorted(entry.name for entry in out.iterdir())
    foreign = [name for name in names if name not in files] or names
    if names and (mark not in names or foreign != names):
        raise ValueError(
            f"got --out {out}, which holds {foreign[0]!r}; expected a folder that is absent, empty "
            f"or {kind}"
        )

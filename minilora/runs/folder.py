"""The folder of a run, beside what the run makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path

from minilora.storage import atomic_write
from minilora.training.checkpoint import checkpoints

RUNNING, DIVERGED, FINISHED = "running", "diverged", "finished"


class RunFolder:
    """`OUT.run`: run.json (settings, state), history.jsonl, loss.png, and checkpoints meanwhile.

    It lies beside the adapter, so that the adapter's folder appears whole and holds only what
    PEFT reads.
    """

    def __init__(self, out: Path) -> None:
        self.path = out.with_name(out.name + ".run")
        self.checkpoints = self.path / "checkpoints"
        self._about = self.path / "run.json"

    def read(self) -> dict | None:
        """The run that the folder holds, None without a folder. ValueError for another folder."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return None
        try:
            about = json.loads(self._about.read_text("utf-8"))
            return {"settings": about["settings"], "state": about["state"]}
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self.path} is where this run's history goes, and it holds something else; "
                "choose another --out"
            ) from None

    def check(self, resume: bool) -> None:
        """Raise ValueError unless a run may begin here, or with `resume` continue."""
        found = self.read()
        if not resume:
            saved = checkpoints(self.checkpoints)
            if found and found["state"] == RUNNING and saved:
                raise ValueError(
                    f"{self.path} holds a run that was stopped after {saved[-1].name}; continue it "
                    "with --resume, or delete the folder to begin anew"
                )
        elif found is None:
            raise ValueError(f"got --resume, but there is no run to continue in {self.path}")
        elif found["state"] != RUNNING:
            raise ValueError(
                f"got --resume, but the run in {self.path} has {found['state']}; leave --resume "
                "out to begin anew"
            )

    def begin(self, settings: dict, resume: bool) -> None:
        """Make the folder ready. Raises ValueError to resume with other settings."""
        settings = json.loads(json.dumps(settings))
        if resume:
            old = self.read()["settings"]
            odd = sorted(k for k in old.keys() | settings.keys() if old.get(k) != settings.get(k))
            if odd:
                told = ", ".join(f"{k}: {old.get(k)} then, {settings.get(k)} now" for k in odd)
                raise ValueError(f"got --resume with other settings than the run's: {told}")
            return
        if self.read() is not None:  # a run that is over, or stopped before a checkpoint
            for name in ("history.jsonl", "loss.png"):
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.mark(RUNNING, settings)

    def mark(self, state: str, settings: dict | None = None) -> None:
        """Note the run's state; a finished run keeps no checkpoints."""
        settings = self.read()["settings"] if settings is None else settings
        about = {"format": 1, "state": state, "settings": settings}
        atomic_write(self._about, (json.dumps(about, indent=2, sort_keys=True) + "\n").encode())
        if state == FINISHED:
            shutil.rmtree(self.checkpoints, ignore_errors=True)


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
    odd = [name for name in names if name not in files] or names
    if names and (mark not in names or odd != names):
        raise ValueError(
            f"got --out {out}, which holds {odd[0]!r}; expected a folder that is absent, empty or "
            f"{kind}"
        )

"""Trials: many short trainings of one measurement, each done once, wherever it was stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from minilora.limits import require_count
from minilora.runs.folder import RunFolder
from minilora.runs.sweep.drive import run_all
from minilora.runs.sweep.file import RUN_ROOMS
from minilora.runs.sweep.ledger import LEDGER, LOCK, Ledger, require_ledger_folder
from minilora.runs.sweep.pools import Outcome, on_this_machine
from minilora.storage import one_line
from minilora.training.made_by import code_fingerprint
from minilora.training.parallel import MOST_WORKERS

DIVERGED = 1e9
"""The loss of a training that diverged, where rates are compared: no other is as bad."""
TrialWork = Callable[[Mapping], dict]
"""What a trial does, in another process: its settings -> what came out, both JSON-ready."""


@dataclass(frozen=True)
class Trial:
    """One training of a measurement: its settings, which JSON can hold."""

    told: Mapping

    @property
    def id(self) -> str:
        """A hash of the settings."""
        return hashlib.sha256(_json(self.told).encode()).hexdigest()[:12]


class Trials:
    """Runs trials in processes and knows the results of those that are done."""

    def __init__(self, ledger: Ledger, work: TrialWork, jobs: int, bars: bool) -> None:
        self._ledger, self._bars = ledger, bars
        self._pool = partial(on_this_machine, jobs=jobs, work=partial(_guarded, work))

    def run(self, settings: Sequence[Mapping]) -> list[dict]:
        """The results of trials of these settings, in their order; those that are known are not
        run again. Raises ValueError naming the first that failed.
        """
        trials = [Trial(told) for told in settings]
        run_all(trials, self._ledger, self._pool, self._bars)
        for trial in trials:
            if trial.id in self._ledger.failures:
                raise ValueError(f"trial {trial.id} failed: {self._ledger.failures[trial.id]}")
        return [self._ledger.results[trial.id] for trial in trials]


@contextlib.contextmanager
def trials_in(
    out: Path, told: Mapping, work: TrialWork, *, jobs: int = 0, bars: bool = False
) -> Iterator[Trials]:
    """Trials with their ledger in the folder `out`, which no other process writes meanwhile.

    told: all that the results hang on but the code, JSON-ready. jobs: processes, 0 for one a core.
    Raises ValueError for a folder of other settings, other code or something else, RunHeldError for
    one in use.
    """
    mark = _json({**told, "code": code_fingerprint(RUN_ROOMS)})
    require_count("jobs", jobs, 0, MOST_WORKERS)
    require_ledger_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    with RunFolder(out / LOCK).held():
        ledger = Ledger(out / LEDGER, hashlib.sha256(mark.encode()).hexdigest())
        yield Trials(ledger, work, jobs, bars)


def require_settled(losses: Mapping[float, float], what: str) -> None:
    """Raise ValueError where training diverged at all of these rates, of which one is to be best.

    losses: by rate; what: that was trained, in words.
    """
    if min(losses.values()) >= DIVERGED:
        tried = ", ".join(f"{rate:g}" for rate in losses)
        raise ValueError(f"got rates {tried}, at all of which {what} diverges; expected lower ones")


def _guarded(work: TrialWork, trial: Trial) -> Outcome:
    try:
        return Outcome(trial, work(trial.told))
    except Exception as error:
        return Outcome(trial, None, f"{type(error).__name__}: {one_line(error)}")


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)

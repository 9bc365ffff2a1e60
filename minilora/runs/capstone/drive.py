"""The driver of a capstone: what is done stays done, and the rest follows in its order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from minilora import __version__
from minilora.runs.capstone.card import write_card
from minilora.runs.capstone.plan import CapstonePlan, then
from minilora.runs.capstone.steps import STEPS, Step, folder_of
from minilora.runs.folder import RunFolder, require_free
from minilora.runs.plan import Clock, Reporter
from minilora.storage import atomic_write, read_json

MARK, HELD = "capstone.json", "held.run"
FILES = (
    MARK, "data", "adapter", "adapter.run", "model", "gate.json", "card.md", "card.html",
    "scores.png", HELD,
)  # fmt: skip


class StepReporter(Reporter):
    """Also hears of the steps of a capstone; this one shows nothing."""

    def begins(self, step: Step) -> None:
        """A step begins."""

    def ended(self, step: Step, record: Mapping, kept: bool) -> None:
        """A step has its record; kept: from an earlier call."""


@dataclass(frozen=True)
class Done:
    """A whole capstone. records: by step. ran: the steps that this call did. seconds: its own."""

    plan: CapstonePlan
    records: Mapping[str, Mapping]
    ran: tuple[str, ...]
    card: Path
    seconds: Mapping[str, float]


def run_capstone(plan: CapstonePlan, reporter: StepReporter | None = None) -> Done:
    """Do the steps that are not done yet, and write the card.

    Stopped at any moment, the same call goes on: a step is done when its record is written, and a
    training that was killed goes on from its last checkpoint. A step whose files are gone, or
    changed, is done again, with all that follow it. Raises ValueError for rows that can't be
    learned from, a folder of something else, or one of a capstone with other settings, before
    anything changes; RunHeldError where another process works on it; and what the steps raise.
    """
    reporter = reporter or StepReporter()
    if not plan.out.is_dir() or {path.name for path in plan.out.iterdir()} != {HELD}:
        require_free(plan.out, MARK, FILES, "a capstone to go on with")
    settings = plan.settings()
    require_same(plan, settings)
    with RunFolder(plan.out / "held").held(), _mark(plan, settings):
        records, ran, clock = records_of(plan), [], Clock()
        for step in STEPS:
            record = records.get(step.name)
            if ran or record is None or not step.whole(plan, record):
                reporter.begins(step)
                record = step.do(plan, records, reporter)
                records = {**_before(step, records), step.name: record}
                _write(plan, settings, records)
                ran.append(step.name)
                reporter.ended(step, record, False)
            else:
                reporter.ended(step, record, True)
            clock.lap(step.name)
        card = write_card(plan, records)
        clock.lap("card")
        return Done(plan, records, tuple(ran), card, clock.laps)


@contextlib.contextmanager
def _mark(plan: CapstonePlan, settings: Mapping) -> Iterator[None]:
    """The folder is known for a capstone's from here on, unless its rows are refused."""
    if not folder_of(plan).exists():
        _write(plan, settings, {})
    try:
        yield
    except BaseException:
        if not records_of(plan) and not plan.train_file.exists():
            folder_of(plan).unlink()
        raise


def records_of(plan: CapstonePlan) -> dict[str, dict]:
    """The records of the steps that are done. Raises ValueError for a file of something else."""
    return _read(plan).get("steps", {})


def require_same(plan: CapstonePlan, settings: Mapping) -> None:
    """Raise ValueError where the capstone of the folder was begun with other settings."""
    told = _read(plan)
    if not told:
        return
    old = then(told["settings"])
    changed = [name for name in settings if old.get(name) != json.loads(json.dumps(settings[name]))]
    if changed:
        pairs = ", ".join(f"{k}: {old.get(k)} then, {settings[k]} now" for k in changed)
        raise ValueError(
            f"{plan.out} holds a capstone with other settings: {pairs}; expected those, or "
            "another --out"
        )


def _read(plan: CapstonePlan) -> dict:
    path = folder_of(plan)
    if not path.is_file():
        return {}
    told = read_json(path)
    if not isinstance(told.get("settings"), dict) or not isinstance(told.get("steps"), dict):
        raise ValueError(f"{path} is no record of a capstone, expected settings and steps")
    return told


def _write(plan: CapstonePlan, settings: Mapping, records: Mapping) -> None:
    told = {"format": 1, "minilora_version": __version__, "settings": settings, "steps": records}
    text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
    atomic_write(folder_of(plan), text.encode())


def _before(step: Step, records: Mapping[str, dict]) -> dict[str, dict]:
    """The records of the steps before this one: those after it belong to what it replaces."""
    names = [one.name for one in STEPS]
    return {name: records[name] for name in names[: names.index(step.name)] if name in records}

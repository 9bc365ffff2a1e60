"""The driver of a sweep: what is done already stays done, the rest is run, all is written down."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from minilora.backend import require_device, to_device
from minilora.evaluation.cases import read_cases
from minilora.hub.bases import open_base
from minilora.limits import require_count
from minilora.runs.folder import RunFolder
from minilora.runs.sweep.file import Point, SweepFile
from minilora.runs.sweep.ledger import LEDGER, LOCK, Ledger, require_ledger_folder
from minilora.runs.sweep.point import judged
from minilora.runs.sweep.pools import (
    Outcome,
    connect,
    on_a_cluster,
    on_cards,
    on_this_machine,
)
from minilora.runs.sweep.table import Candidate, candidates, share, shares_by_group
from minilora.storage import atomic_write
from minilora.training.parallel import MOST_WORKERS

TABLE, DATA, ADAPTERS = "table.json", "data", "runs"

Pool = Callable[[Sequence[Point]], Iterator[Outcome]]


@dataclass(frozen=True)
class Swept:
    """What came out: combinations of the last round, best first; those that were dropped before.

    base: the base's own shares of the suite's rows, by group of tasks; {} without a suite.
    ran, kept: runs that were run now, and those of which the ledger had the result. failures: by
    run, in one line.
    """

    file: SweepFile
    out: Path
    found: Sequence[Candidate]
    dropped: Sequence[Candidate]
    ran: int
    kept: int
    failures: dict[str, str]
    base: dict[str, float]


def sweep(
    file: SweepFile,
    out: Path,
    *,
    jobs: int = 0,
    scheduler: str | None = None,
    device: str = "cpu",
    bars: bool = False,
) -> Swept:
    """Run what is not done yet, on this machine or the cluster of `scheduler`; write the table.

    out: a folder for ledger, data, adapters and table. jobs: processes here, 0 for one a core; none
    beside a scheduler or cards, which have their own. device: "gpu" for one process a CUDA device
    of this machine, or of whatever a worker sees. Stopped at any moment, the same call goes on from
    what was done. Raises ValueError for a folder of another sweep or of something else, or an
    adapter that does not fit the base, RunHeldError where another process sweeps into it, and what
    `SweepFile` says.
    """
    require_device(device)
    require_count("jobs", jobs, 0, MOST_WORKERS)
    if jobs and (scheduler is not None or device == "gpu"):
        where = "a scheduler" if scheduler is not None else "gpu"
        raise ValueError(f"got jobs {jobs} with {where}, whose processes are given; expected none")
    if scheduler is None and device == "gpu":
        to_device(0.0, device)  # refused before anything is written
        pool: Pool = on_cards
    elif scheduler is None:
        pool = partial(on_this_machine, jobs=jobs)
    else:
        connect(scheduler).close()  # refused before anything is written
        pool = partial(on_a_cluster, address=scheduler)
    file.check(open_base(file.base, option=f"base in {file.path}:")[0])
    fingerprint, place = file.fingerprint, out.absolute()
    require_ledger_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    with RunFolder(out / LOCK).held():
        ledger = Ledger(out / LEDGER, fingerprint)
        files = file.write_data(place / DATA)
        base_suite, groups = _base_suite(file, files), groups_of(files)
        ran, dropped, alive, asked = 0, [], None, set()
        rungs = file.halving.steps if file.halving else (None,)
        for rung, steps in enumerate(rungs):
            points = file.points(files, place / ADAPTERS, steps, device)
            if alive is not None:
                points = [p for p in points if _apart_from_steps(p) in alive]
            asked |= {point.id for point in points}
            ran += run_all(points, ledger, pool, bars)
            found = candidates(points, ledger.results, base_suite, groups, file.meant_to_change)
            if rung < len(rungs) - 1:
                best = found[: max(1, math.ceil(file.halving.keep * len(found)))]
                alive = {_key(c.settings) for c in best}
                dropped += found[len(best) :]
        failures = {run: text for run, text in ledger.failures.items() if run in asked}
        swept = Swept(
            file, out, found, dropped, ran, len(asked) - ran, failures,
            {"all": share(base_suite), **shares_by_group(base_suite, groups)} if groups else {},
        )  # fmt: skip
        atomic_write(out / TABLE, (json.dumps(table(swept), indent=2) + "\n").encode())
        return swept


def table(swept: Swept) -> dict:
    """What a sweep found, JSON-ready."""
    return {
        "sweep": swept.file.fingerprint,
        "base": swept.base,
        "meant_to_change": list(swept.file.meant_to_change),
        "found": [c.to_dict() for c in swept.found],
        "dropped": [c.to_dict() for c in swept.dropped],
        "failures": swept.failures,
    }


def _base_suite(file: SweepFile, files: dict[str, Path]) -> list[bool]:
    if file.suite is None:
        return []
    model, tokenizer = open_base(file.base)
    return judged(model, tokenizer, {"suite": files["suite"]})["suite"]


def groups_of(files: Mapping[str, Path]) -> list[str]:
    """The group of each row of the suite: what stands before the / in its task, "" for none."""
    if "suite" not in files:
        return []
    return [case.task.split("/")[0] for case in read_cases(files["suite"]).cases]


def _key(settings: dict) -> str:
    return json.dumps({k: v for k, v in settings.items() if k != "steps"}, sort_keys=True)


def _apart_from_steps(point: Point) -> str:
    return _key(json.loads(point.kind))


def run_all(points: Sequence[Point], ledger: Ledger, pool: Pool, bars: bool) -> int:
    """Run those that are not done, each in the ledger as soon as it ends; how many ran.

    points: of a sweep, or anything with an `id` and `told`, what the ledger says of it.
    """
    points = {point.id: point for point in points}.values()  # two of one id are one run
    todo = [point for point in points if point.id not in ledger.results]
    if not todo:
        return 0
    for point in todo:
        ledger.started(point.id, point.told)
    bar = tqdm(total=len(points), initial=len(points) - len(todo), unit="run", disable=not bars)
    with bar:
        for outcome in pool(todo):
            if outcome.result is None:
                ledger.failed(outcome.point.id, outcome.error)
            else:
                ledger.done(outcome.point.id, outcome.result)
            bar.update()
    return len(todo)

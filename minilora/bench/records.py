"""What a benchmark leaves as JSON: a record for every cell, written, read, and cut to a summary.

A file is {"command": ..., "about": {...}, "results": [record, ...]}. A record holds every turn;
`summarised` keeps medians, the points below which 20 and 80 % lie, and how many pairs were
counted, which is all that the tables show.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minilora.bench.busy import Busy
from minilora.bench.op_times import Profile
from minilora.bench.race import Result
from minilora.bench.workloads import Job, Workload
from minilora.storage import atomic_write, read_json

KINDS = (
    "minilora", "torch", "torch-labelled", "torch-bf16", "transformers", "textbook", "matmul",
    "full", "activated", "activated-kept",
    "bank-1", "bank-8", "bank-64", "peft", "peft-1", "peft-8", "peft-64",
)  # fmt: skip
UNDER = ("matmul", "full", "activated", "activated-kept")
"""Kinds of which ratios say ours over theirs; of all others they say theirs over ours."""
BESIDE = {f"peft-{count}": f"bank-{count}" for count in (1, 8, 64)}
"""Kinds that do the work of another kind than "minilora", to which their ratio is."""
EVERY_TURN = ("turns", "pairs", "measurements")
"""Lists in a record that grow with the number of turns, and that no table shows."""
DIGITS = 6
LINE = 500
"""Characters in which a part of a file is written on one line: a workload, a side, a ratio."""


def best_title(kind: str) -> str:
    """The name of the ratio of both sides' best settings."""
    ours = BESIDE.get(kind, "minilora")
    return f"{ours} / {kind}, best" if kind in UNDER else f"{kind} / {ours}, best"


def cpu_title(kind: str) -> str:
    """The name of the ratio of processor times at one core."""
    return f"{kind}@1 / {BESIDE.get(kind, 'minilora')}@1, CPU"


def race_record(result: Result) -> dict:
    """One cell of a race."""
    workload, job = result.workload, result.job
    sides = {}
    for name in result.names:
        seconds = result.seconds(name)
        sides[name] = {
            "seconds": seconds,
            "tokens_per_second": job.tokens(workload) / seconds,
            "cpu_seconds": result.seconds(name, "cpu"),
            "turns": [vars(by_side[name]) for by_side in result.rounds],
            "clean_turns": sum(by_side[name].clean for by_side in result.rounds),
            "memory": result.peak(name),
            **result.about[name],
        }
    return {
        "workload": workload.to_dict(),
        "job": job.name,
        "title": job.title,
        "rounds": len(result.rounds),
        "clean_rounds": result.clean_rounds(),
        "best": {kind: result.best(kind) for kind in KINDS if result.best(kind)},
        "sides": sides,
        "ratios": _ratios(result),
    }


def _ratios(result: Result) -> dict[str, dict]:
    """Best against best, "other / minilora" at equal cores, and by CPU time at one core.

    A kind of BESIDE stands beside its own. Of the matmuls and the full step it is the other way
    round, "minilora / other".
    """
    ratios = {}

    def add(title: str, kind: str, names: tuple[str, str], time: str = "wall") -> None:
        over, under = names if kind in UNDER else names[::-1]
        ratios[title] = {**result.ratio(over, under, time), "over": over, "under": under}

    for kind in KINDS[1:]:
        best = result.best(kind)
        if best:
            add(best_title(kind), kind, (result.best(BESIDE.get(kind, "minilora")), best))
    for name in result.names:
        kind, _, count = name.partition("@")
        same = f"{BESIDE.get(kind, 'minilora')}@{count}"
        if kind == "minilora" or same not in result.names:
            continue
        title = f"{same} / {name}" if kind in UNDER else f"{name} / {same}"
        add(title, kind, (same, name))
        if count == "1" and kind != "matmul":
            add(f"{title}, CPU", kind, (same, name), "cpu")
    return ratios


def busy_record(result: Busy) -> dict:
    """One cell beside a busy neighbour."""
    return {
        "workload": result.workload.to_dict(),
        "job": result.job.name,
        "fair": result.fair,
        "slowdowns": {name: result.slowdown(name) for name in result.pairs},
        "neighbour_keeps": {name: result.left(name) for name in result.pairs},
        "pairs": {
            name: [{"alone": vars(alone), "busy": vars(busy)} for alone, busy in pairs]
            for name, pairs in result.pairs.items()
        },
        "seconds": {name: list(result.seconds(name)) for name in result.pairs},
    }


def profile_record(workload: Workload, job: Job, profile: Profile) -> dict:
    """Where the time of one cell's step goes."""
    return {"workload": workload.to_dict(), "job": job.name, "profile": profile.to_dict()}


def summarised(record: dict) -> dict:
    """A record without its single turns, and its numbers to six significant digits."""

    def brief(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: brief(v) for k, v in value.items() if not _is_every_turn(k, v)}
        if isinstance(value, list):
            return [brief(part) for part in value]
        return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value

    return brief(record)


def _is_every_turn(name: str, value: Any) -> bool:
    """Whether this is a record's list of turns; a ratio's "pairs" is a number and stays."""
    return name in EVERY_TURN and isinstance(value, (list, dict))


def write_records(path: Path, command: str, about: dict[str, str], records: Sequence[dict]) -> None:
    """Write a file whole or not at all. command: the line that measured it."""
    content = {"command": command, "about": about, "results": list(records)}
    atomic_write(path, (_dumped(content) + "\n").encode())


def _dumped(value: Any, indent: str = "") -> str:
    """JSON in which everything that fits stands on one line."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or not value or len(indent) + len(line) <= LINE:
        return line
    inner = indent + " "
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(k, ensure_ascii=False)}: {_dumped(v, inner)}" for k, v in value.items()
        ]
    else:
        parts = [_dumped(part, inner) for part in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}{closing}"


def read_records(paths: Sequence[Path]) -> tuple[str, dict[str, str], list[dict]]:
    """(command, about, records) of files that the benchmark wrote; of several, joined.

    Raises ValueError for other files.
    """
    commands, about, records = [], {}, []
    for path in paths:
        try:
            content = read_json(path)
            about = {**about, **content["about"]}
            records += content["results"]
            commands += [content["command"]] if "command" in content else []
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: got another file, expected JSON of minilora bench") from None
    return "; ".join(dict.fromkeys(commands)), about, records

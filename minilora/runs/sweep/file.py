"""A sweep file: what is varied, on which data, and what is judged; and the runs that follow."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from minilora.hub.bases import WARD, open_base
from minilora.hub.smollm import known_model
from minilora.limits import require_count, require_finite
from minilora.lora import base_fingerprint
from minilora.lora.fitting import attachable
from minilora.lora.pissa import doubled
from minilora.nn import Transformer
from minilora.runs.adapt import AdaptPlan
from minilora.storage import atomic_write, sha256_file
from minilora.text import Problem
from minilora.text.rows import iter_records
from minilora.training.made_by import ROOMS, code_fingerprint

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NOT_VARIED = (
    "out", "data", "as_text", "eval_data", "eval_rows", "workers", "resume", "base", "replay",
    "replay_data", "device", "suite", "gate", "keep_checkpoints",
)  # fmt: skip
"""Fields of an AdaptPlan that a sweep sets itself; replay belongs to a data mix."""
MOST_RUNS = 10_000
RUN_ROOMS = (*ROOMS, "machine", "hub", "ward", "evaluation", "analysis", "runs")
"""The rooms whose code decides what a run gives, its scores included."""
ID_LENGTH = 12
"""Hexadecimal digits of a run's name: 48 bits."""


@dataclass(frozen=True)
class Part:
    """Rows of a data file: how many are drawn, None for all."""

    path: Path
    rows: int | None = None


@dataclass(frozen=True)
class Mix:
    """What a run learns from: rows of files, and the share of the base's own tasks among them.

    replay: as in `AdaptPlan`, 0 for none.
    """

    parts: tuple[Part, ...]
    replay: float = 0.0


@dataclass(frozen=True)
class Halving:
    """Successive halving (Jamieson & Talwalkar 2016): all runs get the first number of steps, the
    best share `keep` of them the next, from the start again, and so on.
    """

    steps: tuple[int, ...]
    keep: float


@dataclass(frozen=True)
class Point:
    """One run of a sweep: settings of an AdaptPlan, and the name of its data mix.

    id: a hash of settings, data and code; runs of equal id give equal adapters.
    """

    id: str
    settings: Mapping
    mix: str
    files: Mapping[str, Path] = field(compare=False)
    """"train", "choose", "report" and, where there is one, "suite"."""
    out: Path = field(compare=False)
    base: str = WARD

    @property
    def kind(self) -> str:
        """What it has in common with the same run at other seeds, JSON."""
        return kind_of(self.settings, self.mix)

    @property
    def told(self) -> dict:
        """What the ledger says of it."""
        return {"data": self.mix, **self.settings}

    def plan(self) -> AdaptPlan:
        """The adaptation: one process, two rows judged and no gate, as the sweep judges itself."""
        return AdaptPlan(
            out=self.out,
            data=self.files["train"],
            eval_data=self.files["choose"],
            eval_rows=2,
            gate=False,
            base=self.base,
            workers=1,
            **plan_settings(self.settings),
        )


def plan_settings(settings: Mapping) -> dict:
    """Settings of a run as an AdaptPlan takes them: what a file has as lists are tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}


def kind_of(settings: Mapping, mix: str) -> str:
    """Settings but the seed, and the mix, as JSON."""
    return _json({"data": mix, **{k: v for k, v in settings.items() if k != "seed"}})


@dataclass(frozen=True)
class SweepFile:
    """A sweep's settings, as `read` finds them.

    grid: field of AdaptPlan -> its values, of which every combination is run. mixes: by name.
    choose_rows: of `eval`, from its first on, by which runs are chosen; report_rows: those after
    them, of which the scores are told, so that no choice is made on what is reported.
    suite: prompts that the base answers well, None for none; suite_rows of them are asked.
    meant_to_change: groups of the suite's tasks ("public" of "public/summary") that the job itself
    changes; they are told and break no base. It decides no run, so it is no part of `fingerprint`.
    """

    path: Path
    base: str
    eval: Path
    choose_rows: int
    report_rows: int
    grid: Mapping[str, tuple]
    mixes: Mapping[str, Mix]
    suite: Path | None = None
    suite_rows: int = 100
    meant_to_change: tuple[str, ...] = ()
    halving: Halving | None = None

    @classmethod
    def read(cls, path: Path) -> SweepFile:
        """The sweep that a TOML file describes; its paths count from the file's folder.

        So does a base that is a folder or a .gguf file. Each combination is made a plan of once, so
        that a setting which makes no sense stops the sweep before it begins. Raises ValueError
        naming the key for what is missing, unknown or no sensible value, and OSError.
        """
        try:
            told = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no TOML file: {error}") from None
        known = {f.name for f in fields(cls)} - {"path", "mixes"} | {"data"}
        _refuse_unknown(f"{path}", told, known)
        for key in ("eval", "grid", "data"):
            if key not in told:
                raise ValueError(f"{path} has no {key!r}, expected eval, [grid] and [data.NAME]")
        for key in ("base", "eval", "suite"):
            if not isinstance(told.get(key, ""), str):
                raise ValueError(f"{path}: got {key} {told[key]!r}, expected a text")
        here = path.absolute().parent  # the workers of a cluster may stand in another folder
        for name in _table(path, told, "data"):
            if not name or set(name) & set("/\\:\0"):
                raise ValueError(f"{path}: got data {name!r}, expected a name that a file may have")
        mixes = {
            name: _mix(f"{path}: data.{name}", own, here)
            for name, own in _table(path, told, "data").items()
        }
        counts = {k: told.get(k, 100) for k in ("choose_rows", "report_rows", "suite_rows")}
        for name, count in counts.items():
            require_count(f"{path}: {name}", count, 1)
        sweep = cls(
            path=path,
            base=_base(told.get("base", WARD), here),
            eval=here / told["eval"],
            grid=_grid(path, _table(path, told, "grid"), mixes),
            mixes=mixes,
            suite=here / told["suite"] if "suite" in told else None,
            meant_to_change=_changing(path, told),
            halving=_halving(path, told.get("halving")),
            **counts,
        )
        if sweep.halving and "steps" in sweep.grid:
            raise ValueError(f"{path} has steps in [grid] and in [halving], expected one of them")
        if sweep.runs > MOST_RUNS:
            raise ValueError(f"{path} asks for {sweep.runs:,} runs, expected at most {MOST_RUNS:,}")
        for _ in sweep._plans():
            pass
        return sweep

    def _plans(self) -> Iterator[AdaptPlan]:
        """A plan of each combination. Raises ValueError for settings that make no sense."""
        for settings, _ in self.combinations():
            try:
                plan = AdaptPlan(
                    out=Path("out"), data=Path("data"), base=self.base, **plan_settings(settings)
                )
            except ValueError as error:
                raise ValueError(f"{self.path}: {error}") from None
            yield plan

    def combinations(self) -> Iterator[tuple[dict, str]]:
        """The settings of each run of the grid, in its order, and the name of its data mix."""
        for values in itertools.product(*self.grid.values()):
            settings = dict(zip(self.grid, values, strict=True))
            mix = settings.pop("data")
            if self.mixes[mix].replay:
                settings["replay"] = self.mixes[mix].replay
            yield settings, mix

    def check(self, model: Transformer) -> None:
        """Raise ValueError where an adapter of the grid does not fit this base."""
        for plan in self._plans():
            config = plan.lora(model.config.hidden_size)
            try:
                attachable(model, doubled(config) if plan.pissa else config)
            except ValueError as error:
                raise ValueError(f"{self.path}: {error}") from None

    @property
    def runs(self) -> int:
        """Combinations of the grid."""
        return int(np.prod([len(values) for values in self.grid.values()], dtype=np.int64))

    @cached_property
    def fingerprint(self) -> str:
        """ "sha256:..." over what the file says and the bytes of the files that it names.

        Of a path its last part counts, so that a sweep and its folder may be moved. What the base's
        weights are is part of each run's id.
        """
        parts = {
            name: [mix.replay, [[part.path.name, part.rows] for part in mix.parts]]
            for name, mix in self.mixes.items()
        }
        paths = [self.eval, *([self.suite] if self.suite else [])]
        paths += [part.path for mix in self.mixes.values() for part in mix.parts]
        told = {
            "base": Path(self.base).name, "mixes": parts,
            "grid": {k: list(v) for k, v in self.grid.items()},
            "rows": [self.choose_rows, self.report_rows, self.suite_rows],
            "halving": self.halving and [list(self.halving.steps), self.halving.keep],
            "files": [sha256_file(path) for path in paths],
        }  # fmt: skip
        return "sha256:" + hashlib.sha256(_json(told).encode()).hexdigest()

    def write_data(self, folder: Path) -> dict[str, Path]:
        """Write each mix, and the rows that are judged, as JSONL files; name -> path.

        A mix's rows are drawn from each part, and mixed, with a seed of its own, so that the same
        sweep always learns from the same rows. Raises ValueError for fewer rows than are asked for.
        """
        judged = _rows(self.eval)
        needed = self.choose_rows + self.report_rows
        if len(judged) < needed:
            raise ValueError(f"{self.eval} has {len(judged)} rows, expected {needed} to judge on")
        written = {
            "choose": judged[: self.choose_rows],
            "report": judged[self.choose_rows : needed],
        }
        if self.suite is not None:
            suite = _rows(self.suite)
            if not suite:
                raise ValueError(f"{self.suite} has no rows, expected one at least to judge on")
            count = min(self.suite_rows, len(suite))
            written["suite"] = [suite[i * len(suite) // count] for i in range(count)]
            known = {str(row.get("task", "")).split("/")[0] for row in written["suite"]}
            unknown = sorted(set(self.meant_to_change) - known)
            if unknown:
                raise ValueError(
                    f"{self.path}: got meant_to_change {unknown}, expected groups of the suite's "
                    f"tasks, which are {sorted(known)}"
                )
        for name, mix in self.mixes.items():
            written[f"mix-{name}"] = _mixed(mix.parts)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {}
        for name, rows in written.items():
            paths[name] = folder / f"{name}.jsonl"
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            atomic_write(paths[name], lines.encode())
        return paths

    def points(
        self, files: Mapping[str, Path], out: Path, steps: int | None, device: str = "cpu"
    ) -> list[Point]:
        """Every run, in the grid's order; files: as `write_data` made them; out: for adapters.

        steps: of a rung of the halving, None without one. device: where they run; another one
        rounds otherwise, so that it is part of what a run is known by.
        """
        mark = {
            "base": base_fingerprint(open_base(self.base)[0]),
            "code": code_fingerprint(RUN_ROOMS),
        }
        of_path = {path: sha256_file(path) for path in files.values()}
        points = []
        for settings, mix in self.combinations():
            if steps is not None:
                settings["steps"] = steps
            if device != "cpu":
                settings["device"] = device
            used = {"train": files[f"mix-{mix}"]} | {
                name: files[name] for name in ("choose", "report", "suite") if name in files
            }
            data = {name: of_path[path] for name, path in used.items()}
            text = _json({**mark, "settings": settings, "data": data})
            name = hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]
            points.append(Point(name, settings, mix, used, out / name, self.base))
        return points


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _refuse_unknown(where: str, told: Mapping, known: set[str]) -> None:
    unknown = sorted(told.keys() - known)
    if unknown:
        raise ValueError(f"{where} has {unknown}, expected keys among {sorted(known)}")


def _table(path: Path, told: Mapping, key: str) -> Mapping:
    if not isinstance(told[key], dict) or not told[key]:
        raise ValueError(f"{path}: got {key} {told[key]!r}, expected a table that is not empty")
    return told[key]


def _base(told: str, here: Path) -> str:
    """A known base's name as it is, else the place of a folder or file, from the sweep file's."""
    return told if told == WARD or known_model(told) is not None else str(here / told)


def _mix(where: str, told: object, here: Path) -> Mix:
    """Path -> how many rows, `true` for all of them; and "replay" -> a share."""
    if not isinstance(told, dict) or not told.keys() - {"replay"}:
        raise ValueError(f"{where}: got {told!r}, expected paths with numbers of rows, or true")
    parts, replay = [], told.get("replay", 0.0)
    require_finite(f"{where}: replay", replay, below=1.0)
    for name, rows in told.items():
        if name == "replay":
            continue
        if rows is not True:
            require_count(f"{where}: rows of {name}", rows, 1)
        parts.append(Part(here / name, None if rows is True else rows))
    return Mix(tuple(parts), float(replay))


def _grid(path: Path, told: Mapping, mixes: Mapping) -> dict[str, tuple]:
    """Field -> values; data, and seed 0, where they are not named."""
    varied = {f.name for f in fields(AdaptPlan)} - set(NOT_VARIED)
    _refuse_unknown(f"{path}: grid", told, varied | {"data"})
    grid = {name: tuple(v) if isinstance(v, list) else (v,) for name, v in told.items()}
    for name, values in grid.items():
        odd = [v for v in values if not _is_setting(v)]
        if odd:
            raise ValueError(
                f"{path}: got {name} {odd[0]!r}, expected numbers, texts, true, false, or lists of "
                "texts"
            )
    if "target_modules" in told and all(isinstance(v, str) for v in grid["target_modules"]):
        names = grid["target_modules"]
        if isinstance(told["target_modules"], list) and "all-linear" not in names:
            raise ValueError(
                f"{path}: got target_modules {list(names)}, expected a list of lists of names, or "
                '"all-linear"'
            )
    for value in grid.get("target_modules", ()):
        if isinstance(value, list) and "all-linear" in value:
            raise ValueError(
                f"{path}: got target_modules {value}, expected 'all-linear' by itself, not in a "
                "list of names"
            )
    grid = {"data": tuple(mixes), **grid}
    unknown = sorted(set(grid["data"]) - mixes.keys())
    if unknown:
        raise ValueError(f"{path}: got data {unknown} in the grid, expected {sorted(mixes)}")
    for name, values in grid.items():
        if not values or len({_json(v) for v in values}) < len(values):
            raise ValueError(f"{path}: got {name} {list(values)}, expected values, each once")
    return {**grid, "seed": grid.get("seed", (0,))}


def _is_setting(value: object) -> bool:
    texts = isinstance(value, list) and all(isinstance(part, str) for part in value)
    return texts or isinstance(value, (str, bool, int, float))


def _changing(path: Path, told: Mapping) -> tuple[str, ...]:
    groups = told.get("meant_to_change", [])
    named = isinstance(groups, list) and all(isinstance(group, str) for group in groups)
    if not named or (groups and "suite" not in told):
        raise ValueError(
            f"{path}: got meant_to_change {groups!r}, expected a list of names of groups of the "
            "suite's tasks, beside a suite"
        )
    return tuple(groups)


def _halving(path: Path, told: object) -> Halving | None:
    if told is None:
        return None
    if not isinstance(told, dict) or told.keys() != {"steps", "keep"}:
        raise ValueError(f"{path}: got halving {told!r}, expected steps = [..] and keep")
    require_finite(f"{path}: keep", told["keep"], above=True, below=1.0)
    steps = told["steps"]
    if not isinstance(steps, list) or not steps:
        raise ValueError(f"{path}: got steps {steps!r}, expected a list of numbers that rise")
    for count in steps:
        require_count(f"{path}: steps", count, 1)
    if sorted(set(steps)) != steps:
        raise ValueError(f"{path}: got steps {steps}, expected numbers that rise")
    return Halving(tuple(steps), float(told["keep"]))


def _rows(path: Path) -> list[Mapping]:
    """The rows of a data file, as in the file. Raises ValueError for one that can't be used."""
    rows = []
    for record in iter_records(path):
        if isinstance(record, Problem):
            raise ValueError(f"{record}")
        if record.text:
            raise ValueError(f"{record.source} is plain text, expected prompts with completions")
        rows.append(record.row)
    return rows


def _mixed(parts: tuple[Part, ...]) -> list[Mapping]:
    rng, rows = np.random.default_rng(0), []
    for part in parts:
        own = _rows(part.path)
        count = len(own) if part.rows is None else part.rows
        if count > len(own):
            raise ValueError(f"{part.path} has {len(own)} rows, expected {count} to draw")
        rows += [own[i] for i in rng.permutation(len(own))[:count]]
    return [rows[i] for i in rng.permutation(len(rows))]

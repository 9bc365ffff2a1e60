"""Rules of a gate: how much of what may be lost, and which metrics decide; from a TOML file."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from minilora.limits import require_finite

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DROP, GROUP_DROP = 0.05, 0.10
"""Tolerated where no rule says more. A group has few rows: 60 tell no drop of 5 % from none."""


@dataclass(frozen=True)
class Threshold:
    """What a metric must keep to.

    drop: how much of its share may be lost at most; below 0 it must grow. least: what the share
    must be at least; None for no such bound. gating: whether it decides, or only informs.
    Raises ValueError for a drop outside -1 < drop < 1, or least outside 0 < least < 1.
    """

    drop: float = DROP
    least: float | None = None
    gating: bool = True

    def __post_init__(self) -> None:
        require_finite("drop", self.drop, -1.0, above=True, below=1.0)
        if self.least is not None:
            require_finite("least", self.least, 0.0, above=True, below=1.0)
        if not isinstance(self.gating, bool):
            raise ValueError(f"got gating {self.gating!r}, expected true or false")


@dataclass(frozen=True)
class Rules:
    """The rules of a gate.

    confidence: of every interval, and 1 less twice the error of each one-sided test. power: of
    "could have seen". drop, group_drop: tolerated of a metric that no rule names, over a whole file
    or one of its groups. metrics: rules by the metric's name. Raises ValueError for what is no
    sensible number.
    """

    confidence: float = 0.95
    power: float = 0.8
    drop: float = DROP
    group_drop: float = GROUP_DROP
    metrics: Mapping[str, Threshold] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("confidence", "power"):
            require_finite(name, getattr(self, name), 0.5, above=True, below=1.0)
        for name in ("drop", "group_drop"):
            require_finite(name, getattr(self, name), -1.0, above=True, below=1.0)

    @property
    def alpha(self) -> float:
        """Error of each one-sided test."""
        return (1 - self.confidence) / 2

    def threshold(self, name: str, group: bool) -> Threshold:
        """The threshold of a metric; group: whether it is of a part of a file's rows."""
        return self.metrics.get(name) or Threshold(self.group_drop if group else self.drop)

    def require_known(self, names: Collection[str]) -> None:
        """Raise ValueError for a rule on a metric that there is not."""
        for name in self.metrics:
            if name not in names:
                raise ValueError(
                    f"got rules for {name!r}, expected one of the metrics: {', '.join(names)}"
                )

    def to_dict(self) -> dict:
        """JSON-ready."""
        metrics = {name: vars(one) for name, one in self.metrics.items()}
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "metrics": metrics}


def read_rules(path: Path) -> Rules:
    """The rules of a TOML file. Raises OSError, or ValueError naming file, key and what was got.

    Keys: confidence, power, drop, group_drop, and for each metric a table [metrics."NAME"] with
    drop, least, gating.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    try:
        metrics = found.pop("metrics", {})
        if not isinstance(metrics, dict):
            raise ValueError(f"got metrics {metrics!r}, expected a table for each metric")
        rules = replace(Rules(), **_known(found, Rules, "the file"))
        by_name = {}
        for name, table in metrics.items():
            if not isinstance(table, dict):
                raise ValueError(f"got metrics.{name} {table!r}, expected a table")
            by_name[name] = Threshold(**_known(table, Threshold, f"metrics.{name}"))
        return replace(rules, metrics=by_name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _known(table: Mapping, kind: type, where: str) -> dict:
    """A table's entries. Raises ValueError for a key that `kind` has no field for."""
    names = [f.name for f in fields(kind) if f.name != "metrics"]
    for key in table:
        if key not in names:
            raise ValueError(f"got key {key!r} in {where}, expected one of {', '.join(names)}")
    return dict(table)

"""Composing: adapters from folders into one folder, and what it does to every task it touches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minilora.evaluation.cases import Case, read_cases
from minilora.evaluation.touched import Touched, share_right
from minilora.evaluation.variants import Variant, score_variant, with_room
from minilora.hub.bases import open_base, public_name
from minilora.hub.several import NamedAdapter, base_dtype_of_all, base_of_all
from minilora.lora import Adapter, Composition, attach, combine, mark_base
from minilora.lora.deltas import modules_of
from minilora.lora.exchange import wearing
from minilora.lora.forecast import Disturbance, disturbance, layer_inputs
from minilora.lora.peft_format import CONFIG, SIDECAR, TENSORS
from minilora.nn import Transformer
from minilora.processes import recommended_workers
from minilora.runs.folder import require_free
from minilora.runs.plan import Clock, Reporter, paths_from_texts, require_workers
from minilora.storage import atomic_write, require_place
from minilora.text import Tokenizer
from minilora.text.answers import prompt_ids

FORECAST_ROWS = 16
"""Rows of a task whose inputs the forecast looks at."""


@dataclass(frozen=True)
class WeightedAdapter:
    """A part of a composition: its name, folder and weight."""

    name: str
    folder: Path
    weight: float = 1.0


@dataclass(frozen=True)
class Task:
    """A task that is evaluated; it belongs to the adapter of its name, where there is one."""

    name: str
    data: Path


@dataclass(frozen=True, kw_only=True)
class ComposePlan:
    """All that decides a composition. how, rank, density and seed as `combine` takes them.

    tasks: evaluated with the base, each adapter alone and the composition; () for none. rows: only
    the first so many of each. workers: processes that write the answers, 0 for one a core. base,
    base_dtype: None for what the adapters say.
    """

    parts: tuple[WeightedAdapter, ...]
    out: Path
    how: str = "cat"
    rank: int | None = None
    density: float = 0.5
    seed: int = 0
    tasks: tuple[Task, ...] = ()
    rows: int | None = None
    base: str | None = None
    base_dtype: str | None = None
    device: str = "cpu"
    workers: int = 0
    json_file: Path | None = None

    def __post_init__(self) -> None:
        paths_from_texts(self)
        require_workers(self.workers)
        require_place("--json", self.json_file)
        require_free(self.out, CONFIG, (CONFIG, TENSORS, SIDECAR), "an adapter of minilora's")
        for kind, named in (("--eval", self.tasks), ("adapter", self.parts)):
            names = [one.name for one in named]
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise ValueError(f"got {kind} {twice[0]!r} twice, expected a name for each")


@dataclass(frozen=True)
class Composed:
    """What came out. forecast: (a, b) -> how b disturbs a; {} where there are no tasks."""

    plan: ComposePlan
    adapter: Adapter
    report: Composition
    touched: Touched | None
    forecast: Mapping[tuple[str, str], Disturbance]
    seconds: Mapping[str, float]

    def to_dict(self) -> dict:
        """JSON-ready."""
        pairs = [
            {"disturbed": a, "by": b, **one.to_dict()} for (a, b), one in self.forecast.items()
        ]
        touched = None if self.touched is None else self.touched.to_dict()
        return {"composition": self.report.to_dict(), "forecast": pairs, "tasks": touched}


def compose(plan: ComposePlan, reporter: Reporter | None = None) -> Composed:
    """Join the adapters, write the result, and evaluate every task of the plan.

    The folder is written once all is known to be right but before the evaluation, whose rows that
    can't be used go to the reporter. Raises what `combine` and `read_cases` do, and ValueError for
    a base that is not the adapters'.
    """
    reporter, clock = reporter or Reporter(), Clock()
    adapters = {part.name: Adapter.read(part.folder) for part in plan.parts}
    joined, report = combine(
        list(adapters.values()),
        [part.weight for part in plan.parts],
        plan.how,
        names=list(adapters),
        rank=plan.rank,
        density=plan.density,
        seed=plan.seed,
    )
    cases = {}
    for task in plan.tasks:
        read = read_cases(task.data, plan.rows)
        if read.problems:
            reporter.left_out(task.data, read.problems)
        if not read.cases:
            raise ValueError(f"{task.data} has only texts, expected prompts with their answers")
        cases[task.name] = read.cases
    clock.lap("joining")
    touched, forecast = None, {}
    if cases:
        chosen = [NamedAdapter(part.name, part.folder) for part in plan.parts]
        name = base_of_all(plan.base, chosen)
        dtype = base_dtype_of_all(plan.base_dtype, chosen)
        model, tokenizer = open_base(name, dtype, plan.device)
        mark = mark_base(model, public_name(name), tokenizer, quick=True)
        for adapter in (*adapters.values(), joined):
            attach(model, adapter, base=mark).detach()
        rooms = _rooms(plan, cases, model, tokenizer, reporter)
        clock.lap("opening")
    joined.write(plan.out)
    if cases:
        weights = {part.name: part.weight for part in plan.parts}
        forecast = forecast_of(model, tokenizer, adapters, cases, weights)
        clock.lap("forecast")

        def scores(label: str, adapter: Adapter | None) -> dict[str, float]:
            with wearing(model, adapter, mark):
                found = {
                    task: score_variant(
                        model, tokenizer, own, Variant(f"{label}: {task}"), rooms[task],
                        reporter.bars, plan.workers or recommended_workers(),
                    ).outputs
                    for task, own in cases.items()
                }  # fmt: skip
            clock.lap(label)
            return {task: share_right(cases[task], outputs) for task, outputs in found.items()}

        touched = Touched(
            rows={task: len(own) for task, own in cases.items()},
            base=scores("base", None),
            alone={label: scores(label, adapter) for label, adapter in adapters.items()},
            composed=scores("composition", joined),
        )
    composed = Composed(plan, joined, report, touched, forecast, clock.laps)
    if plan.json_file is not None:
        text = json.dumps(composed.to_dict(), indent=2, ensure_ascii=False) + "\n"
        atomic_write(plan.json_file, text.encode())
    return composed


def _rooms(
    plan: ComposePlan,
    cases: dict[str, Sequence[Case]],
    model: Transformer,
    tokenizer: Tokenizer,
    reporter: Reporter,
) -> dict[str, int]:
    """Task -> tokens of an answer. Cases without room leave `cases`; at least one must stay."""
    rooms = {}
    for task in plan.tasks:
        limit = model.config.max_position_embeddings
        cases[task.name], rooms[task.name], long = with_room(
            cases[task.name], [Variant(task.name)], tokenizer, limit
        )
        if long:
            reporter.left_out(task.data, long)
        if not cases[task.name]:
            raise ValueError(f"{task.data}: no row can be asked; the first left out is {long[0]}")
    return rooms


def forecast_of(
    model: Transformer,
    tokenizer: Tokenizer,
    adapters: Mapping[str, Adapter],
    cases: Mapping[str, Sequence[Case]],
    weights: Mapping[str, float] | None = None,
) -> dict[tuple[str, str], Disturbance]:
    """(a, b) -> how b disturbs a, on the first FORECAST_ROWS cases of the task of a's name.

    The inputs are those of the base; adapters without a task of their name are only disturbers.
    weights: by adapter, 1 where not given.
    """
    weights, found = weights or {}, {}
    for a in adapters:
        if a not in cases:
            continue
        rows = [
            prompt_ids(tokenizer, case.messages) + tokenizer.encode(case.expected)
            for case in cases[a][:FORECAST_ROWS]
        ]
        inputs = layer_inputs(model, rows, modules_of(*adapters.values()))
        for b in adapters:
            if a != b:
                pair = weights.get(a, 1.0), weights.get(b, 1.0)
                found[a, b] = disturbance(adapters[a], adapters[b], inputs, pair)
    return found

"""Diffing: two adapters, or an adapter and its base: settings, ΔW, scores, answers, and causes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from minilora.backend import blas_threads, recommended_blas_threads
from minilora.evaluation.behaviour import Change, Choice, Parting, find_changes
from minilora.evaluation.cases import Case, read_cases
from minilora.evaluation.causes import Cause, KnockOuts, find_causes
from minilora.evaluation.judge import Judge
from minilora.evaluation.variants import Variant, VariantScore, score_outputs, with_room
from minilora.hub.bases import WARD, find_base, open_base, public_name
from minilora.hub.revisions import read_adapter
from minilora.hub.several import BASE
from minilora.lora import Adapter, BaseMark, attach, mark_base
from minilora.lora.deltas import ModuleDiff, compare_deltas, settings_differences
from minilora.lora.exchange import wearing
from minilora.nn import Transformer, bytes_by_format
from minilora.processes import recommended_workers
from minilora.runs.diff_page import page
from minilora.runs.plan import Clock, Reporter, paths_from_texts, require_workers
from minilora.storage import atomic_write, require_place, sha256_file
from minilora.text import Tokenizer, encode_records
from minilora.text.answers import answer_ids
from minilora.text.streaming import answer_text

CAUSES_COST = 1e13
"""Parameters times tokens that the search for causes may read, unless a number of them is asked
for: on ward-base every answer that changed, on SmolLM2 with its 210 modules one or two."""


@dataclass(frozen=True, kw_only=True)
class DiffPlan:
    """All that decides a diff: two sides, and how they are asked.

    a, b: an adapter's folder, "REV:PATH" of one in git, or "__base__". data: prompts with the
    answers to compare with, and plain texts whose loss is taken; None compares settings and ΔW
    alone and opens no model. rows: only the first so many. base, base_dtype: None for what the
    adapters say. causes: for how many changed answers a cause is looked for, None for what
    CAUSES_COST allows. raw: prompts are continued as they are. workers: processes that write the
    answers, 0 for one a core; causes are looked for in this one, a set of modules after the other.
    json_file, html_file: where all of it is written as well.
    """

    a: str
    b: str
    data: Path | None = None
    base: str | None = None
    base_dtype: str | None = None
    device: str = "cpu"
    rows: int | None = None
    causes: int | None = None
    raw: bool = False
    workers: int = 0
    json_file: Path | None = None
    html_file: Path | None = None

    def __post_init__(self) -> None:
        paths_from_texts(self)
        require_workers(self.workers)
        if self.causes is not None and self.causes < 0:
            raise ValueError(f"got --causes {self.causes}, expected 0 or more")
        require_place("--json", self.json_file)
        require_place("--html", self.html_file)


@dataclass(frozen=True)
class Side:
    """One side: what it is called, and its adapter, None for the base."""

    name: str
    adapter: Adapter | None


@dataclass(frozen=True)
class Answered:
    """What came of the data: scores of each side, what changed, and why.

    causes: of the first so many changes. moved: how many cases went from (right or not in a) to
    (right or not in b). turned: whether the modules are a's, as b is the base.
    """

    cases: Sequence[Case]
    texts: int
    scores: tuple[VariantScore, VariantScore]
    changes: Sequence[Change]
    causes: Sequence[Cause]
    moved: Mapping[tuple[bool, bool], int]
    turned: bool = False

    @property
    def cause_counts(self) -> dict[str, tuple[int, int]]:
        """Module -> how many of the answers looked at hang on it alone, and on a set with it."""
        modules = self.causes[0].effects if self.causes else ()
        sets = [cause.modules for cause in self.causes]
        return {
            name: (sets.count((name,)), sum(name in own and len(own) > 1 for own in sets))
            for name in modules
        }

    @property
    def whole(self) -> int:
        """How many answers are wholly the other side's without the modules that they hang on."""
        pairs = zip(self.changes, self.causes, strict=False)
        other = "b" if self.turned else "a"
        return sum(getattr(change, other) == cause.answer for change, cause in pairs)


@dataclass(frozen=True)
class Diff:
    """What a diff found. settings: key -> (of a, of b), where they differ.

    both_adapters: whether neither side is the base, so that a module is exchanged and not left out.
    """

    plan: DiffPlan
    names: tuple[str, str]
    base: str
    settings: Mapping[str, tuple]
    modules: Sequence[ModuleDiff]
    answered: Answered | None
    both_adapters: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """JSON-ready."""
        told: dict = {
            "a": self.names[0],
            "b": self.names[1],
            "both_adapters": self.both_adapters,
            "base": self.base,
            "settings": {key: list(pair) for key, pair in self.settings.items()},
            "modules": [one.to_dict() for one in self.modules],
        }
        if self.answered is None:
            return told
        found = self.answered
        causes = [cause.to_dict() for cause in found.causes]
        causes += [None] * (len(found.changes) - len(causes))
        return told | {
            "data": self.plan.data.name,
            "sha256": sha256_file(self.plan.data),
            "rows": len(found.cases) + found.texts,
            "scores": [_scores(one) for one in found.scores],
            "wrong_to_right": found.moved.get((False, True), 0),
            "right_to_wrong": found.moved.get((True, False), 0),
            "causes": {
                "of": len(found.causes),
                "whole": found.whole,
                "modules": found.cause_counts,
            },
            "changed": [
                {**change.to_dict(), "cause": cause}
                for change, cause in zip(found.changes, causes, strict=True)
            ],
        }


def _scores(score: VariantScore) -> dict:
    told = score.to_dict()
    return {
        key: told[key] for key in ("name", "exact", "house", "loss", "loss_rows") if key in told
    }


def diff(plan: DiffPlan, reporter: Reporter | None = None) -> Diff:
    """Compare the two sides, and ask both the same cases where the plan has data.

    Rows that can't be used go to the reporter. Raises ValueError where no side is an adapter, the
    adapters are of two bases, or no row can be asked; and OSError.
    """
    reporter, clock = reporter or Reporter(), Clock()
    sides = open_sides(plan.a, plan.b)
    name = _base_name(plan, sides)
    a, b = (side.adapter for side in sides)
    modules, settings = compare_deltas(a, b), settings_differences(a, b)
    clock.lap("comparing ΔW")
    answered = None
    if plan.data is not None:
        answered = _ask(plan, sides, name, reporter, clock)
    names = (sides[0].name, sides[1].name)
    result = Diff(plan, names, name, settings, modules, answered, None not in (a, b), clock.laps)
    if plan.json_file is not None:
        text = json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n"
        atomic_write(plan.json_file, text.encode())
    if plan.html_file is not None:
        atomic_write(plan.html_file, page(result.to_dict()).encode())
    return result


def open_sides(a: str, b: str) -> tuple[Side, Side]:
    """The two sides of a diff, the base under its own name.

    Raises ValueError where neither is an adapter, AdapterError as `read_adapter`.
    """
    if a == b == BASE:
        raise ValueError(f"got {BASE} on both sides, expected an adapter on one at least")
    return tuple(
        Side("base", None) if text == BASE else Side(text, read_adapter(text)) for text in (a, b)
    )


def _base_name(plan: DiffPlan, sides: Sequence[Side]) -> str:
    """The base that both are of: as asked, else the one that they name, else ward-base."""
    if plan.base is not None:
        return plan.base
    adapters = [side.adapter for side in sides if side.adapter is not None]
    names = list(dict.fromkeys(one.base_name or WARD for one in adapters))
    if len(names) > 1 and find_base(names[0]).resolve() != find_base(names[1]).resolve():
        raise ValueError(
            f"{adapters[0].source} was made for base {names[0]!r} and {adapters[1].source} for "
            f"{names[1]!r}; expected adapters of one base, or --base to say which"
        )
    return names[0]


def _base_dtype(plan: DiffPlan, sides: Sequence[Side]) -> str:
    if plan.base_dtype is not None:
        return plan.base_dtype
    adapters = [side.adapter for side in sides if side.adapter is not None]
    kept = {one.provenance.get("base_dtype", "float32"): one.source for one in adapters}
    if len(kept) > 1:
        (first, one), (second, other) = kept.items()
        raise ValueError(
            f"{one} was trained over a base in {first} and {other} over one in {second}; expected "
            "adapters of one base, or --base-dtype to say which"
        )
    return next(iter(kept))


def _ask(
    plan: DiffPlan, sides: tuple[Side, Side], name: str, reporter: Reporter, clock: Clock
) -> Answered:
    cases, texts, problems = read_cases(plan.data, plan.rows, plan.raw)
    model, tokenizer = open_base(name, _base_dtype(plan, sides), plan.device)
    mark = mark_base(model, public_name(name), tokenizer, quick=True)
    for side in sides:  # what is wrong with one is said before the other has answered
        if side.adapter is not None:
            attach(model, side.adapter, base=mark).detach()
    limit, room, variant = model.config.max_position_embeddings, 1, Variant("", raw=plan.raw)
    if cases:
        cases, room, too_long = with_room(cases, [variant], tokenizer, limit)
        problems += too_long
    examples, bad_texts = encode_records(tokenizer, texts, limit)
    problems += bad_texts
    if problems:
        reporter.left_out(plan.data, problems)
    if not cases and not examples:
        raise ValueError(f"{plan.data}: no row can be asked; the first left out is {problems[0]}")
    judge = Judge(tokenizer, examples, bars=reporter.bars)
    clock.lap("opening")
    workers = plan.workers or recommended_workers()
    scores, answered = [], []
    for side in sides:
        named, prompts = replace(variant, name=side.name), [variant.prompt(case) for case in cases]
        with wearing(model, side.adapter, mark):
            bar = side.name if reporter.bars else ""
            ids = answer_ids(model, tokenizer, prompts, room, progress=bar, workers=workers)
            outputs = [answer_text(tokenizer, one, room) for one in ids]
            score = score_outputs(cases, named, outputs) if cases else VariantScore(named)
            if examples:
                loss = judge.loss(model, progress=judge.bar(f"loss of {side.name}"))
                score = replace(score, loss=loss, loss_rows=len(examples))
        scores.append(score)
        answered.append(ids)
        clock.lap(f"asking {side.name}")
    worn = tuple(lambda one=side.adapter: wearing(model, one, mark) for side in sides)
    with blas_threads(recommended_blas_threads(model.config.hidden_size)):
        changes = find_changes(model, tokenizer, cases, variant, tuple(answered), worn, room)
    moved = Counter(
        (x == case.expected.strip(), y == case.expected.strip())
        for case, x, y in zip(cases, *(one.outputs for one in scores), strict=True)
    )
    causes = _causes(plan, sides, model, tokenizer, mark, changes, room, reporter.bars)
    clock.lap("looking for causes")
    return Answered(
        cases, len(examples), tuple(scores), changes, causes, dict(moved), sides[1].adapter is None
    )


def _causes(
    plan: DiffPlan,
    sides: tuple[Side, Side],
    model: Transformer,
    tokenizer: Tokenizer,
    mark: BaseMark,
    changes: Sequence[Change],
    room: int,
    bars: bool,
) -> list[Cause]:
    """The causes of the first changes. Where b is the base, of what a does and it does not."""
    a, b = (side.adapter for side in sides)
    if b is None:
        changes, a, b = [_turned(change) for change in changes], b, a
    knock_outs = KnockOuts(model, b, a, mark)
    count = plan.causes
    if count is None:
        size = sum(numbers for numbers, _ in bytes_by_format(model).values())
        spent, count = 0.0, 0
        for change in changes:
            spent += size * len(change.parting.context) * len(knock_outs.modules)
            if spent > CAUSES_COST and count:
                break
            count += 1
    return find_causes(
        knock_outs, tokenizer, changes[:count], Variant("", raw=plan.raw), room, bars
    )


def _turned(change: Change) -> Change:
    """The same change with its sides in the other order."""

    def turned(choice: Choice) -> Choice:
        return replace(choice, in_a=choice.in_b, in_b=choice.in_a)

    own = change.parting
    parting = Parting(own.shared, own.text, turned(own.b), turned(own.a), own.context)
    return replace(change, a=change.b, b=change.a, parting=parting)

"""Comparing: a base, its prompts and its adapters on the rows of one file, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minilora.evaluation.cases import Case, choose_shots, read_cases
from minilora.evaluation.judge import Judge
from minilora.evaluation.variants import Variant, VariantScore, score_variant, with_room
from minilora.hub.bases import open_base
from minilora.hub.several import BASE, NamedAdapter, base_dtype_of_all, base_of_all, in_turn
from minilora.processes import recommended_workers
from minilora.runs.plan import Clock, Reporter, paths_from_texts, require_workers
from minilora.storage import atomic_write, require_place, sha256_file
from minilora.text import encode_records


@dataclass(frozen=True, kw_only=True)
class ComparePlan:
    """All that decides a comparison: settings and paths.

    data: prompts with the answers to compare with, and plain texts whose loss is taken. rows: only
    the first so many. as_text: whether `data` is plain text, whatever it looks like. instruction,
    shots (taken from examples): how the base is asked as well. raw: prompts are continued as they
    are, for models trained on plain text. workers: processes that write the answers, 0 for one a
    core. base, base_dtype: None for what the adapters say.
    json_file: where scores and answers are written as well.
    """

    data: Path
    adapters: tuple[NamedAdapter, ...] = ()
    base: str | None = None
    base_dtype: str | None = None
    device: str = "cpu"
    rows: int | None = None
    instruction: str | None = None
    shots: int | None = None
    examples: Path | None = None
    raw: bool = False
    as_text: bool = False
    workers: int = 0
    json_file: Path | None = None

    def __post_init__(self) -> None:
        paths_from_texts(self)
        require_workers(self.workers)
        if (self.shots is None) != (self.examples is None):
            raise ValueError("got one of --shots and --examples, expected both or none")
        if self.raw and self.shots is not None:
            raise ValueError(
                "got --raw and --shots, expected one of them: shots are turns of a chat"
            )
        if self.instruction is not None and not self.instruction.strip():
            raise ValueError("got an empty --instruction, expected a text")
        require_place("--json", self.json_file)


@dataclass(frozen=True)
class Comparison:
    """What came out: the cases that were asked, a column of scores a variant, seconds by part."""

    plan: ComparePlan
    base: str
    base_dtype: str
    cases: Sequence[Case]
    texts: int
    columns: Sequence[VariantScore]
    seconds: Mapping[str, float]

    def to_dict(self) -> dict:
        """JSON-ready."""
        return {
            "data": self.plan.data.name,
            "sha256": sha256_file(self.plan.data),
            "rows": len(self.cases) + self.texts,
            "base": self.base,
            "base_dtype": self.base_dtype,
            "variants": [column.to_dict() for column in self.columns],
        }


def compare(plan: ComparePlan, reporter: Reporter | None = None) -> Comparison:
    """Ask the base in every variant, then each adapter, and score what they answer.

    The base always has a column, so that an adapter stands beside what a prompt gets. Rows that
    can't be used go to the reporter. Raises ValueError where none is left, or for what the plan,
    the base or an adapter does not allow, before anything is answered; OSError.
    """
    reporter, clock = reporter or Reporter(), Clock()
    cases, texts, problems = read_cases(plan.data, plan.rows, plan.raw, plan.as_text)
    variants = base_variants(plan, cases)
    chosen = [NamedAdapter(BASE), *(one for one in plan.adapters if one.folder is not None)]
    dtype, name = base_dtype_of_all(plan.base_dtype, chosen), base_of_all(plan.base, chosen)
    model, tokenizer = open_base(name, dtype, plan.device)
    limit, room = model.config.max_position_embeddings, 1
    if cases:
        cases, room, too_long = with_room(cases, variants, tokenizer, limit)
        problems += too_long
    examples, bad_texts = encode_records(tokenizer, texts, limit)
    problems += bad_texts
    if problems:
        reporter.left_out(plan.data, problems)
    if not cases and not examples:
        raise ValueError(f"{plan.data}: no row can be asked; the first left out is {problems[0]}")
    judge = Judge(tokenizer, examples, bars=reporter.bars)
    clock.lap("opening")
    columns, workers = [], plan.workers or recommended_workers()
    for one in in_turn(model, tokenizer, chosen, name):
        for variant in variants if one.folder is None else [Variant(one.name, raw=plan.raw)]:
            score = score_variant(model, tokenizer, cases, variant, room, reporter.bars, workers)
            if examples and not (variant.instruction or variant.shots):
                loss = judge.loss(model, progress=judge.bar(f"loss of {variant.name}"))
                score = replace(score, loss=loss, loss_rows=len(examples))
            columns.append(replace(score, adapter=str(one.folder or "")))
            clock.lap(variant.name)
    result = Comparison(plan, name, dtype, cases, len(examples), columns, clock.laps)
    if plan.json_file is not None:
        text = json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n"
        atomic_write(plan.json_file, text.encode())
    return result


def base_variants(plan: ComparePlan, cases: Sequence[Case]) -> list[Variant]:
    """How the base is asked: as the data does, with the instruction, with shots and all of it."""
    variants = [Variant("base", raw=plan.raw)]
    if plan.instruction is not None:
        variants.append(Variant("base, instructed", plan.instruction, raw=plan.raw))
    if plan.shots is not None:
        shots = choose_shots(read_cases(plan.examples)[0], plan.shots, cases)
        name = f"base, {plan.shots} shot{'s'[: plan.shots > 1]}"
        variants.append(Variant(name, plan.instruction, tuple(shots)))
    return variants

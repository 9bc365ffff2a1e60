"""Gating: a base and what is to be shipped on the same rows, and whether it may be shipped."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minilora import __version__
from minilora.evaluation.cases import Case, read_cases
from minilora.evaluation.gate import (
    Gate,
    Sheet,
    judge_sheets,
    metrics_asked,
    row_key,
    thresholds_of,
)
from minilora.evaluation.junit import junit
from minilora.evaluation.rules import Rules, read_rules
from minilora.evaluation.stopping import StoppingGate
from minilora.evaluation.variants import Variant, with_room
from minilora.hub.bases import base_dtype_of, base_of, open_base, public_name
from minilora.limits import require_count
from minilora.lora import Adapter, attach, base_fingerprint, mark_base
from minilora.nn import Transformer
from minilora.processes import recommended_workers
from minilora.runs.plan import Clock, Reporter, paths_from_texts, require_workers
from minilora.storage import atomic_write, read_json, require_place, sha256_file
from minilora.text import Tokenizer
from minilora.text.answers import answers

Ask = Callable[[Sequence[Case], str], list[str]]
"""Cases and the name of a bar -> answers."""


@dataclass(frozen=True, kw_only=True)
class GatePlan:
    """All that decides a gate: settings and paths.

    adapter: to be shipped on the base, as it is or, with `merge`, merged into its weights. model:
    to be shipped in place of the base, a merged model's folder; one of the two. suites, tasks: rows
    of what may not be lost, and of the job itself. baseline: an earlier gate's evidence, whose
    candidate is compared with in place of the base. rules: a TOML file. rows: only the first so
    many of each file. sequential: stop as soon as it is decided; seed: of the order then. workers:
    processes that write the answers, 0 for one a core; no row is asked for their sake. base,
    base_dtype: None for what the adapter says. json_file, junit_file: what is written.
    """

    adapter: Path | None = None
    model: Path | None = None
    merge: bool = False
    suites: tuple[Path, ...] = ()
    tasks: tuple[Path, ...] = ()
    base: str | None = None
    base_dtype: str | None = None
    device: str = "cpu"
    baseline: Path | None = None
    rules: Path | None = None
    rows: int | None = None
    sequential: bool = False
    seed: int = 0
    workers: int = 0
    json_file: Path | None = None
    junit_file: Path | None = None

    def __post_init__(self) -> None:
        paths_from_texts(self)
        require_workers(self.workers)
        for name in ("suites", "tasks"):
            object.__setattr__(self, name, tuple(Path(path) for path in getattr(self, name)))
        require_count("seed", self.seed, 0)
        if (self.adapter is None) == (self.model is None):
            raise ValueError("got both or none of --adapter and --model, expected one of them")
        if self.merge and self.adapter is None:
            raise ValueError("got --merge without --adapter, expected an adapter to merge")
        files = [*self.suites, *self.tasks]
        if not files:
            raise ValueError("got no rows to compare, expected --suite or --task")
        names = [path.stem for path in files]
        if len(set(names)) < len(names):
            raise ValueError(
                f"got files named {', '.join(names)}, expected names that differ, as metrics have "
                "them in theirs"
            )
        require_place("--json", self.json_file)
        require_place("--junit", self.junit_file)


@dataclass(frozen=True)
class Gated:
    """What came out. about: what was compared, JSON-ready. asked, of: rows."""

    plan: GatePlan
    gate: Gate
    about: Mapping
    asked: int
    of: int
    seconds: Mapping[str, float]

    def to_dict(self) -> dict:
        """The evidence, JSON-ready: what was compared, measures, and every row with its answers."""
        return {**self.about, "rows_asked": self.asked, "rows_of": self.of, **self.gate.to_dict()}


def run_gate(plan: GatePlan, reporter: Reporter | None = None) -> Gated:
    """Ask both models, compare, and write the evidence.

    Rows that can't be used go to the reporter. Raises ValueError for what plan, rules, baseline,
    base or adapter do not allow, before anything is answered; OSError.
    """
    reporter, clock = reporter or Reporter(), Clock()
    rules = Rules() if plan.rules is None else read_rules(plan.rules)
    baseline = None if plan.baseline is None else read_baseline(plan.baseline)
    name = base_of(plan.base, plan.adapter)
    dtype = base_dtype_of(plan.adapter) if plan.base_dtype is None else plan.base_dtype
    model, tokenizer = open_base(name, dtype, plan.device)
    files, room = read_files(plan, tokenizer, model.config.max_position_embeddings, reporter)
    thresholds_of([m for file in files for m in metrics_asked(*file)], rules)
    if baseline is not None:
        require_rows(plan.baseline, baseline, files)
    about = {
        "format": 1,
        "minilora_version": __version__,
        "base": public_name(name),
        "base_dtype": dtype,
        "base_fingerprint": base_fingerprint(model),
        "files": {path.name: sha256_file(path) for path in (*plan.suites, *plan.tasks)},
        "baseline": None if plan.baseline is None else plan.baseline.name,
        "sequential": plan.sequential,
        "seed": plan.seed,
    }

    def ask_base(cases: Sequence[Case], bar: str) -> list[str]:
        if baseline is not None:
            return [baseline[row_key(case)] for case in cases]
        return asked(model, tokenizer, cases, room, bar, plan.workers)

    ask_candidate, candidate = open_candidate(plan, model, tokenizer, name, room)
    about["candidate"] = candidate
    clock.lap("opening")
    total = sum(len(cases) for _, cases in files)
    if plan.sequential:
        gate = gate_in_stages(plan, files, rules, ask_base, ask_candidate)
    else:
        gate = gate_of_all(files, rules, ask_base, ask_candidate, reporter.bars)
    clock.lap("asking and comparing")
    rows = sum(len(sheet.cases) for sheet in gate.sheets)
    result = Gated(plan, gate, about, rows, total, clock.laps)
    if plan.json_file is not None:
        text = json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n"
        atomic_write(plan.json_file, text.encode())
    if plan.junit_file is not None:
        shipped = plan.adapter or plan.model
        atomic_write(plan.junit_file, junit(gate, shipped.resolve().name))
    return result


def read_files(
    plan: GatePlan, tokenizer: Tokenizer, limit: int, reporter: Reporter
) -> tuple[list[tuple[str, list[Case]]], int]:
    """(name, cases) of each file, and the tokens that an answer may have. Errors: `askable`."""
    files, room = [], 1
    for path in (*plan.suites, *plan.tasks):
        cases, own = askable(path, plan.rows, tokenizer, limit, reporter)
        files.append((path.stem, cases))
        room = max(room, own)
    return files, room


def askable(
    path: Path, rows: int | None, tokenizer: Tokenizer, limit: int, reporter: Reporter
) -> tuple[list[Case], int]:
    """The first `rows` of a file that can be asked, and the tokens that an answer may have.

    The others go to the reporter. limit: positions that the base can read. Raises ValueError for a
    file of which no row can be asked, or with rows that have no answer.
    """
    cases, texts, problems = read_cases(path, rows)
    if texts:
        raise ValueError(
            f"{path} has plain texts ({texts[0].source}), which have no right answer; expected "
            "prompts with completions, or chats"
        )
    room = 1
    if cases:
        cases, room, too_long = with_room(cases, [Variant("base")], tokenizer, limit)
        problems += too_long
    if problems:
        reporter.left_out(path, problems)
    if not cases:
        raise ValueError(f"{path}: no row can be asked; the first left out is {problems[0]}")
    return cases, room


def asked(
    model: Transformer,
    tokenizer: Tokenizer,
    cases: Sequence[Case],
    room: int,
    bar: str,
    workers: int = 0,
) -> list[str]:
    """The model's answers to cases. workers: processes that write them, 0 for one a core."""
    prompts, workers = [list(case.messages) for case in cases], workers or recommended_workers()
    return answers(model, tokenizer, prompts, room, progress=bar, workers=workers)


def open_candidate(
    plan: GatePlan, model: Transformer, tokenizer: Tokenizer, base: str, room: int
) -> tuple[Ask, dict]:
    """How to ask what is to be shipped, and what it is, JSON-ready.

    An adapter is on the base only while it is asked. Raises ValueError for one that does not fit,
    or a model that speaks another vocabulary.
    """
    if plan.model is not None:
        other, words = open_base(str(plan.model), "float32", plan.device, "--model")
        if mark_base(other, "", words).tokenizer != mark_base(model, "", tokenizer).tokenizer:
            raise ValueError(
                f"got --model {plan.model}, whose tokenizer is another than the base's {base}; "
                "expected a model that was made from it"
            )
        about = {"kind": "model", "name": plan.model.resolve().name}
        about["fingerprint"] = base_fingerprint(other)
        return lambda cases, bar: asked(other, words, cases, room, bar, plan.workers), about
    adapter = Adapter.read(plan.adapter)
    mark = mark_base(model, public_name(base), tokenizer, quick=True)
    attach(model, adapter, base=mark).detach()  # refused, and warned of, once and now

    def ask(cases: Sequence[Case], bar: str) -> list[str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said above
            attachment = attach(model, adapter, base=mark)
        if plan.merge:
            attachment.merge()
        texts = asked(model, tokenizer, cases, room, bar, plan.workers)
        if plan.merge:
            attachment.unmerge()
        attachment.detach()
        return texts

    return ask, {
        "kind": "merged adapter" if plan.merge else "adapter",
        "name": plan.adapter.resolve().name,
        "fingerprint": adapter.fingerprint,
    }


def gate_of_all(
    files: Sequence[tuple[str, Sequence[Case]]],
    rules: Rules,
    ask_base: Ask,
    ask_candidate: Ask,
    bars: bool,
) -> Gate:
    """Every row is asked."""
    before = [ask_base(cases, f"{name}, before" if bars else "") for name, cases in files]
    after = [ask_candidate(cases, f"{name}, after" if bars else "") for name, cases in files]
    sheets = [
        Sheet(name, cases, *texts)
        for (name, cases), *texts in zip(files, before, after, strict=True)
    ]
    return judge_sheets(sheets, rules)


def gate_in_stages(
    plan: GatePlan,
    files: Sequence[tuple[str, Sequence[Case]]],
    rules: Rules,
    ask_base: Ask,
    ask_candidate: Ask,
) -> Gate:
    """Rows are asked until it is decided."""
    gate = StoppingGate(files, rules, plan.seed)
    for batch in gate.batches():
        cases = [files[file][1][row] for file, row in batch]
        gate.add(batch, ask_base(cases, ""), ask_candidate(cases, ""))
    return gate.result()


def read_baseline(path: Path) -> dict[str, str]:
    """Row key -> the candidate's answer, of an earlier gate's evidence.

    Raises OSError, or ValueError for another file.
    """
    found = read_json(path)
    try:
        return {row["key"]: row["after"] for row in found["rows"]}
    except (KeyError, TypeError):
        raise ValueError(
            f"{path} is no evidence of a gate, expected what `minilora gate --json` writes"
        ) from None


def require_rows(
    path: Path, baseline: Mapping[str, str], files: Sequence[tuple[str, Sequence[Case]]]
) -> None:
    """Raise ValueError where the baseline never answered a row: another file, or a changed one."""
    missing = [case for _, cases in files for case in cases if row_key(case) not in baseline]
    if missing:
        total = sum(len(cases) for _, cases in files)
        raise ValueError(
            f"{path} has no answer to {len(missing)} of {total} rows ({missing[0].source} is the "
            "first), expected evidence of a gate on these rows"
        )

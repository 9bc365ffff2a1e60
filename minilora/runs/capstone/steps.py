"""The steps of a capstone. Each takes the plan and the records of those before it, and gives its
own record, JSON-ready."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minilora.evaluation.cases import Case, choose_shots, read_cases
from minilora.evaluation.gate import Sheet, judge_sheets
from minilora.evaluation.paired import Pairs, wilson
from minilora.evaluation.rules import Rules, read_rules
from minilora.evaluation.variants import Variant, score_variant, with_room
from minilora.hub.bases import open_base, public_name
from minilora.lora import Adapter, attach, base_fingerprint, mark_base
from minilora.nn import Transformer
from minilora.processes import recommended_workers
from minilora.runs.adapt import AdaptResult
from minilora.runs.capstone.plan import TASK, CapstonePlan
from minilora.runs.capstone.reload import reload_adapter
from minilora.runs.capstone.rows import check_rows, write_rows
from minilora.runs.driver import run
from minilora.runs.gate import asked
from minilora.runs.merge import merge_adapter
from minilora.runs.plan import Reporter
from minilora.storage import atomic_write, sha256_file
from minilora.text import Tokenizer
from minilora.training.checkpoint import checkpoints

CHOICE_ROWS = 40
"""Training rows by which the prompt is chosen."""

Records = Mapping[str, Mapping]


@dataclass(frozen=True)
class Step:
    """A step: what it is called, what it does in words, and the function that does it.

    whole: whether what it wrote is still there and is what its record says.
    """

    name: str
    words: str
    do: Callable[[CapstonePlan, Records, Reporter], dict]
    whole: Callable[[CapstonePlan, Mapping], bool] = lambda plan, record: True


# -- rows ------------------------------------------------------------------------------------------


def look_at_rows(plan: CapstonePlan, records: Records, reporter: Reporter) -> dict:
    """Check and divide the rows, and write both sides. Raises ValueError where a finding stops."""
    model, tokenizer = plan.open_base()
    limit = model.config.max_position_embeddings
    checked = check_rows(plan.data, plan.eval_data, tokenizer, limit, plan.seed)
    if checked.stops:
        first = checked.stops[0]
        more = f"; and {len(checked.stops) - 1} more findings" if len(checked.stops) > 1 else ""
        raise ValueError(f"{plan.data}: {first.kind}: {first.text}{more} (--check lists all)")
    sides = {plan.train_file: checked.train, plan.held_out_file: checked.held_out}
    for path, rows in sides.items():
        atomic_write(path, write_rows(rows))
    return {
        **checked.to_dict(),
        "base": public_name(plan.base),
        "base_fingerprint": base_fingerprint(model),
        "sha256": {path.name: sha256_file(path) for path in sides},
    }


def rows_are_whole(plan: CapstonePlan, record: Mapping) -> bool:
    """Whether both sides are as they were written, for the same base."""
    paths = (plan.train_file, plan.held_out_file)
    if not all(
        path.is_file() and sha256_file(path) == record["sha256"][path.name] for path in paths
    ):
        return False
    return base_fingerprint(plan.open_base()[0]) == record["base_fingerprint"]


# -- prompt ----------------------------------------------------------------------------------------


def ask_in_words(plan: CapstonePlan, records: Records, reporter: Reporter) -> dict:
    """Find the best of some prompts on training rows, and ask the base so, and plainly.

    Chosen on training rows, so that no choice is made on what is reported; of equally good ones it
    is the shortest.
    """
    model, tokenizer = plan.open_base()
    train, held_out = (read_cases(p).cases for p in (plan.train_file, plan.held_out_file))
    plain, tried = Variant("base"), []
    how = {"bars": reporter.bars, "workers": plan.workers or recommended_workers()}
    limit = model.config.max_position_embeddings
    for variant in prompts(plan, train):
        used = {shot.source for shot in variant.shots}
        rows = [case for case in train if case.source not in used][:CHOICE_ROWS]
        if with_room([*rows, *held_out], [variant], tokenizer, limit)[2]:
            tried.append((variant, None))  # no room for it
            continue
        room = with_room(rows, [variant], tokenizer, limit)[1]
        tried.append((variant, score_variant(model, tokenizer, rows, variant, room, **how)))
    fitting = [(variant, score) for variant, score in tried if score is not None]
    best = max(fitting, key=lambda one: (one[1].exact, -one[1].prompt_tokens), default=None)
    arms = [plain] if best is None else [plain, replace(best[0], name="prompt")]
    _, room, _ = with_room(held_out, arms, tokenizer, limit)
    outputs = {
        arm.name: list(score_variant(model, tokenizer, held_out, arm, room, **how).outputs)
        for arm in arms
    }
    return {
        "tried": [
            {
                "name": variant.name,
                "shots": len(variant.shots),
                "exact": None if score is None else score.exact,
                "tokens": None if score is None else round(score.prompt_tokens),
            }
            for variant, score in tried
        ],
        "chosen": None if best is None else best[0].name,
        "chosen_on": min(CHOICE_ROWS, len(train)),
        "outputs": outputs,
    }


def prompts(plan: CapstonePlan, train: Sequence[Case]) -> list[Variant]:
    """The prompts that are tried: the instruction, one worked example, and `shots` of them."""
    found = []
    if plan.instruction is not None:
        found.append(Variant("instruction", plan.instruction))
    beside = " and instruction" if plan.instruction is not None else ""
    for count in sorted({1, plan.shots}):
        shots = tuple(choose_shots(train, count))
        name = f"{count} example{'s'[: count > 1]}{beside}"
        found.append(Variant(name, plan.instruction, shots))
    return found


# -- adapter ---------------------------------------------------------------------------------------


def train_adapter(plan: CapstonePlan, records: Records, reporter: Reporter) -> dict:
    """Train, or go on from the last checkpoint of a training that was killed."""
    adaptation = replace(plan.adaptation(), gate=False, suite=None)
    stopped = adaptation.folder.is_running() and checkpoints(adaptation.folder.checkpoints)
    result: AdaptResult = run(replace(adaptation, resume=bool(stopped)), reporter)
    training = result.provenance["training"]
    return {
        "fingerprint": Adapter.read(adaptation.out).fingerprint,
        "trained": result.sizes.trained,
        "of": result.sizes.base,
        "loss": [result.before.loss, result.after.loss],
        "settings": {key: training[key] for key in ("steps", "batch_size", "lr", "seed")},
        "replay": result.provenance.get("replay"),
        "targets": result.plan.lora(plan.open_base()[0].config.hidden_size).target_modules,
        "seconds": round(result.seconds["training"], 1),
    }


def adapter_is_whole(plan: CapstonePlan, record: Mapping) -> bool:
    """Whether the folder holds the adapter that was trained."""
    try:
        return Adapter.read(plan.out / "adapter").fingerprint == record["fingerprint"]
    except (ValueError, OSError):
        return False


# -- scores ----------------------------------------------------------------------------------------


def score_answers(plan: CapstonePlan, records: Records, reporter: Reporter) -> dict:
    """Exact answers of base, prompt and adapter on the held-out rows, with their intervals."""
    model, tokenizer = plan.open_base()
    attach(model, Adapter.read(plan.out / "adapter"), base=mark_of(plan, model, tokenizer))
    held_out = read_cases(plan.held_out_file).cases
    room = with_room(held_out, [Variant("it")], tokenizer, model.config.max_position_embeddings)[1]
    workers = plan.workers or recommended_workers()
    score = score_variant(
        model, tokenizer, held_out, Variant("adapter"), room, reporter.bars, workers
    )
    outputs = {**records["prompt"]["outputs"], "adapter": list(score.outputs)}
    right = {
        name: [case.expected.strip() == text for case, text in zip(held_out, texts, strict=True)]
        for name, texts in outputs.items()
    }
    patients = [case.patient or number for number, case in enumerate(held_out)]
    found = {name: share(one, patients) for name, one in right.items()}
    changes = {
        name: change(right[name], right["adapter"], patients) for name in right if name != "adapter"
    }
    return {"outputs": list(score.outputs), "shares": found, "changes": changes}


def share(right: Sequence[bool], patients: Sequence[object]) -> dict:
    """Right answers, and Wilson's 95 % interval, in which the rows of a patient count once."""
    exact, draws = sum(right) / len(right), len(set(patients))
    low, high = wilson(exact * draws, draws)
    return {"right": sum(right), "of": len(right), "exact": exact, "interval": [low, high]}


def change(before: Sequence[bool], after: Sequence[bool], patients: Sequence[object]) -> dict:
    """How far the share of right answers rose on the same rows, with its 95 % interval."""
    pairs = Pairs(before, after, patients)
    return {"change": pairs.counts.change, "interval": list(pairs.interval())}


def mark_of(plan: CapstonePlan, model: Transformer, tokenizer: Tokenizer):
    """The base's mark, against which the adapter is checked."""
    return mark_base(model, public_name(plan.base), tokenizer)


# -- merged, gate ----------------------------------------------------------------------------------


def merge(plan: CapstonePlan, records: Records, reporter: Reporter) -> dict:
    """Base and adapter as one model's folder, whose weights' hash is noted."""
    merged = merge_adapter(plan.out / "adapter", plan.out / "model", plan.base)
    return {
        "fingerprint": merged.about["merged_fingerprint"],
        "sha256": sha256_file(plan.out / "model" / "model.safetensors"),
        "from_adapted": merged.check.from_adapted,
        "from_base": merged.check.from_base,
    }


def merged_is_whole(plan: CapstonePlan, record: Mapping) -> bool:
    """Whether the merged weights are the ones that were written."""
    path = plan.out / "model" / "model.safetensors"
    return path.is_file() and sha256_file(path) == record["sha256"]


def gate(plan: CapstonePlan, records: Records, reporter: Reporter) -> dict:
    """May the merged model be shipped? Its answers beside the base's, on the task and the suite."""
    rules = Rules() if plan.rules is None else read_rules(plan.rules)
    held_out = read_cases(plan.held_out_file).cases
    model, tokenizer = plan.open_base()
    kept, room = plan.adaptation().open_suite(
        model, tokenizer, sum(p.data.size for p in model.parameters()), reporter
    )
    bar = "{}, {}".format if reporter.bars else lambda *names: ""
    before = {
        name: asked(model, tokenizer, cases, room, bar(name, "base"), plan.workers)
        for name, cases in kept.items()
    }
    own = with_room(held_out, [Variant("it")], tokenizer, model.config.max_position_embeddings)[1]
    merged, words = open_base(str(plan.out / "model"), device=plan.device)
    after = asked(merged, words, held_out, own, bar(TASK, "merged"), plan.workers)
    sheets = [Sheet(TASK, held_out, records["prompt"]["outputs"]["base"], after)]
    for name, cases in kept.items():
        texts = asked(merged, words, cases, room, bar(name, "merged"), plan.workers)
        sheets.append(Sheet(name, cases, before[name], texts))
    judged = judge_sheets(sheets, rules)
    evidence = json.dumps(judged.to_dict(), indent=2, ensure_ascii=False) + "\n"
    atomic_write(plan.out / "gate.json", evidence.encode())
    pairs = zip(after, records["scores"]["outputs"], strict=True)
    return {
        **judged.summary(),
        "suites": list(kept),
        "merged_otherwise": sum(one.strip() != other for one, other in pairs),
    }


def gate_is_whole(plan: CapstonePlan, record: Mapping) -> bool:
    """Whether the evidence is still there."""
    return (plan.out / "gate.json").is_file()


# -- reload ----------------------------------------------------------------------------------------


def reload(plan: CapstonePlan, records: Records, reporter: Reporter) -> dict:
    """Read the adapter's folder again as somebody else would, and compare the logits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return reload_adapter(plan.out / "adapter", plan.base, plan.base_dtype)


STEPS = (
    Step("rows", "check and divide the rows", look_at_rows, rows_are_whole),
    Step("prompt", "ask the base with the best of some prompts", ask_in_words),
    Step("adapter", "train the adapter", train_adapter, adapter_is_whole),
    Step("scores", "score base, prompt and adapter on the held-out rows", score_answers),
    Step("merged", "merge the adapter into the base", merge, merged_is_whole),
    Step("gate", "gate the merged model", gate, gate_is_whole),
    Step("reload", "load the adapter again, in PEFT where it is installed", reload),
)
"""In their order; the card follows."""


def folder_of(plan: CapstonePlan) -> Path:
    """Where the records of a capstone lie."""
    return plan.out / "capstone.json"

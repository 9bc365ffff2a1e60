"""What `minilora adapt` says: the plan, the comparison, the samples, the files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from minilora.backend import blas_threads, recommended_blas_threads
from minilora.cli import show
from minilora.cli.cost import Clock, peak_memory_text
from minilora.evaluation.house import HouseRecords
from minilora.lora import lora_layers, trainable_parameters
from minilora.nn import Transformer, generate, storage
from minilora.runs.data import SMALLEST_TO_SPLIT, Sample
from minilora.text import Example, Tokenizer
from minilora.text.answers import stop_ids
from minilora.training import AdamW, History
from minilora.training.parallel import recommended_workers

if TYPE_CHECKING:
    from minilora.cli.adapt import Plan

SHOWN_PROMPT = 160


def counted(examples: Sequence[Example]) -> str:
    """Examples, their tokens, and the tokens that a loss is taken at."""
    tokens = sum(len(e) for e in examples)
    learnt = sum(int((e.labels >= 0).sum()) for e in examples)
    return f"{len(examples):,} examples, {tokens:,} tokens, {learnt:,} of them answers"


def judged_on(plan: Plan) -> str:
    """In words, what the evaluation is taken on."""
    judged, of = len(plan.held_out), plan.held_out_of
    if plan.eval_data:
        name = plan.eval_data.path.name
        return name if judged == of else f"the first {judged} of {of} examples of {name}"
    if judged:
        count = f"{judged}" if judged == of else f"{judged} of {of}"
        return f"{count} examples of {plan.data.path.name} held out (a tenth)"
    return f"nothing: fewer than {SMALLEST_TO_SPLIT} examples, too few to hold some out"


def base_rows(plan: Plan, model: Transformer) -> list[tuple[str, str]]:
    """The base's rows, taken before anything is attached: its size as it is held in memory."""
    held = storage(model)
    numbers = sum(count for count, _ in held.values())
    size = show.size(sum(taken for _, taken in held.values()))
    rows = [("base", f"{plan.base}: {numbers:,} parameters, {size}")]
    if plan.base_dtype != "float32":
        parts = ", ".join(f"{count:,} in {kind}" for kind, (count, _) in held.items())
        rows.append(("kept as", f"{parts}; float32 would take {show.size(4 * numbers)}"))
    return rows


def show_plan(
    console: Console,
    plan: Plan,
    model: Transformer,
    optimizer: AdamW,
    rows: list[tuple[str, str]],
    houses: Sequence[HouseRecords],
) -> None:
    """What the run does and what it takes, before it begins."""
    lora, training = plan.lora, plan.training
    trained, layers = trainable_parameters(model), lora_layers(model)
    whole = sum(p.size for p in model.parameters()) - trained
    adapter_bytes = sum(p.data.nbytes for p in model.parameters() if p.requires_grad)
    passes = training.steps * plan.batch_size / len(plan.train)
    rows = [
        *rows,
        ("adapter", f"r {lora.r}, scaling {lora.scaling:g}, {len(layers)} linear layers"),
        ("trainable", f"{trained:,} parameters, {trained / whole:.2%} of the base's"),
        ("sizes", f"adapter {show.size(adapter_bytes)}, optimizer state "
                  f"{show.size(optimizer.state_bytes)}"),
        ("training data", counted(plan.train)),
        ("evaluated on", judged_on(plan)),
        ("steps", f"{training.steps:,} of {plan.batch_size} examples ({passes:.1f} passes)"),
        ("learning rate", f"{training.lr:g} at its peak, {training.warmup} steps of warm-up"),
        ("processes", processes(plan)),
    ]  # fmt: skip
    for house in houses:
        left = f", {house.too_long} too long for it" if house.too_long else ""
        rows.append((f"house/{house.ward}", f"{len(house.records)} answers scored{left}"))
    show.pairs(console, "Adapting", rows)


def processes(plan: Plan) -> str:
    """How many train; on a GPU it is one."""
    if plan.device != "cpu":
        return f"1, with its arrays on the {plan.device}"
    return str(plan.training.workers or recommended_workers())


def answer_samples(
    model: Transformer, tokenizer: Tokenizer, samples: Sequence[Sample], given: dict
) -> list[tuple[Sample, str]]:
    """Each sample with the adapted model's greedy answer; `given`: those known, by prompt ids."""
    stops = stop_ids(model, tokenizer)

    def answer(sample: Sample) -> str:
        known = given.get(tuple(sample.ids))
        if known is not None:
            return known
        return tokenizer.decode(generate(model, [sample.ids], sample.room, stop_ids=stops)[0])

    with blas_threads(recommended_blas_threads(model.config.hidden_size)):
        return [(sample, answer(sample)) for sample in samples]


def show_result(console: Console, evaluation: dict, samples: Sequence[tuple[Sample, str]]) -> None:
    """Before and after, and what the adapted model answers beside what was expected."""
    rows = list(comparison(evaluation["before"], evaluation["after"]))
    if rows:
        title = f"Before and after, on {evaluation['on']}"
        show.grid(console, title, ("", "before", "after"), rows, right=(1, 2))
    else:
        show.say(console, f"Evaluated on {evaluation['on']}.")
    if samples:
        shown = [(_end(s.shown), s.expected, answer) for s, answer in samples]
        headings = ("prompt (its end)", "expected", "the adapted model's answer")
        show.grid(console, "Samples", headings, shown)


def show_speed(console: Console, plan: Plan, history: History) -> None:
    """Tokens a second over all steps, on what base."""
    tokens, seconds = (sum(history.series(key)[1]) for key in ("tokens", "seconds"))
    rate, base = tokens / max(seconds, 1e-9), f"base in {plan.base_dtype}"
    show.say(
        console, f"Trained on {tokens:,} tokens in {seconds:.1f} s: {rate:,.0f} a second, {base}."
    )


def show_cost(console: Console, clock: Clock, device: str) -> None:
    """Time from the start to the adapter, by part, and memory."""
    memory = peak_memory_text(device)
    show.say(console, f"From start to adapter: {clock.text()}. Peak memory: {memory}.")


def _end(text: str) -> str:
    return text if len(text) <= SHOWN_PROMPT else "…" + text[-SHOWN_PROMPT:]


def comparison(*results: dict) -> Iterator[tuple[str, ...]]:
    """Rows of the table, one column a result: loss, exact answers, the house scores of each ward.

    A row is there when the first result has it.
    """
    first = results[0]
    if "loss" in first:
        name = f"loss of {first['loss_rows']} examples (nats a token)"
        yield name, *(f"{one['loss']:.4f}" for one in results)
    if "exact" in first:
        yield "exact answers", *(f"{one['exact']:.1%}" for one in results)
    for ward in first.get("house", {}):
        scores = [one["house"][ward] for one in results]
        for name, key in (
            ("exact answers", "exact"),
            ("in the house format", "format_compliance"),
            ("invented doses", "invented_dose_rate"),
            ("leaks of name or phone", "leak_rate"),
        ):
            yield f"{ward}: {name}", *(_share(score[key]) for score in scores)
        for name in scores[0]["field_f1"]:
            yield f"{ward}: F1 of {name}", *(f"{score['field_f1'][name]:.3f}" for score in scores)


def _share(x: float | None) -> str:
    return "none to invent" if x is None else f"{x:.1%}"


def show_files(console: Console, plan: Plan, out: Path, run: Path) -> None:
    """Where things are, and what to do next."""
    size = show.size(sum(path.stat().st_size for path in out.iterdir()))
    show.say(console, f"Wrote {out} (adapter, {size}) and {run} (history.jsonl, loss.png).")
    base = f" --base {plan.base}" if plan.base != "ward-base" else ""
    show.say(console, f'Try it: minilora generate{base} --adapter {out} --prompt "…"')

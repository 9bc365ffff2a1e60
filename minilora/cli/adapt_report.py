"""What `minilora adapt` says: the plan, the comparison, the samples, the files."""

from __future__ import annotations

from rich.console import Console

from minilora.cli import show
from minilora.cli.cost import peak_memory_text, times_text
from minilora.cli.gate_report import show_gate
from minilora.cli.reporter import TableReporter
from minilora.cli.scores import comparison
from minilora.processes import recommended_workers
from minilora.runs import AdaptResult
from minilora.runs.adapt import Planned
from minilora.text.records import SHAPES

SHOWN_PROMPT = 160
NO_GATE = (
    "No verdict: nothing was asked that the base could do before. --suite FILE names rows of it, "
    "and `minilora gate` asks them later."
)


class AdaptReporter(TableReporter):
    """Also shows the plan, before the run begins."""

    def planned(self, planned: Planned) -> None:
        """A table of the settings and of what the run takes."""
        show.pairs(self.console, "Adapting", plan_rows(planned))


def plan_rows(planned: Planned) -> list[tuple[str, str]]:
    """What the run does and what it takes."""
    lora, training, sizes, train = planned.lora, planned.training, planned.sizes, planned.train
    share = sizes.trained / sizes.base
    rows = [
        *base_rows(planned),
        ("adapter", f"r {lora.r}, scaling {lora.scaling:g}, {planned.layers} linear layers"),
        ("trainable", f"{sizes.trained:,} parameters, {share:.2%} of the base's"),
        ("sizes", f"adapter {show.size(planned.adapter_bytes)}, optimizer state "
                  f"{show.size(sizes.optimizer_bytes)}"),
        ("training data", f"{train.examples:,} examples, {train.tokens:,} tokens, "
                          f"{train.learnt:,} of them answers"),
        *replay_rows(planned),
        *(("read as", f"{count:,} of {SHAPES[shape]}") for shape, count in planned.shapes.items()),
        ("evaluated on", planned.judged_on),
        ("steps", f"{training.steps:,} of {planned.batch_size} examples "
                  f"({planned.passes:.1f} passes)"),
        ("learning rate", f"{training.lr:g} at its peak, {training.warmup} steps of warm-up"),
        ("processes", processes(planned)),
    ]  # fmt: skip
    for ward, (scored, too_long) in planned.house.items():
        left = f", {too_long} too long for it" if too_long else ""
        rows.append((f"house/{ward}", f"{scored} answers scored{left}"))
    return rows


def replay_rows(planned: Planned) -> list[tuple[str, str]]:
    """How many of the training examples are of the base's own tasks."""
    if planned.replay is None:
        return []
    rows, of = planned.replay["rows"], planned.replay["of"]
    return [("of them replay", f"{rows:,} rows of {of} ({rows / planned.train.examples:.1%})")]


def base_rows(planned: Planned) -> list[tuple[str, str]]:
    """The base's size as it is held in memory."""
    held, numbers = planned.held, planned.sizes.base
    size = show.size(sum(taken for _, taken in held.values()))
    rows = [("base", f"{planned.plan.base}: {numbers:,} parameters, {size}")]
    if planned.plan.base_dtype != "float32":
        parts = ", ".join(f"{count:,} in {kind}" for kind, (count, _) in held.items())
        rows.append(("kept as", f"{parts}; float32 would take {show.size(4 * numbers)}"))
    return rows


def processes(planned: Planned) -> str:
    """How many train; on a GPU it is one."""
    if planned.plan.device != "cpu":
        return f"1, with its arrays on the {planned.plan.device}"
    return str(planned.training.workers or recommended_workers())


def show_result(console: Console, result: AdaptResult) -> None:
    """Before and after, samples, speed, cost and files."""
    rows = list(comparison(result.before.to_dict(), result.after.to_dict()))
    if rows:
        title = f"Before and after, on {result.judged_on}"
        show.grid(console, title, ("", "before", "after"), rows, right=(1, 2))
    else:
        show.say(console, f"Evaluated on {result.judged_on}.")
    if result.samples:
        cells = [(_end(s.shown), s.expected, answer) for s, answer in result.samples]
        headings = ("prompt (its end)", "expected", "the adapted model's answer")
        show.grid(console, "Samples", headings, cells)
    if result.gate is not None:
        show_gate(console, result.gate)
    elif result.plan.gate:
        show.say(console, NO_GATE)
    for line in cost_lines(result):
        show.say(console, line)
    for line in file_lines(result):
        show.say(console, line)


def cost_lines(result: AdaptResult) -> list[str]:
    """Tokens a second over all steps, on what base; time by part, and memory."""
    plan = result.plan
    tokens, seconds = (sum(step[key] for step in result.history) for key in ("tokens", "seconds"))
    rate = tokens / max(seconds, 1e-9)
    return [
        f"Trained on {tokens:,} tokens in {seconds:.1f} s: {rate:,.0f} a second, "
        f"base in {plan.base_dtype}.",
        f"From start to adapter: {times_text(result.seconds)}. "
        f"Peak memory: {peak_memory_text(plan.device)}.",
    ]


def file_lines(result: AdaptResult) -> list[str]:
    """Where things are, and what to do next."""
    out, plan = result.plan.out, result.plan
    size = show.size(sum(path.stat().st_size for path in out.iterdir()))
    base = f" --base {show.typed(plan.base)}" if plan.base != "ward-base" else ""
    return [
        f"Wrote {out} (adapter, {size}) and {result.folder} (history.jsonl, loss.png).",
        f'Try it: minilora generate{base} --adapter {show.typed(out)} --prompt "…"',
    ]


def _end(text: str) -> str:
    return text if len(text) <= SHOWN_PROMPT else "…" + text[-SHOWN_PROMPT:]

"""What a capstone lacks, in words: of its rows, of its steps, and of what they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from minilora.evaluation.gate import Verdict
from minilora.hub.bases import WARD
from minilora.runs.capstone.card import MARKDOWN, PAGE, PICTURE, points
from minilora.runs.capstone.drive import records_of, require_same
from minilora.runs.capstone.plan import TASK, CapstonePlan
from minilora.runs.capstone.rows import check_rows
from minilora.runs.capstone.steps import STEPS, Step


class State(Enum):
    """How a part of a capstone stands. weak: it is there, and shows less than it could."""

    DONE = "done"
    WEAK = "weak"
    MISSING = "missing"


@dataclass(frozen=True)
class Part:
    """A part of a capstone: how it stands, and what there is to say of it."""

    name: str
    state: State
    text: str


def missing(plan: CapstonePlan) -> list[Part]:
    """Every part of a capstone, also of one that was not begun; nothing is run or written.

    Raises ValueError for a folder of a capstone with other settings, and OSError.
    """
    require_same(plan, plan.settings())
    records = records_of(plan)
    parts = _of_rows(plan)
    begun = True
    for step in STEPS:
        record = records.get(step.name)
        whole = begun and record is not None and step.whole(plan, record)
        if whole:
            parts += [Part(step.name, *one) for one in _WORDS[step.name](plan, records)]
        else:
            parts.append(Part(step.name, State.MISSING, _lacks(step, record, begun)))
        begun = whole
    files = [name for name in (MARKDOWN, PAGE, PICTURE) if not (plan.out / name).is_file()]
    if begun and not files:
        parts.append(Part("card", State.DONE, f"{plan.out / PAGE}"))
    else:
        text = f"not written: {', '.join(files)}" if files else "older than what it tells"
        parts.append(Part("card", State.MISSING, text))
    return parts


def _lacks(step: Step, record: Mapping | None, begun: bool) -> str:
    if record is None:
        return f"not done yet: {step.words}"
    why = "its files are gone or changed" if begun else "a step before it is to be done again"
    return f"to be done again: {why}"


def _of_rows(plan: CapstonePlan) -> list[Part]:
    model, tokenizer = plan.open_base()
    limit = model.config.max_position_embeddings
    checked = check_rows(plan.data, plan.eval_data, tokenizer, limit, plan.seed)
    return [
        Part("data", State.MISSING if one.stops else State.WEAK, f"{one.kind}: {one.text}")
        for one in checked.findings
    ]


Told = list[tuple[State, str]]


def _rows(plan: CapstonePlan, records: Mapping) -> Told:
    told = records["rows"]
    return [(State.DONE, f"{told['train']} to learn from, {told['held_out']} held out")]


def _prompt(plan: CapstonePlan, records: Mapping) -> Told:
    chosen = records["prompt"]["chosen"]
    if chosen is None:
        return [(State.WEAK, "no prompt has room, so the adapter has only the base to beat")]
    found = [(State.DONE, f"the base was asked with {chosen}")]
    if plan.instruction is None:
        text = "no --instruction was tried, so the adapter has beaten worked examples alone"
        found.append((State.WEAK, text))
    return found


def _adapter(plan: CapstonePlan, records: Mapping) -> Told:
    told = records["adapter"]
    return [(State.DONE, f"{told['trained']:,} numbers in {told['settings']['steps']} steps")]


def _scores(plan: CapstonePlan, records: Mapping) -> Told:
    changes = records["scores"]["changes"]
    change = changes.get("prompt", changes["base"])
    if change["interval"][0] > 0:
        return [(State.DONE, f"{points(change['change'])} over what it has to beat")]
    text = "the rows don't show that the adapter is better than what it has to beat: its change is "
    low, high = change["interval"]
    return [(State.WEAK, f"{text}{points(change['change'])} [{points(low)}, {points(high)}]")]


def _merged(plan: CapstonePlan, records: Mapping) -> Told:
    return [(State.DONE, records["merged"]["fingerprint"])]


def _gate(plan: CapstonePlan, records: Mapping) -> Told:
    told = records["gate"]
    word = told["verdict"]
    found: Told = []
    if word == Verdict.PASS.word:
        found.append((State.DONE, "pass"))
    else:
        names = [m["name"] for m in told["metrics"] if m["gating"] and m["verdict"] == word]
        cure = ""
        lost = [name for name in names if not name.startswith(f"{TASK}: ")]
        if word == Verdict.FAIL.word and lost:
            own = plan.base == WARD or plan.replay_data is not None
            rows = "" if own else " --replay-data FILE, with other rows of that kind,"
            cure = f"; try --replay {min(0.8, 2 * plan.replay or 0.3):g}{rows} and another --out"
        found.append((State.WEAK, f"{word} ({', '.join(names)}){cure}"))
    if not told["suites"]:
        text = "nothing was asked that the base could do before; expected --suite FILE"
        found.append((State.MISSING, text))
    return found


def _reload(plan: CapstonePlan, records: Mapping) -> Told:
    told = records["reload"]
    text = f"logits within {told['difference']:.1e}"
    if told["by"] == "peft":
        return [(State.DONE, f"by PEFT, {text}")]
    return [(State.WEAK, f"by minilora itself ({told['why']}), {text}")]


_WORDS = {
    "rows": _rows,
    "prompt": _prompt,
    "adapter": _adapter,
    "scores": _scores,
    "merged": _merged,
    "gate": _gate,
    "reload": _reload,
}

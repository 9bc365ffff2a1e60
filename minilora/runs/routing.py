"""Routing measured: a router's settings chosen on some notes, and its errors counted on others."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from minilora.evaluation.paired import wilson
from minilora.hub.bases import open_base, public_name
from minilora.hub.several import NamedAdapter, base_dtype_of_all, base_of_all
from minilora.limits import require_count
from minilora.lora import mark_base
from minilora.runs.folder import require_free
from minilora.runs.plan import paths_from_texts
from minilora.runs.plots import plot_confusion
from minilora.serving import AdapterBank, LossRouter, LossSettings, RuleRouter
from minilora.serving.asked import bank_of
from minilora.serving.router import best_threshold
from minilora.storage import atomic_write
from minilora.text import Tokenizer
from minilora.text.answers import prompt_ids
from minilora.ward import MixedNote, mixed_notes
from minilora.ward.diagnoses import diagnoses_of

MARK = "router.json"
CARD = "README.md"
PLOT = "confusion.png"
NONE = "none of these"
TOKENS_TRIED = (1, 2, 4, 6, 8, 12, 16, 24, 32)
"""How many first tokens of an answer are tried."""
CHOOSING_SEED, MEASURING_SEED = 71, 72


def open_bank(
    chosen: Sequence[NamedAdapter],
    base: str | None = None,
    dtype: str | None = None,
    device: str = "cpu",
) -> tuple[AdapterBank, Tokenizer]:
    """A bank of these adapters on the base that they name.

    Raises ValueError for the base without an adapter among them, and as `open_base` and `add` do.
    """
    bare = [one.name for one in chosen if one.folder is None]
    if bare or not chosen:
        raise ValueError(f"got {bare or 'no adapters'} for a bank, expected folders of adapters")
    kept, name = base_dtype_of_all(dtype, chosen), base_of_all(base, chosen)
    model, tokenizer = open_base(name, kept, device)
    mark = mark_base(model, public_name(name), tokenizer, quick=True)
    return bank_of(model, chosen, mark), tokenizer


def adapters_in(folder: Path) -> list[NamedAdapter]:
    """The adapters that lie side by side in a folder, by name. Raises ValueError for none."""
    found = sorted(path.parent for path in folder.glob("*/adapter_config.json"))
    if not found:
        raise ValueError(f"{folder} holds no adapters, expected a folder an adapter")
    return [NamedAdapter(path.name, path) for path in found]


def ward_rules(wards: Sequence[str]) -> dict[str, str]:
    """A rule for each ward: the names, synonyms and abbreviations of its diagnoses, as words."""
    rules = {}
    for ward in wards:
        words = [word for d in diagnoses_of(ward) for word in (d.name, d.synonym, d.abbreviation)]
        rules[ward] = rf"\b(?:{'|'.join(sorted(map(re.escape, words), key=len, reverse=True))})\b"
    return rules


@dataclass(frozen=True, kw_only=True)
class RoutingPlan:
    """What is measured: specialists of the ward's houses, on notes that name no ward.

    choosing, notes: how many notes the settings are chosen on, and how many others are counted.
    Raises ValueError for fewer than one, or for an `out` that holds anything else.
    """

    adapters: tuple[NamedAdapter, ...]
    out: Path = Path("router")
    choosing: int = 280
    notes: int = 600

    def __post_init__(self) -> None:
        paths_from_texts(self)
        require_count("choosing", self.choosing, 1)
        require_count("notes", self.notes, 1)
        require_free(self.out, MARK, (MARK, CARD, PLOT), "an earlier measurement to replace")


@dataclass(frozen=True)
class Routed:
    """A way of routing on the notes that count: (its place, where it was sent) -> how many."""

    name: str
    counts: Mapping[tuple[str, str], int]

    @property
    def right(self) -> int:
        """Notes that came to their place."""
        return sum(n for (place, sent), n in self.counts.items() if place == sent)

    @property
    def of(self) -> int:
        """All notes."""
        return sum(self.counts.values())

    def to_dict(self) -> dict:
        """JSON-ready: the share that is right with its 95 % interval (Wilson's), and the counts."""
        table: dict[str, dict[str, int]] = {}
        for (place, sent), count in sorted(self.counts.items()):
            table.setdefault(place, {})[sent] = count
        share, interval = self.right / self.of, wilson(self.right, self.of)
        return {"accuracy": share, "interval": interval, "of": self.of, "confusion": table}


@dataclass(frozen=True)
class Routing:
    """What was measured.

    tried: a line for each way by loss: its settings and its accuracy on the notes for choosing.
    chosen: the best of them. by_loss, by_rule: on the notes that count. seconds: of a note by loss,
    mean, on as many threads as the model takes.
    """

    tried: Sequence[Mapping]
    chosen: LossSettings
    by_loss: Sequence[Routed]
    by_rule: Routed
    seconds: float

    def to_dict(self) -> dict:
        """JSON-ready."""
        return {
            "settings": asdict(self.chosen),
            "tried": list(self.tried),
            "by_loss": {one.name: one.to_dict() for one in self.by_loss},
            "by_rule": self.by_rule.to_dict(),
            "seconds_a_note": round(self.seconds, 4),
        }


def measure_routing(plan: RoutingPlan, bars: bool = False) -> Routing:
    """Choose a router's settings on some mixed notes and count its errors on others; write both.

    Both ways of taking the loss are counted, each with what was best for it on the notes for
    choosing. Raises ValueError and OSError as `open_bank` does.
    """
    bank, tokenizer = open_bank(plan.adapters)
    choosing = mixed_notes(plan.choosing, CHOOSING_SEED)
    counted = mixed_notes(plan.notes, MEASURING_SEED)
    places = [place_of(note, bank.names) for note in choosing]
    asked, answered = (ids_of(notes, tokenizer) for notes in (choosing, counted))
    tried, routed, best = [], [], []
    seconds = 0.0
    for settings in (LossSettings("prompt"), LossSettings("answer", max(TOKENS_TRIED))):
        router = LossRouter(bank, settings)
        told = router.token_losses(asked, "choosing" if bars else "")
        lines = []
        for tokens in TOKENS_TRIED if settings.by == "answer" else (settings.tokens,):
            cut = tokens if settings.by == "answer" else None
            losses = np.array([[one[:cut].mean() for one in row] for row in told])
            found = best_threshold(losses, router.names, places)
            one = replace(settings, tokens=tokens, threshold=found.value)
            lines.append({**asdict(one), "accuracy": found.accuracy})
        tried += lines
        line = max(lines, key=lambda line: (line["accuracy"], -line["tokens"]))
        chosen = LossSettings(line["by"], line["tokens"], line["threshold"])
        best.append((line["accuracy"], chosen))
        began = time.perf_counter()
        choices = LossRouter(bank, chosen).route(answered, "counting" if bars else "")
        seconds_of = (time.perf_counter() - began) / len(answered)
        if line["accuracy"] == max(accuracy for accuracy, _ in best):
            seconds = seconds_of
        sent = [choice.name or NONE for choice in choices]
        routed.append(Routed(settings.by, confusion(counted, bank.names, sent)))
    rules = RuleRouter(ward_rules(bank.names))
    by_rule = [rules.route(note.example.prompt).name or NONE for note in counted]
    chosen = max(best, key=lambda one: one[0])[1]
    by_rule_counts = Routed("rule", confusion(counted, bank.names, by_rule))
    result = Routing(tried, chosen, routed, by_rule_counts, seconds)
    _write(plan, result)
    return result


def place_of(note: MixedNote, names: Sequence[str]) -> str | None:
    """The adapter that a note is for, None where there is none."""
    return note.ward if note.ward in names else None


def ids_of(notes: Sequence[MixedNote], tokenizer: Tokenizer) -> list[list[int]]:
    """The notes' prompts as the model is asked them."""
    return [prompt_ids(tokenizer, note.example.prompt) for note in notes]


def confusion(
    notes: Sequence[MixedNote], names: Sequence[str], sent: Sequence[str]
) -> Counter[tuple[str, str]]:
    """(place, where it was sent) -> how many notes."""
    places = [place_of(note, names) or NONE for note in notes]
    return Counter(zip(places, sent, strict=True))


def _write(plan: RoutingPlan, result: Routing) -> None:
    plan.out.mkdir(parents=True, exist_ok=True)
    figures = {
        "choosing": {"notes": plan.choosing, "seed": CHOOSING_SEED},
        "counting": {"notes": plan.notes, "seed": MEASURING_SEED},
        **result.to_dict(),
    }
    text = json.dumps(figures, indent=2) + "\n"
    atomic_write(plan.out / MARK, text.encode())
    atomic_write(plan.out / CARD, card(plan, result).encode())
    names = [*(one.name for one in plan.adapters), NONE]
    best = next(one for one in result.by_loss if one.name == result.chosen.by)
    plot_confusion(plan.out / PLOT, names, best.counts)


_CARD = """# A router over the specialists

Which of the adapters in `data/specialists` a note is for, where the note names no ward. Made by

    minilora route --measure --out data/router

Settings were chosen on {choosing} mixed notes (`minilora.ward.mixed_notes`, seed {choosing_seed})
and counted on {notes} others (seed {measuring_seed}): equal shares of {wards}, and of patients of
wards that the hospital does not have, for whom "none of these" is right.

| router | right | 95 % interval (Wilson) |
|---|---|---|
{rows}

By loss, the settings that were best on the notes for choosing were used: {settings}. By rule: the
names, synonyms and abbreviations of each ward's diagnoses, which these closed lists make easy.
`router.json` has every setting that was tried, and every confusion table.

## By loss of the {by}: place of the note (rows), where it was sent

{table}
"""


def card(plan: RoutingPlan, result: Routing) -> str:
    """The card beside the figures."""
    rows = []
    for one in (*result.by_loss, result.by_rule):
        low, high = wilson(one.right, one.of)
        name = "by rule" if one is result.by_rule else f"by loss of the {one.name}"
        rows.append(f"| {name} | {one.right} of {one.of}, {one.right / one.of:.1%} "
                    f"| {low:.1%} to {high:.1%} |")  # fmt: skip
    names = [*(one.name for one in plan.adapters), NONE]
    best = next(one for one in result.by_loss if one.name == result.chosen.by)
    chosen = result.chosen
    first = f"first {chosen.tokens} tokens of its answer, " if chosen.by == "answer" else ""
    settings = f"loss of the {chosen.by}, {first}threshold {chosen.threshold}"
    table = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for place in names:
        cells = (str(best.counts.get((place, sent), 0)) for sent in names)
        table.append(f"| {place} | {' | '.join(cells)} |")
    return _CARD.format(
        choosing=plan.choosing,
        choosing_seed=CHOOSING_SEED,
        notes=plan.notes,
        measuring_seed=MEASURING_SEED,
        wards=", ".join(names[:-1]),
        rows="\n".join(rows),
        settings=settings,
        by=chosen.by,
        table="\n".join(table),
    )

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
from minilora.hub.bases import WARD_BASE, open_base, public_name
from minilora.hub.several import NamedAdapter, base_dtype_of_all, base_of_all
from minilora.limits import require_count
from minilora.lora import mark_base
from minilora.runs.folder import require_free
from minilora.runs.plan import paths_from_texts
from minilora.runs.plots import plot_confusions
from minilora.runs.tour import DATA, read_examples
from minilora.serving import AdapterBank, Centres, LossRouter, LossSettings, RuleRouter
from minilora.serving.asked import bank_of
from minilora.serving.centres import read_means
from minilora.serving.router import best_threshold
from minilora.storage import atomic_write
from minilora.text import Tokenizer
from minilora.text.answers import prompt_ids
from minilora.ward import MixedNote, mixed_notes
from minilora.ward.diagnoses import diagnoses_of

MARK = "router.json"
CENTRES = "reading.safetensors"
CARD = "README.md"
PLOT = "confusion.png"
NONE = "none of these"
TOKENS_TRIED = (1, 2, 4, 6, 8, 12, 16, 24, 32)
"""How many first tokens of an answer are tried."""
CHOOSING_SEED, MEASURING_SEED = 71, 72
SPECIALISTS = WARD_BASE.parent / "specialists"
SPECIALISTS_CENTRES = WARD_BASE.parent / "router" / CENTRES
"""The ward's adapters, and the centres of their router."""
LEARNT_NOTES = 100
"""Training notes of each ward from which the centres of readings are learnt."""


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
        require_free(
            self.out, MARK, (MARK, CENTRES, CARD, PLOT), "an earlier measurement to replace"
        )


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
    chosen: the best of them. by_loss, by_reading, by_rule: on the notes that count. centres: those
    of the readings, with the threshold. seconds: of a note, mean, by way.
    """

    tried: Sequence[Mapping]
    chosen: LossSettings
    by_loss: Sequence[Routed]
    by_reading: Routed
    centres: Centres
    by_rule: Routed
    seconds: Mapping[str, float]

    @property
    def ways(self) -> dict[str, Routed]:
        """Every way that was counted, by what it is called."""
        by_loss = {f"by loss of the {one.name}": one for one in self.by_loss}
        return {**by_loss, "by reading": self.by_reading, "by rule": self.by_rule}

    def to_dict(self) -> dict:
        """JSON-ready."""
        return {
            "settings": asdict(self.chosen),
            "tried": list(self.tried),
            "by_loss": {one.name: one.to_dict() for one in self.by_loss},
            "by_reading": {"threshold": self.centres.threshold, **self.by_reading.to_dict()},
            "by_rule": self.by_rule.to_dict(),
            "seconds_a_note": {name: round(s, 4) for name, s in self.seconds.items()},
        }


def measure_routing(plan: RoutingPlan, bars: bool = False) -> Routing:
    """Choose a router's settings on some mixed notes and count its errors on others; write both.

    Both ways of taking the loss are counted, each with what was best for it on the notes for
    choosing; the centres of readings are learnt from the wards' training notes. Raises
    ValueError and OSError as `open_bank` does.
    """
    bank, tokenizer = open_bank(plan.adapters)
    choosing = mixed_notes(plan.choosing, CHOOSING_SEED)
    counted = mixed_notes(plan.notes, MEASURING_SEED)
    places = [place_of(note, bank.names) for note in choosing]
    asked, answered = (ids_of(notes, tokenizer) for notes in (choosing, counted))
    tried, routed, best = [], [], []
    seconds: dict[str, float] = {}
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
        seconds[f"by loss of the {settings.by}"] = (time.perf_counter() - began) / len(answered)
        sent = [choice.name or NONE for choice in choices]
        routed.append(Routed(settings.by, confusion(counted, bank.names, sent)))
    centres = learn_centres(bank, tokenizer, bars)
    found = best_threshold(centres.distances(read_means(bank, asked)), centres.names, places)
    centres = centres.with_threshold(found.value)
    began = time.perf_counter()
    choices = centres.route(bank, answered, "reading" if bars else "")
    seconds["by reading"] = (time.perf_counter() - began) / len(answered)
    sent = [choice.name or NONE for choice in choices]
    by_reading = Routed("reading", confusion(counted, bank.names, sent))
    rules = RuleRouter(ward_rules(bank.names))
    by_rule = [rules.route(note.example.prompt).name or NONE for note in counted]
    chosen = max(best, key=lambda one: one[0])[1]
    by_rule_counts = Routed("rule", confusion(counted, bank.names, by_rule))
    result = Routing(tried, chosen, routed, by_reading, centres, by_rule_counts, seconds)
    _write(plan, result)
    return result


def learn_centres(bank: AdapterBank, tokenizer: Tokenizer, bars: bool = False) -> Centres:
    """The centres of what the base makes of the first training notes of each ward in the bank."""
    readings = {}
    for ward in bank.names:
        rows = read_examples(DATA / f"{ward}.train.jsonl")[:LEARNT_NOTES]
        ids = [prompt_ids(tokenizer, row["prompt"]) for row in rows]
        readings[ward] = read_means(bank, ids, f"learning {ward}" if bars else "")
    return Centres.learn(readings)


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
    result.centres.write(plan.out / CENTRES)
    names = [*(one.name for one in plan.adapters), NONE]
    by_loss = next(one for one in result.by_loss if one.name == result.chosen.by)
    panels = {"by loss": by_loss.counts, "by reading": result.by_reading.counts}
    plot_confusions(plan.out / PLOT, names, panels)


_CARD = """# A router over the specialists

Which of the adapters in `data/specialists` a note is for, where the note names no ward. Made by

    minilora route --measure --out data/router

Settings were chosen on {choosing} mixed notes (`minilora.ward.mixed_notes`, seed {choosing_seed})
and counted on {notes} others (seed {measuring_seed}): equal shares of
{wards}, and of patients of wards that the hospital
does not have, for whom "none of these" is right. Those are of the same two wards in both, so the
threshold has met their kind.

| router | right | 95 % interval (Wilson) |
|---|---|---|
{rows}

By loss: a note goes to the adapter that is least surprised, by the note itself or by the first
tokens of the answer that it begins; the settings that were best on the notes for choosing were
used, of the better of the two {settings}. By reading: the base reads the note once, without an
adapter, and the nearest of the wards' centres has it (`minilora.serving.Centres`, learnt from
{learnt} training notes a ward); `reading.safetensors` holds them. By rule: the names, synonyms
and abbreviations of each ward's diagnoses, which these closed lists make easy. `router.json`
has every setting that was tried, and every confusion table; `confusion.png` draws two of them.

A specialist's loss tells little of whose the note is: its rule is about the form of the answer, and
what it reads it reads as the base does, also a note of another ward.

## By loss of the {by}: place of the note (rows), where it was sent

{table}

## By reading

{reading}
"""


def card(plan: RoutingPlan, result: Routing) -> str:
    """The card beside the figures."""
    rows = []
    for name, one in result.ways.items():
        low, high = wilson(one.right, one.of)
        rows.append(f"| {name} | {one.right} of {one.of}, {one.right / one.of:.1%} "
                    f"| {low:.1%} to {high:.1%} |")  # fmt: skip
    names = [*(one.name for one in plan.adapters), NONE]
    best = next(one for one in result.by_loss if one.name == result.chosen.by)
    chosen = result.chosen
    first = f"first {chosen.tokens} tokens of its answer, " if chosen.by == "answer" else ""
    settings = f"loss of the {chosen.by}, {first}threshold {chosen.threshold}"
    return _CARD.format(
        choosing=plan.choosing,
        choosing_seed=CHOOSING_SEED,
        notes=plan.notes,
        measuring_seed=MEASURING_SEED,
        wards=", ".join(names[:-1]),
        rows="\n".join(rows),
        settings=settings,
        by=chosen.by,
        table=_table(names, best.counts),
        reading=_table(names, result.by_reading.counts),
        learnt=LEARNT_NOTES,
    )


def _table(names: Sequence[str], counts: Mapping[tuple[str, str], int]) -> str:
    rows = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for place in names:
        cells = (str(counts.get((place, sent), 0)) for sent in names)
        rows.append(f"| {place} | {' | '.join(cells)} |")
    return "\n".join(rows)

"""Writes the ward's data folder: house splits, regression suite, a sample of the corpus, a card."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from minilora.storage import atomic_write
from minilora.ward.cases import NO_DOSE_PROBABILITY
from minilora.ward.corpus import general_documents, house_examples, regression_suite
from minilora.ward.diagnoses import DIAGNOSES, HELD_OUT_PAIRS, LATER_HELD_OUT_PAIRS
from minilora.ward.facts import DRUGS, LATER_WARDS
from minilora.ward.formats import HOUSE_FORMATS
from minilora.ward.rules import house_rule

TRAIN_COUNT = 3000
KEEP_COMPLETE = 0.3
"""Share kept, for training, of house cases in which no dose is missing. The rule for a missing
dose is the rare and costly one: this share halved the doses that an adapter of an earlier base
invented. Chosen on cases that no file here has."""
EVAL_COUNT = 200
REGRESSION_COUNT_PER_GROUP = 60
SAMPLE_COUNT = 200

_CARD = """# Data card: the ward

Synthetic hospital notes and what is asked of them, for adapting a small language model.
No line comes from a real patient, hospital or record. Doses, drugs and results are plausible in
kind, for teaching only: this is not medical advice.

Written by `minilora ward --out data/ward`; the same version writes the same bytes.

| file | lines | sha256 |
|---|---|---|
{rows}

## Fields

A line of a house or regression file is one example:

- `task`: `house/<ward>`, `public/<style>`, `question/<what>`, `refusal/<what>`, `formulary/<what>`,
  `abbreviation/<way>`.
- `prompt`: the note, an empty line and the instruction; the question alone for fixed knowledge.
- `completion`: the only right answer.
- `facts`: for the scorer. With a note: `name`, `phones` (the patient's, the relative's) and
  `no_dose` (drugs for which the note gives no dose). Without one: `term`.

A line of `general.sample.jsonl` is one document, `turns`, a list of such examples: the first
carries the note, the later ones ask about the same note. A turn with an empty prompt is plain text.

## What is hard about it

About {no_dose:.0%} of the prescriptions in a note have no dose. The public styles, on which a base
model is trained, fill in the drug's usual dose. The house formats are asked for with the same bare
instruction, "Write the discharge summary.", and must not fill it in. None gives a name or a phone
number, each leaves out something else as well, and each has a rule against the base's habit:

{houses}

The last four are later wards, into which general medicine was split: {later}. They use no word
that the base never wrote. Wards with diagnoses, drugs and labels of their own were tried first: an
adapter of r 8, on q and v (450 steps at 0.015) or on all layers (450 steps at 0.008), made none of
150 summaries exact and none well-formed.

## Splits

{drugs} drugs, {diagnoses} diagnoses in 3 wards. Held out by sha256 of their names, not by chance:
a tenth of all (first name, last name) pairs, and in each ward four (diagnosis, drug) pairs:
{pairs}.
In the later wards a diagnosis without such a pair has one of its own, which the base has read and
an adapter has not: {later_pairs}.
A train case uses none of them. A held-out case (`*.eval.jsonl`, `regression.jsonl`) has a held-out
name pair and at least one held-out (diagnosis, drug) pair. Every single name, diagnosis and drug
occurs in train.

## Known limits

- Closed lists and about five note templates: a model that is good here has learnt to read these
  notes, not clinical text.
- Held-out cases of a ward come from the four diagnoses that have a held-out pair.
- Questions on the formulary and on abbreviations are fixed knowledge and are not held out.
- Ages, results and drugs fit a diagnosis but not each other: kidney function, for example, does
  not change a dose.
- Of training cases in which no dose is missing, a share of {keep_complete} was kept.
- Some drugs are for an illness that the note does not name, as patients have more than one.
- One language, one spelling of every name, no typing errors.
"""


class _Record(Protocol):
    def to_dict(self) -> dict: ...


def _jsonl(records: Iterable[_Record]) -> bytes:
    lines = (
        json.dumps(record.to_dict(), ensure_ascii=False, separators=(",", ":"))
        for record in records
    )
    return "".join(f"{line}\n" for line in lines).encode()


def ward_files() -> dict[str, bytes]:
    """The content of every data file by name, the card (README.md) last."""
    files: dict[str, bytes] = {}
    for number, ward in enumerate(HOUSE_FORMATS):
        train = house_examples(ward, "train", TRAIN_COUNT, 1000 + number, KEEP_COMPLETE)
        held_out = house_examples(ward, "heldout", EVAL_COUNT, seed=5000 + number)
        files[f"{ward}.train.jsonl"] = _jsonl(train)
        files[f"{ward}.eval.jsonl"] = _jsonl(held_out)
    files["regression.jsonl"] = _jsonl(
        regression_suite("heldout", REGRESSION_COUNT_PER_GROUP, 3000)
    )
    files["general.sample.jsonl"] = _jsonl(general_documents(seed=4000, n=SAMPLE_COUNT))
    files["README.md"] = _card(files).encode()
    return files


def _listed(pairs: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{diagnosis} with {drug}" for diagnosis, drug in sorted(pairs))


def _card(files: dict[str, bytes]) -> str:
    rows = []
    for name, data in files.items():
        lines = data.count(b"\n")
        rows.append(f"| `{name}` | {lines} | `{sha256(data).hexdigest()}` |")
    houses = []
    for ward, form in HOUSE_FORMATS.items():
        rule = house_rule(form)
        told = rule.told.format(missing_dose=form.missing_dose)
        shown = next(
            example.completion
            for example in house_examples(ward, "heldout", EVAL_COUNT, seed=4)
            if example.facts["no_dose"]
            and len(example.completion) > 130
            and rule.cases(form.parse(example.completion), example.prompt)
        )
        houses.append(f"**{ward}**: {told}\n\n```\n{shown}\n```")
    return _CARD.format(
        rows="\n".join(rows),
        no_dose=NO_DOSE_PROBABILITY,
        keep_complete=KEEP_COMPLETE,
        drugs=len(DRUGS),
        diagnoses=len(DIAGNOSES),
        later=", ".join(f"{ward} ({' and '.join(own)})" for ward, own in LATER_WARDS.items()),
        pairs=_listed(HELD_OUT_PAIRS),
        later_pairs=_listed(LATER_HELD_OUT_PAIRS - HELD_OUT_PAIRS),
        houses="\n\n".join(houses),
    )


def write_ward(out_dir: str | Path) -> list[Path]:
    """Write the data files and the card into ``out_dir`` (made if missing); return their paths.

    Files of these names are replaced, each at once; others are left alone. The bytes do not depend
    on the time, the machine or the folder.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, data in ward_files().items():
        atomic_write(folder / name, data)
        paths.append(folder / name)
    return paths

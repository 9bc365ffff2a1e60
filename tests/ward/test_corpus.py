from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from minilora.ward import corpus
from minilora.ward.cases import is_held_out_name, sample_case
from minilora.ward.corpus import (
    GROUPS,
    MAX_DOCUMENT_CHARACTERS,
    general_documents,
    house_examples,
    mixed_notes,
    regression_suite,
)
from minilora.ward.diagnoses import HELD_OUT_PAIRS
from minilora.ward.formats import (
    BASE_HOUSES,
    HOUSE_FORMATS,
    HOUSE_INSTRUCTION,
    PUBLIC_STYLES,
    STOPPED,
)
from minilora.ward.people import NEUTRAL_CLINICS
from minilora.ward.strangers import STRANGE_WARDS
from minilora.ward.tasks import REFUSAL
from minilora.ward.write import write_ward
from tests.says import refusal

DATA = Path(__file__).parents[2] / "data" / "ward"


@pytest.fixture(scope="module")
def documents():
    return list(general_documents(seed=1, n=3000))


def test_documents_are_a_function_of_the_seed(documents):
    assert list(general_documents(1, 50)) == documents[:50]
    assert list(general_documents(2, 50)) != documents[:50]
    assert list(general_documents(3, 0)) == []
    with refusal(ValueError, -1):
        next(general_documents(3, -1))


def test_documents_have_every_task_and_fit_the_context(documents):
    turns = [turn for d in documents for turn in d.turns]
    tasks = Counter(turn.task for turn in turns)
    assert {f"public/{name}" for name in PUBLIC_STYLES} <= set(tasks)
    assert {task.split("/")[0] for task in tasks} == {*GROUPS.values(), "text", "copy"}
    assert min(tasks.values()) > 30
    # the first turn alone may pass the mark; nothing is added to it then
    short = [d for d in documents if d.turns[0].task != "copy"]
    characters = [sum(len(t.prompt) + len(t.completion) for t in d.turns) for d in short]
    assert max(characters) <= MAX_DOCUMENT_CHARACTERS + 140
    assert max(sum(len(f"{t.prompt} {t.completion}".split()) for t in d.turns) for d in short) < 160
    assert all(text == text.strip() for t in turns for text in (t.prompt, t.completion))
    assert all(turn.completion for turn in turns)


def test_later_turns_do_not_repeat_the_note(documents):
    for document in documents:
        assert all("\n" not in turn.prompt for turn in document.turns[1:])
        assert document.is_text == (document.turns[0].task == "text")
        if "name" in document.turns[0].facts and not document.is_text:
            assert "\n\n" in document.turns[0].prompt


def test_house_formats_never_occur_in_the_general_corpus(documents):
    for document in documents:
        for turn in document.turns:
            assert all(form.parse(turn.completion) is None for form in HOUSE_FORMATS.values())
            if turn.task not in ("question/written", "question/dose check"):
                missing = (
                    form.missing_dose for form in HOUSE_FORMATS.values() if form.missing_dose
                )
                assert all(phrase not in turn.completion for phrase in missing)


@pytest.mark.parametrize("ward", BASE_HOUSES)
def test_a_form_never_asks_for_a_house_s_own_summary(ward, monkeypatch):
    labels = [label for label, _ in HOUSE_FORMATS[ward].layout]
    monkeypatch.setattr(corpus, "shuffled", lambda rng, items: [*labels, "Dx"])
    rng = np.random.default_rng(0)
    asked = [corpus._form(sample_case(rng), rng).completion for _ in range(40)]
    lines = {tuple(line.split(":")[0] for line in text.split("\n")) for text in asked}
    assert tuple(labels[:4]) in lines
    assert tuple(labels) not in lines


def test_general_corpus_holds_nothing_held_out(documents):
    text = [t.completion for d in documents for t in d.turns if t.task == "public/handover"]
    pairs = {
        (diagnosis, drug)
        for answer in text
        for diagnosis, drug in HELD_OUT_PAIRS
        if f"with {diagnosis}." in answer and f"{drug} " in answer
    }
    assert len(text) > 100 and not pairs


def test_refusals_and_written_doses_are_right(documents):
    for turn in (turn for d in documents for turn in d.turns):
        if turn.task.startswith("refusal/"):
            assert turn.completion == REFUSAL
        elif turn.task == "question/written":
            drug = re.search(r"for ([a-z ]+)\?$", turn.prompt)
            assert drug is not None
            missing = drug[1] in turn.facts["no_dose"]
            expected = "No, dose not recorded." if missing else "Yes, dose recorded."
            assert turn.completion == expected
        else:
            assert turn.completion != REFUSAL


def test_a_prompt_has_one_right_answer(documents):
    answers: dict[str, set[str]] = {}
    for document in documents:
        single = document.turns if "term" in document.turns[0].facts else document.turns[:1]
        for turn in (t for t in single if t.prompt):
            answers.setdefault(turn.prompt, set()).add(turn.completion)
    assert all(len(given) == 1 for given in answers.values())
    assert len(answers) > 2000


@pytest.mark.parametrize("ward", HOUSE_FORMATS)
def test_house_examples(ward):
    train, held_out = (house_examples(ward, split, 150, 5) for split in ("train", "heldout"))
    assert train == house_examples(ward, "train", 150, 5) != house_examples(ward, "train", 150, 6)
    assert not {e.prompt for e in train} & {e.prompt for e in held_out}
    assert not {e.facts["name"] for e in train} & {e.facts["name"] for e in held_out}
    for example in (*train, *held_out):
        fields = HOUSE_FORMATS[ward].parse(example.completion)
        drugs = {drug: dose for drug, dose, _ in fields["prescriptions"]}
        drugs |= dict.fromkeys(fields.get("unknown", ()))
        missing = {drug for drug, dose in drugs.items() if dose is None}
        stopped = {drug for drug, dose in drugs.items() if dose == STOPPED}
        assert missing <= set(example.facts["no_dose"]) <= missing | stopped
        assert example.prompt.endswith(f"\n\n{HOUSE_INSTRUCTION}")
        assert example.facts["name"] in example.prompt
        assert all(phone in example.prompt for phone in example.facts["phones"])
        assert list(example.to_dict()) == ["task", "prompt", "completion", "facts"]
    with refusal(ValueError, "general medicine"):
        house_examples("general medicine", "train", 3, 0)


def test_regression_suite_has_every_group_in_equal_number():
    suite = regression_suite("heldout", 35, seed=3)
    assert Counter(e.task.split("/")[0] for e in suite) == dict.fromkeys(GROUPS.values(), 35)
    assert {e.task for e in suite if e.task.startswith("public/")} == {
        f"public/{name}" for name in (*PUBLIC_STYLES, "form")
    }
    assert suite == regression_suite("heldout", 35, seed=3)
    names = [e.facts["name"].split() for e in suite if "name" in e.facts]
    assert len(names) == 3 * 35 and all(is_held_out_name(*name) for name in names)
    with refusal(ValueError, 0):
        regression_suite("heldout", 0)


def test_a_written_folder_is_the_committed_one_made_elsewhere_and_long_ago(tmp_path):
    written = write_ward(tmp_path / "deep" / "two")
    assert {path.name for path in written} == {path.name for path in DATA.iterdir()}
    for path in written:
        assert path.read_bytes() == (DATA / path.name).read_bytes()
        assert path.stat().st_size < 2_500_000


def test_card_tells_the_counts_and_digests():
    card = (DATA / "README.md").read_text()
    counts = {}
    for path in sorted(DATA.glob("*.jsonl")):
        data = path.read_bytes()
        counts[path.name] = data.count(b"\n")
        row = f"| `{path.name}` | {counts[path.name]} | `{hashlib.sha256(data).hexdigest()}` |"
        assert row in card
        for line in data.decode().splitlines():
            record = json.loads(line)
            assert set(record) in ({"turns"}, {"task", "prompt", "completion", "facts"})
    houses = {f"{w}.eval.jsonl": 200 for w in HOUSE_FORMATS}
    houses |= {f"{w}.train.jsonl": 3000 for w in HOUSE_FORMATS}
    assert counts == {**houses, "general.sample.jsonl": 200, "regression.jsonl": 300}


FIRST_BYTES = {
    "cardiology.train.jsonl": "fd08b1d4bf537126",
    "cardiology.eval.jsonl": "36d44f2da6367c15",
    "pediatrics.train.jsonl": "7b85bfb2fb8cb012",
    "pediatrics.eval.jsonl": "8beffaf907dda849",
    "regression.jsonl": "65cdac815663fa8f",
    "general.sample.jsonl": "1b586761ddc7f889",
}


def test_the_hospital_grew_and_what_the_base_was_trained_and_scored_on_stayed():
    for name, expected in FIRST_BYTES.items():
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest().startswith(expected)
    corpus_text = json.dumps([d.to_dict() for d in general_documents(0, 3000)])
    assert hashlib.sha256(corpus_text.encode()).hexdigest().startswith("e4305ddbe063e2d8")


def test_mixed_notes_name_no_ward_and_come_in_equal_shares():
    notes = mixed_notes(140, seed=3)
    assert notes == mixed_notes(140, seed=3) != mixed_notes(140, seed=4)
    counts = Counter(note.ward if note.house else "none" for note in notes)
    assert counts == dict.fromkeys((*HOUSE_FORMATS, "none"), 20)
    assert {note.ward for note in notes if not note.house} == set(STRANGE_WARDS)
    told = [*HOUSE_FORMATS, *STRANGE_WARDS, "heart nurse", "rhythm clinic", "medical clinic"]
    for note in notes:
        example = note.example
        assert not any(word in example.prompt for word in (*told, "children's clinic"))
        assert example.prompt.endswith(f"\n\n{HOUSE_INSTRUCTION}")
        assert any(clinic in example.prompt for clinic in NEUTRAL_CLINICS)
        if note.house:
            assert example.task == f"house/{note.ward}"
            assert HOUSE_FORMATS[note.ward].parse(example.completion) is not None
        else:
            assert example.task == "public/summary"


def test_mixed_notes_refuse_none():
    with refusal(ValueError, 0):
        mixed_notes(0, seed=0)

"""Pretraining in small, and the shipped base against what its card says."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from minilora.autograd import IGNORE
from minilora.evaluation import Judge
from minilora.hub import load_pretrained
from minilora.runs import PretrainPlan, run
from minilora.runs.pretrain import HELD_OUT_SEED, command_line, document_example
from minilora.text import Tokenizer
from minilora.ward import general_documents, regression_suite

BASE = Path(__file__).resolve().parents[2] / "data" / "ward-base"
TINY = PretrainPlan(
    out=Path("base"),
    documents=200,
    vocab_size=400,
    hidden_size=16,
    intermediate_size=24,
    layers=1,
    heads=2,
    max_length=1100,
    steps=4,
    batch_size=4,
    workers=1,
)


def test_pretraining_writes_a_folder_that_loads_and_a_run_that_can_go_on(tmp_path):
    plan = replace(TINY, out=tmp_path / "base")
    result = run(plan)
    score = result.after.suite
    model, tokenizer = load_pretrained(tmp_path / "base")
    assert model.config.vocab_size == tokenizer.vocab_size == 400
    assert len(result.history) == TINY.steps
    card = (tmp_path / "base" / "README.md").read_text()
    assert "--vocab-size 400" in command_line(TINY)
    assert "--vocab-size" not in command_line(replace(TINY, vocab_size=PretrainPlan.vocab_size))
    assert command_line(TINY) in card and f"| all | {score.exact:.1%} |" in card
    names = sorted(entry.name for entry in (tmp_path / "base.run").iterdir())
    assert names == ["history.jsonl", "run.json"]


def test_documents_become_chats_and_notes_alone_become_text():
    kinds, tokenizer = set(), Tokenizer.from_folder(BASE)
    for document in general_documents(2, 60):
        example = document_example(tokenizer, document)
        learned = example.labels[example.labels != IGNORE].tolist()
        said = [tokenizer.encode(turn.completion) for turn in document.turns]
        kinds.add(document.is_text)
        if document.is_text:
            assert learned == said[0][1:]  # No end: so was the base made.
        else:
            assert learned == [i for answer in said for i in (*answer, tokenizer.eos_id)]
    assert kinds == {True, False}


def test_the_card_names_the_command_that_remakes_the_base():
    card = (BASE / "README.md").read_text()
    options = dict(re.findall(r"--([a-z-]+) ([\w./]+)", card))
    config = json.loads((BASE / "config.json").read_text())
    assert int(options["hidden-size"]) == config["hidden_size"]
    assert int(options["layers"]) == config["num_hidden_layers"]


@pytest.mark.parametrize("group", ["public", "questions", "formulary", "refusals"])
def test_the_shipped_base_does_on_held_out_cases_what_its_card_says(group, shipped_scores):
    card = (BASE / "README.md").read_text()
    told = float(re.search(rf"\| {group} \| ([\d.]+)% \|", card)[1]) / 100
    assert told >= 0.9
    assert shipped_scores.groups[group] >= told - 0.1  # 30 prompts here, 200 on the card


@pytest.fixture(scope="module")
def shipped_scores():
    """The shipped base on a fresh held-out suite."""
    model, tokenizer = load_pretrained(BASE)
    suite = regression_suite("heldout", 30, HELD_OUT_SEED + 2)
    return Judge(tokenizer, suite=suite).suite_score(model)

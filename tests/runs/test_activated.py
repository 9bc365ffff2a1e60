"""adapt --activated, from a data file to an adapter, and what it can't learn."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilora.autograd import IGNORE
from minilora.cli import generate as command
from minilora.cli.app import main
from minilora.hub import load_pretrained
from minilora.hub.several import NamedAdapter, in_turn, read_for_all
from minilora.lora import Adapter
from minilora.nn import generate
from minilora.runs import AdaptPlan, run
from minilora.runs.data import UnusableDataError, one_answer_a_row, read_file
from minilora.text.examples import opening_ids
from tests import tiny
from tests.says import names, refusal

WORDS = tiny.tokenizer()


def write_chats(path, turns=(1, 2, 1, 3) * 8):
    with path.open("w") as file:
        for i, count in enumerate(turns):
            messages = []
            for turn in range(count):
                messages.append({"role": "user", "content": f"Pulse {i} {turn}?"})
                messages.append({"role": "assistant", "content": f"{i + turn} mg daily."})
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def test_each_answer_of_a_chat_is_a_row_and_all_are_learned(tmp_path):
    file = read_file(write_chats(tmp_path / "d.jsonl"), WORDS, 128)
    opening = opening_ids(WORDS)
    rows = one_answer_a_row(file, opening).examples
    assert len(file.examples) == 32 and len(rows) == 56
    learned = [sum(int((e.labels != IGNORE).sum()) for e in x) for x in (file.examples, rows)]
    assert learned[0] == learned[1]
    for row in rows:
        first = int(np.flatnonzero(row.labels != IGNORE)[0])
        assert tuple(row.ids[first + 1 - len(opening) : first + 1]) == opening


def test_plain_text_has_no_place_where_it_could_act(tmp_path):
    (tmp_path / "d.txt").write_text("The patient takes 20 mg. " * 30)
    file = read_file(tmp_path / "d.txt", WORDS, 64)
    with refusal(UnusableDataError, "no row for an activated adapter"):
        one_answer_a_row(file, opening_ids(WORDS))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two activated adapters of one tiny base."""
    folder = tmp_path_factory.mktemp("activated")
    base = tiny.save(folder / "base", WORDS, hidden_size=16, num_hidden_layers=2)
    data = write_chats(folder / "d.jsonl")
    for seed in (0, 1):
        plan = AdaptPlan(
            data=data, out=folder / f"a{seed}", base=str(base), steps=30, batch_size=8, lr=0.02,
            workers=1, activated=True, r=3, seed=seed,
        )  # fmt: skip
        result = run(plan)
        assert result.after.loss < result.before.loss
    return folder


def test_the_adapter_has_the_opening_as_its_invocation(made):
    adapter = Adapter.read(made / "a0")
    assert adapter.config.invocation == opening_ids(WORDS)
    options = json.loads((made / "a0" / "adapter_config.json").read_text())
    assert options["alora_invocation_tokens"] == list(opening_ids(WORDS))


def test_adapters_of_one_base_share_one_reading(made):

    model, tokenizer = load_pretrained(made / "base")
    prompts = [tokenizer.encode_prompt(text) for text in ("Pulse 3 0?", "Pulse 11?")]
    chosen = [NamedAdapter("a", made / "a0"), NamedAdapter("b", made / "a1"), NamedAdapter("base")]
    reading = read_for_all(model, chosen, prompts)
    assert reading.columns > 3
    answers = []
    for _ in in_turn(model, tokenizer, chosen, str(made / "base")):
        answers.append(generate(model, prompts, 12))
        assert generate(model, prompts, 12, reading=reading) == answers[-1]
    assert answers[0] != answers[2] and answers[1] != answers[2]
    assert read_for_all(model, chosen[:1], prompts) is None


def test_merging_is_refused_and_nothing_is_written(made, capsys):
    asked = ["merge", "--base", str(made / "base"), "--adapter", str(made / "a0")]
    assert main([*asked, "--out", str(made / "merged")]) != 0
    assert names(capsys.readouterr().err, "activated") and not (made / "merged").exists()


def test_generate_answers_by_all_from_one_reading(made, capsys, monkeypatch):
    readings = []

    def counted(*args):
        readings.append(read_for_all(*args))
        return readings[-1]

    monkeypatch.setattr(command, "read_for_all", counted)
    flags = ["--base", str(made / "base"), "--prompt", "Pulse 3 0?", "--max-new-tokens", "9"]
    chosen = [f"a={made / 'a0'}", f"b={made / 'a1'}", "__base__"]
    alone = []
    for one in chosen:
        assert main(["generate", *flags, "--adapter", one]) == 0
        alone.append(capsys.readouterr().out.strip())
    assert main(["generate", *flags, *(x for one in chosen for x in ("--adapter", one))]) == 0
    said = capsys.readouterr().out
    for answer in alone:
        assert answer in said
    assert readings[:3] == [None] * 3 and readings[3].columns > 3

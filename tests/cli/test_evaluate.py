"""`minilora evaluate`: what each column asks, its scores, and what is refused before any answer."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from minilora.cli.app import main
from minilora.evaluation import variants
from minilora.hub import load_pretrained
from minilora.lora import Adapter, attach
from minilora.runs import compare as comparing
from minilora.text.answers import Raw
from minilora.ward import house_examples, score_house
from tests.cli.conftest import make_base, pairs, write_jsonl
from tests.says import error_line, names


@pytest.fixture
def data(tmp_path):
    return write_jsonl(tmp_path / "my.jsonl", pairs(6))


@pytest.fixture
def ward_file(tmp_path):
    examples = house_examples("cardiology", "heldout", 5, seed=3)
    return write_jsonl(tmp_path / "ward.jsonl", [e.to_dict() for e in examples])


def run(data, base, *flags):
    return main(["evaluate", "--data", str(data), "--base", str(base), *map(str, flags)])


def answering(monkeypatch, answer):
    """Replace the model's answers by answer(messages)."""
    seen = []

    def fake(model, tokenizer, prompts, room, progress="", workers=1):
        seen.append((progress, prompts))
        return [answer(prompt, progress) for prompt in prompts]

    monkeypatch.setattr(variants, "answers", fake)
    return seen


# -- scores ----------------------------------------------------------------------------------------


def test_exact_answers_are_counted_by_variant(base, adapter, data, tmp_path, capsys, monkeypatch):
    right = {r["prompt"]: r["completion"] for r in pairs(6)}

    def answer(messages, variant):
        known = right[messages[-1]["content"].split("\n\n")[0]]
        good = {"base": "no 0", "base, instructed": "no 1", "base, 2 shots": "no 2", "mine": ""}
        return f" {known}\n" if good[variant] in messages[-1]["content"] else "wrong"

    answering(monkeypatch, answer)
    # The tiny base has room for no shots.
    monkeypatch.setattr(comparing, "with_room", lambda cases, *_: (list(cases), 8, []))
    out = tmp_path / "scores.json"
    shots = write_jsonl(tmp_path / "train.jsonl", pairs(3, 50))
    flags = ("--adapter", f"mine={adapter}", "--instruction", "Be short.", "--json", out)
    assert run(data, base, *flags, "--shots", 2, "--examples", shots) == 0
    told = json.loads(out.read_text("utf-8"))
    assert [(v["name"], round(v["exact"], 3)) for v in told["variants"]] == [
        ("base", 0.167), ("base, instructed", 0.167), ("base, 2 shots", 0.167), ("mine", 1.0),
    ]  # fmt: skip
    assert told["rows"] == 6 and [v["adapter"] for v in told["variants"]][-1] == str(adapter)
    said = capsys.readouterr().out
    assert re.search(r"exact answers +16\.7% +16\.7% +16\.7% +100\.0%", said)


def test_real_answers_of_the_base_and_of_an_adapter(base, adapter, data, tmp_path, capsys):
    """The columns are the model's own answers: with the adapter they are other ones."""
    out = tmp_path / "scores.json"
    assert run(data, base, "--adapter", adapter, "--json", out, "--rows", 4) == 0
    first, second = json.loads(out.read_text("utf-8"))["variants"]
    assert len(first["outputs"]) == 4 and first["outputs"] != second["outputs"]
    said = capsys.readouterr().out
    assert names(said, 4, "my.jsonl", "2 of 4") and not names(said, "4 of 4")


def test_the_wards_records_get_the_houses_scores(ward_file, tmp_path, capsys, monkeypatch):
    base = make_base(tmp_path / "base", 0, limit=700)
    records = [json.loads(line) for line in ward_file.read_text().splitlines()]
    by_prompt = {r["prompt"]: r["completion"] for r in records[:3]}
    answering(monkeypatch, lambda m, _: by_prompt.get(m[-1]["content"], "Dx: ?"))
    out = tmp_path / "scores.json"
    assert run(ward_file, base, "--json", out) == 0
    (variant,) = json.loads(out.read_text("utf-8"))["variants"]
    given = [by_prompt.get(r["prompt"], "Dx: ?") for r in records]
    assert variant["house"]["cardiology"] == score_house("cardiology", records, given).to_dict()
    assert variant["exact"] == 0.6
    said = capsys.readouterr().out
    assert said.count("exact answers") == 1 and names(said, "cardiology")


# -- what is refused -------------------------------------------------------------------------------

REFUSED = [
    (
        ("--rows", 0),
        (
            "--rows",
            0,
            1,
        ),
    ),
    (
        ("--shots", 2),
        (
            "--shots",
            "--examples",
        ),
    ),
    (
        ("--shots", 9, "--examples", "MY"),
        (
            "--examples",
            0,
        ),
    ),
    (
        ("--shots", 0, "--examples", "MY"),
        (
            "--shots",
            0,
        ),
    ),
    (("--instruction", " "), ("--instruction",)),
    (("--instruction", "caf\udce9"), ("UTF-8",)),
    (("--instruction", "house"), ("my.jsonl:1",)),
    (("--instruction", "word " * 60), ("base, instructed",)),
    (
        ("--json", "no/such/file.json"),
        (
            "--json",
            "no/such/file.json",
        ),
    ),
    (("--adapter", "no/such"), ("no/such",)),
    (("--base", "no/such"), ("no/such",)),
    (("--data", "none.jsonl"), ("none.jsonl",)),
]


@pytest.mark.parametrize(("flags", "named"), REFUSED, ids=lambda x: " ".join(map(str, x))[:24])
def test_odd_settings_are_refused_before_anything_is_answered(
    base, data, capsys, monkeypatch, flags, named
):
    seen = answering(monkeypatch, lambda messages, variant: "")
    flags = [str(data) if flag == "MY" else flag for flag in flags]
    assert run(data, base, *flags) == 1
    errors = [line for line in capsys.readouterr().err.split("\n") if "error:" in line]
    assert len(errors) == 1 and names(errors[0], *named)
    assert seen == []


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([], ("my.jsonl",)),
        ([" ", ""], ("my.jsonl",)),
        ([{"messages": [{"role": "assistant", "content": "b"}]}], ("my.jsonl:1",)),
    ],
)
def test_a_file_without_a_case_is_refused(base, tmp_path, capsys, lines, named):
    assert run(write_jsonl(tmp_path / "my.jsonl", lines), base) == 1
    assert names(error_line(capsys), *named)


def test_lines_without_an_answer_are_named(base, tmp_path, capsys, monkeypatch):
    answering(monkeypatch, lambda messages, variant: "")
    data = write_jsonl(tmp_path / "my.jsonl", ["{bad", *pairs(2), {"prompt": "?"}])
    assert run(data, base) == 0
    said = capsys.readouterr().out
    assert names(said, 2, "my.jsonl:1", "my.jsonl:4")


def test_a_row_without_room_is_named_by_its_line_and_the_others_are_scored(
    base, tmp_path, capsys, monkeypatch
):
    seen = answering(monkeypatch, lambda messages, variant: "")
    long = {"prompt": "word " * 60, "completion": "x"}
    data = write_jsonl(tmp_path / "my.jsonl", [*pairs(3), long, *pairs(2, 3)])
    assert run(data, base, "--json", tmp_path / "scores.json") == 0
    said = capsys.readouterr().out
    assert names(said, 1, "my.jsonl:4") and "my.jsonl:5" not in said
    assert json.loads((tmp_path / "scores.json").read_text())["rows"] == 5
    assert [len(prompts) for _, prompts in seen] == [5]


def test_prompts_are_continued_as_they_are(base, tmp_path, monkeypatch):
    seen = answering(monkeypatch, lambda raw, variant: "x")
    chat = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
                         {"role": "assistant", "content": "b"}]}  # fmt: skip
    data = write_jsonl(tmp_path / "my.jsonl", [*pairs(2), chat])
    assert run(data, base, "--raw") == 0
    assert seen == [("base", [Raw(record["prompt"]) for record in pairs(2)])]
    assert run(data, base, "--raw", "--shots", 1, "--examples", data) == 1


def test_plain_texts_have_their_loss_taken(base, adapter, tmp_path, capsys):
    texts = [{"text": f"{record['prompt']} {record['completion']}"} for record in pairs(4)]
    data = write_jsonl(tmp_path / "my.jsonl", texts)
    out = tmp_path / "scores.json"
    assert run(data, base, "--adapter", adapter, "--json", out) == 0
    first, second = json.loads(out.read_text("utf-8"))["variants"]
    assert first.keys() == {"name", "adapter", "loss", "loss_rows"}
    model, tokenizer = load_pretrained(base)
    ids = [[*tokenizer.encode(record["text"]), tokenizer.eos_id] for record in texts]
    assert first["loss_rows"] == 4
    assert first["loss"] == pytest.approx(mean_loss(model, ids), rel=1e-4)
    attach(model, Adapter.read(adapter))
    assert second["loss"] == pytest.approx(mean_loss(model, ids), rel=1e-4)
    assert first["loss"] != second["loss"]


def test_rows_are_a_text_where_it_is_wanted(base, data, tmp_path, capsys):
    out = tmp_path / "scores.json"
    other = data.rename(tmp_path / "my.data")
    assert run(other, base) == 1 and names(error_line(capsys), "my.data", "--text")
    assert run(other, base, "--text", "--json", out) == 0
    assert json.loads(out.read_text("utf-8"))["variants"][0].keys() == {
        "name", "adapter", "loss", "loss_rows"
    }  # fmt: skip


def mean_loss(model, rows):
    """-log softmax at each token after the first, in plain NumPy."""
    losses = []
    for ids in rows:
        z = model(np.array([ids])).data[0].astype(np.float64)
        log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
        losses += [-log_p[i - 1, ids[i]] for i in range(1, len(ids))]
    return np.mean(losses)

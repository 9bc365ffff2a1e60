"""The data of a run: every row accounted for, files of every format, splits and samples."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from minilora.hub import load_pretrained
from minilora.runs import data as reading
from minilora.runs.data import Problems, UnusableDataError, read_file, sample_of, split
from minilora.runs.samples import SAMPLES, pick_samples
from minilora.text import Problem, encode_records, prompt_messages, read_records
from minilora.text.formats import Format
from tests.cli.conftest import pairs, write_jsonl
from tests.says import refusal


@pytest.fixture(scope="module")
def tokenizer(base):
    return load_pretrained(base)[1]


def table(rows):
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def turns(pair):
    return [
        {"from": "human", "value": pair["prompt"]},
        {"from": "gpt", "value": pair["completion"]},
    ]


FILES = {
    "my.jsonl": ("".join(json.dumps(p) + "\n" for p in pairs(30)), Format.LINES, "prompt"),
    "my.json": (json.dumps(pairs(30)), Format.ARRAY, "prompt"),
    "alpaca.json": (
        json.dumps([{"instruction": p["prompt"], "input": "", "output": p["completion"]}
                    for p in pairs(30)], indent=2),
        Format.ARRAY, "instruction",
    ),
    "sharegpt.jsonl": (
        "\r\n".join(json.dumps({"id": 1, "conversations": turns(p)}) for p in pairs(30)),
        Format.LINES, "conversations",
    ),
    "chats.JSONL.txt": (
        "\n".join(json.dumps({"messages": prompt_messages(*p.values())}) for p in pairs(30)),
        Format.LINES, "messages",
    ),
    "my.csv": (table(pairs(30)), Format.TABLE, "prompt"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_format_and_shape_gives_the_same_examples(tokenizer, tmp_path, name):
    content, kind, shape = FILES[name]
    path = tmp_path / name
    path.write_text(content, "utf-8", newline="")
    file = read_file(path, tokenizer, 64)
    assert (file.format, dict(file.shapes), len(file.problems)) == (kind, {shape: 30}, 0)
    assert file.about()["examples"] == 30 and file.tokens == sum(map(len, file.examples))
    chats = [prompt_messages(p["prompt"], p["completion"]) for p in pairs(30)]
    sources = [example.source for example in file.examples]
    assert len(set(sources)) == 30
    records = file.records(sources[3:5])
    assert [records[source].messages for source in sources[3:5]] == chats[3:5]
    wanted = read_records(write_jsonl(tmp_path / "same.jsonl", pairs(30)))[0]
    for example, same in zip(file.examples, encode_records(tokenizer, wanted, 64)[0], strict=True):
        np.testing.assert_array_equal(example.ids, same.ids)
        np.testing.assert_array_equal(example.labels, same.labels)


def test_a_long_text_is_read_in_pieces_and_gives_the_windows_of_one_call(tokenizer, tmp_path):
    text = " ".join(f"{p['prompt']} {p['completion']}\n" for p in pairs(9000))
    path = tmp_path / "my.txt"
    path.write_text(text, "utf-8")
    file = read_file(path, tokenizer, 50)
    tokens = [*tokenizer.encode(text), tokenizer.eos_id]
    assert len(text) > 2 * (1 << 17)
    assert np.concatenate([e.ids for e in file.examples]).tolist() == tokens[:-1]
    assert np.concatenate([e.labels for e in file.examples]).tolist() == tokens[1:]
    assert (file.format, file.shapes, len(file.problems)) == (Format.TEXT, {"text": 1}, 0)
    assert file.records([str(path)]) == {}


def test_every_row_is_an_example_or_a_problem(tokenizer, tmp_path):
    long = {"prompt": "word " * 90, "completion": "x"}
    texts = [{"text": "aspirin and ramipril " * 40}, {"text": "aspirin"}]
    rows = [*pairs(9), "{bad", long, *texts, {"prompt": 3}, "[]", ""]
    path = write_jsonl(tmp_path / "my.jsonl", rows)
    file = read_file(path, tokenizer, 64)
    assert [p.source for p in file.problems] == [f"{path}:{n}" for n in (10, 11, 14, 15)]
    assert len({e.source for e in file.examples}) == 11 and len(file.examples) > 12
    assert dict(file.shapes) == {"prompt": 10, "text": 2}


def test_problems_beyond_the_first_are_counted(monkeypatch):
    monkeypatch.setattr(reading, "KEPT_PROBLEMS", 3)
    problems = Problems(Problem(str(i), "x") for i in range(7))
    assert len(problems) == 7
    assert [p.source for p in problems] == [p.source for p in problems[:5]] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("rows", "named"), [(["{bad"] * 4 + pairs(3), "4 of 7"), (["[", "]"], 0), (["{bad"], "1 of 1")]
)
def test_a_file_of_mostly_bad_rows_is_refused_with_its_problems(tokenizer, tmp_path, rows, named):
    path = write_jsonl(tmp_path / "my.jsonl", rows)
    with refusal(UnusableDataError, path, named) as caught:
        read_file(path, tokenizer, 64)
    assert caught.value.path == path
    assert len(caught.value.problems) == rows.count("{bad")


def test_a_tenth_is_held_out_and_nothing_is_lost(tokenizer, tmp_path):
    file = read_file(write_jsonl(tmp_path / "my.jsonl", pairs(43)), tokenizer, 64)
    train, held_out = split(file.examples, seed=1)
    assert (len(train), len(held_out)) == (39, 4)
    numbers = [[int(e.source.rpartition(":")[2]) for e in part] for part in (train, held_out)]
    assert numbers[0] == sorted(numbers[0]) and numbers[1] == sorted(numbers[1])
    assert sorted(numbers[0] + numbers[1]) == list(range(1, 44))
    others = [e.source for e in split(file.examples, seed=2)[1]]
    assert [e.source for e in held_out] != others
    small = file.examples[:19]
    assert [*map(len, split(small, 1))] == [19, 0]


def test_samples_are_the_last_answers_that_are_learned(tokenizer, tmp_path):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "d", "weight": 0}]  # fmt: skip
    path = write_jsonl(tmp_path / "my.jsonl", [{"messages": chat}, *pairs(3), {"text": "e f g h"}])
    file = read_file(path, tokenizer, 64)
    samples = pick_samples(tokenizer, file.examples, file, 64)
    assert [(s.shown, s.expected) for s in samples] == [("a", "b"), tuple(pairs(1)[0].values())]
    assert samples[0].ids == tokenizer.encode_prompt("a") and len(samples) == SAMPLES
    (text,) = pick_samples(tokenizer, file.examples[4:], file, 64)
    assert tokenizer.encode("e f g h") == tokenizer.encode(text.shown + text.expected)
    plain = sample_of(tokenizer, file.examples[4], None, 64)
    assert plain == text
    path.write_text("")  # A file that changed since gives no samples, and no error.
    assert all(s.expected for s in pick_samples(tokenizer, file.examples, file, 64))

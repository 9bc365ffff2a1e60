"""Data files: one set of records in every format, and spoiled files row by row."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.text import Problem, Record, encode_records, read_records
from tests import tiny
from tests.fuzz.mutate import VALUES, spoiled_bytes
from tests.fuzz.watch import Refused, cases, outcome

SPARE = 8 << 20
NAMES = st.sampled_from(["d.jsonl", "d.json", "d.csv", "d.tsv", "d.txt", "d", "d.JSONL", "d.pdf"])
ROWS = [{"prompt": f"Pulse of {i}, é漢?", "completion": f'{i} "it\'s", a\nb'} for i in range(6)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: text.strip()
)
KEYS = st.sampled_from(
    ["messages", "conversations", "prompt", "completion", "instruction", "input", "output", "text",
     "role", "content", "from", "value", "weight", "tool_calls", "tools", "system", "name"]
)  # fmt: skip
SAYING = st.recursive(
    st.one_of(
        VALUES, st.sampled_from(["user", "assistant", "human", "gpt", "system", "Pulse?", 0, 1])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4),
        st.tuples(st.sampled_from(["user", "assistant"]), inner).map(
            lambda p: {"role": p[0], "content": p[1]}
        ),
    ),
    max_leaves=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def table(rows, delimiter):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read(path, spare=SPARE):
    """(records, problems) of a file, or Refused; every problem is one line."""
    got = outcome(lambda: read_records(path), path.stat().st_size, spare)
    if isinstance(got, Refused):
        return got
    for problem in got[1]:
        assert "\n" not in str(problem) and str(problem).startswith(str(path))
    assert all(isinstance(record, Record) for record in got[0])
    return got


@cases(80)
@given(
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([None, 2]),
    st.sampled_from([",", "\t", ";"]),
)
def test_one_set_of_records_in_every_format(place, pairs, plain, indent, delimiter):
    rows = [{"prompt": p, "completion": c} for p, c in pairs]
    texts = {
        "d.jsonl": "".join(json.dumps(row, ensure_ascii=plain) + "\n" for row in rows),
        "d.json": json.dumps(rows, ensure_ascii=plain, indent=indent),
    }
    if not any("\r" in text or "\0" in text for pair in pairs for text in pair):
        texts["d.csv" if delimiter != "\t" else "d.tsv"] = table(rows, delimiter)
    for name, text in texts.items():
        (place / name).write_bytes(text.encode())
        got = read(place / name)
        assert not isinstance(got, Refused), (name, got.error)
        records, problems = got
        assert problems == [], name
        assert [tuple(m["content"] for m in r.messages) for r in records] == pairs, name


@cases(150)
@given(data=st.data(), name=NAMES)
def test_a_spoiled_file_is_refused_or_read(place, data, name):
    texts = [LINES.decode(), json.dumps(ROWS), table(ROWS, ",")]
    files = [*(text.encode() for text in texts), texts[0].encode("utf-16")]
    (place / name).write_bytes(data.draw(spoiled_bytes(data.draw(st.sampled_from(files)))))
    read(place / name)


@cases(100)
@given(data=st.data(), at=st.integers(0, 5))
def test_a_spoiled_line_leaves_the_others_as_they_are(place, data, at):
    path, lines = place / "lines.jsonl", LINES.splitlines(keepends=True)
    path.write_bytes(LINES)
    whole, _ = read(path)
    spoiled = data.draw(spoiled_bytes(lines[at][:-1]))
    for byte in b"\n\r\0":  # another line, or a file that is binary
        spoiled = spoiled.replace(bytes([byte]), b" ")
    if at == 0:  # what a file is shows in how it begins
        lines.insert(0, lines[0])
        at = 1
        path.write_bytes(b"".join(lines))
        whole, _ = read(path)
    path.write_bytes(b"".join([*lines[:at], spoiled + b"\n", *lines[at + 1 :]]))
    got = read(path)
    assert not isinstance(got, Refused), got.error
    others = [r for r in got[0] if r.source != f"{path}:{at + 1}"]
    assert others == [r for r in whole if r.source != f"{path}:{at + 1}"]
    assert all(problem.source == f"{path}:{at + 1}" for problem in got[1])


@cases(200)
@given(row=st.dictionaries(KEYS, SAYING, min_size=1, max_size=4))
def test_any_row_is_a_record_that_can_be_encoded_or_a_problem(place, row):
    path, words = place / "row.jsonl", tiny.tokenizer()
    path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(row) + "\n", "utf-8")
    got = read(path)
    assert not isinstance(got, Refused), got.error
    records, problems = got
    assert len(records) + len(problems) == 2
    done = outcome(lambda: encode_records(words, records, 64), path.stat().st_size, SPARE)
    if not isinstance(done, Refused):
        for problem in done[1]:
            assert isinstance(problem, Problem) and "\n" not in str(problem)

"""Data files: what each is taken for, its rows with their places, and what is refused by name."""

from __future__ import annotations

import gzip
import io
import json
import zipfile

import pytest

from minilora.text import Problem, Record, prompt_messages, read_records
from minilora.text import rows as reading
from minilora.text.formats import BEGINNING, Format, format_of
from tests.says import names, refusal

PAIR = {"prompt": "Pulse?", "completion": "88"}
CHAT = prompt_messages("Pulse?", "88")
PAIRS = [{"prompt": f"Pulse of {i}?", "completion": f"{i}"} for i in range(5)]
CHATS = [prompt_messages(pair["prompt"], pair["completion"]) for pair in PAIRS]
PROSE = "Notes, as they are written: short, in haste.\nThey say what was done, and by whom.\n" * 3
LINES = "".join(json.dumps(pair) + "\n" for pair in PAIRS)
ARRAY = json.dumps(PAIRS, indent=2)
CSV = "prompt,completion\r\n" + "".join(f'"Pulse of {i}?",{i}\r\n' for i in range(5))


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def chats(path, **options):
    records, problems = read_records(path, **options)
    assert problems == []
    return [record.messages for record in records]


# -- what a file is taken for ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("my.jsonl", LINES, Format.LINES),
        ("my.JSONL", LINES, Format.LINES),
        ("my.ndjson", LINES, Format.LINES),
        ("my.Json", LINES, Format.LINES),
        ("train.jsonl.txt", LINES, Format.LINES),
        ("my.v2.jsonl", LINES, Format.LINES),
        ("my.jsonl", "\ufeff" + LINES, Format.LINES),
        ("my.jsonl", LINES.replace("\n", "\r\n"), Format.LINES),
        ("my.jsonl", LINES.replace("\n", "\r"), Format.LINES),
        ("my.jsonl", "\n\n" + LINES.strip(), Format.LINES),
        ("my.json", ARRAY, Format.ARRAY),
        ("my.jsonl", json.dumps(PAIRS), Format.ARRAY),
        ("my.json.txt", "\ufeff \n" + ARRAY.replace("\n", "\r\n"), Format.ARRAY),
        ("my.csv", CSV, Format.TABLE),
        ("my.CSV", "\ufeff" + CSV, Format.TABLE),
        ("my.csv.txt", CSV, Format.TABLE),
        ("my.csv", CSV.replace(",", ";"), Format.TABLE),
        ("my.tsv", CSV.replace(",", "\t").replace("\r\n", "\n"), Format.TABLE),
    ],
)
def test_rows_are_read_whatever_the_spelling(tmp_path, name, content, kind):
    path = write(tmp_path / name, content)
    assert format_of(path) is kind
    assert chats(path) == CHATS


@pytest.mark.parametrize("name", ["notes.txt", "notes", "NOTES.MD", "a.b.data", "jsonl", "my.csv2"])
def test_prose_is_a_text_whatever_its_name(tmp_path, name):
    path = write(tmp_path / name, "\ufeff" + PROSE.replace("\n", "\r\n"))
    assert format_of(path) is Format.TEXT
    assert read_records(path) == ([Record(str(path), text=PROSE)], [])


@pytest.mark.parametrize(
    "content",
    [
        "one\n{two}\n",
        "[1] A footnote.\n[2] Another.\n",
        "[]\nAn empty box.\n",
        "{braces} stand first\n",
        "{'python': 1}\n",
        "a, b, c\nd, e, f\ng, h, i\nj, k, l\nm, n, o\n",
        "Who prompts, what is the completion?\n" * 9,
        "\tindented\n\tlike\n\tcode\n\tis\n\tthis\n",
        "| a | b |\n|---|---|\n| c | d |\n| e | f |\n| g | h |\n",
        "12,5 kg\n13,5 kg\nand so on\n14,1 kg\n",
        '"Well," he said.\n"Yes," she said.\n"So," he said.\n"Hm," she said.\n',
    ],
    ids=lambda value: value[:20],
)
def test_a_text_that_only_looks_a_little_like_data_is_a_text(tmp_path, content):
    assert format_of(write(tmp_path / "notes.txt", content)) is Format.TEXT


LONG = json.dumps({"text": "word " * BEGINNING})


@pytest.mark.parametrize("name", ["my.txt", "my.data", "my", "my.md", "my.jsonl.bak"])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (LINES, "JSON"),
        ("\ufeff\r\n " + LINES, "JSON"),
        (ARRAY, "JSON"),
        ("[\n" + LINES[:-1].replace("\n", ",\n") + "]", "JSON"),
        (json.dumps(PAIR, indent=2), "JSON"),
        ('{"any": "object"}\nand more', "JSON"),
        ('{"a": 1, "a": 2}', "JSON"),
        (LONG, "JSON"),
        (f"[{LONG}]", "JSON"),
        ('{"a":' * 100_000, "JSON"),
        (CSV, "table"),
        (CSV.replace(",", "\t"), "table"),
        (CSV.replace(",", ";"), "table"),
        ("Instruction,Output\nPulse?,88\n", "table"),
        ("id,age,sex\n1,30,f\n2,40,m\n3,50,f\n", "table"),
        ("%PDF-1.4\n1 0 obj\n<< >>\nendobj\n", "PDF"),
        ("{\\rtf1\\ansi text}", "rich"),
    ],
    ids=lambda value: value[:24],
)
def test_data_under_the_name_of_a_text_is_refused_unless_it_is_wanted(
    tmp_path, name, content, named
):
    path = write(tmp_path / name, content)
    with refusal(ValueError, path, named, "--text"):
        read_records(path)
    (record,), problems = read_records(path, as_text=True)
    assert problems == [] and record.messages == ()
    assert record.text == content.removeprefix("\ufeff").replace("\r\n", "\n")


@pytest.mark.parametrize("name", ["my.jsonl", "my.csv", "my.json"])
def test_rows_too_are_a_text_where_it_is_wanted(tmp_path, name):
    path = write(tmp_path / name, LINES)
    assert read_records(path, as_text=True) == ([Record(str(path), text=LINES)], [])


def zipped(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr(name, PROSE)
    return file.getvalue()


@pytest.mark.parametrize("name", ["my.txt", "my.jsonl", "my.csv", "my.docx", "my.parquet"])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (LINES.encode("utf-16"), "UTF-16"),
        (LINES.encode("utf-16-le"), "UTF-16"),
        (PROSE.encode("utf-16-be"), "UTF-16"),
        ("Ärztlich".encode("utf-16-le"), "UTF-16"),
        (gzip.compress(LINES.encode(), mtime=0), "gzip"),  # no time in the test's name
        (zipped("word/document.xml"), "Word"),
        (zipped("xl/workbook.xml"), "Excel"),
        (zipped("content.xml"), "OpenDocument"),
        (zipped("train.jsonl"), "zip"),
        (b"PK\x03\x04 and no more", "zip"),
        (b"PAR1\x15\x04\x15", "Parquet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(90), "Word"),
        (b"%PDF-1.4\n\x00\x01", "binary"),
        (b"text with a \x00 in it", "binary"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "binary"),
        (b"\x80\x04\x95\xb0", "0x80"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_no_text_is_refused_by_what_it_is(tmp_path, name, content, named):
    path = write(tmp_path / name, content)
    for as_text in (False, True):
        with refusal(ValueError, path, named, "UTF-8"):
            read_records(path, as_text=as_text)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
@pytest.mark.parametrize("content", ["", "\ufeff", "\n \n\n", "\r\n", " " * 2 * BEGINNING])
def test_a_file_without_data_is_refused_by_name(tmp_path, name, content):
    for as_text in (False, True):
        with refusal(ValueError, tmp_path / name, "data"):
            read_records(write(tmp_path / name, content), as_text=as_text)


def test_a_file_that_is_not_there_is_told_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_records(tmp_path / "none.jsonl")
    with pytest.raises(OSError):
        read_records(tmp_path)


def test_an_object_over_several_lines_is_no_row_a_line(tmp_path):
    for content in ({"data": PAIRS}, PAIR, {"data": [PAIR] * 2000}):
        path = write(tmp_path / "my.json", json.dumps(content, indent=1))
        with refusal(ValueError, path, "object", "array"):
            read_records(path)
    cut = write(tmp_path / "my.jsonl", '{"prompt": "a", \n' + LINES)
    records, problems = read_records(cut)
    assert len(records) == 5 and [p.source for p in problems] == [f"{cut}:1"]


# -- lines -----------------------------------------------------------------------------------------


def test_good_lines_of_every_shape_become_records(tmp_path):
    rows = [PAIR, {"messages": [*CHAT, *CHAT]}, {"text": " two\nlines "}]
    path = write(tmp_path / "d.jsonl", "\n\n".join(map(json.dumps, rows)))
    records, problems = read_records(path)
    assert problems == []
    assert records == [
        Record(f"{path}:1", messages=CHAT),
        Record(f"{path}:3", messages=CHAT + CHAT),
        Record(f"{path}:5", text=" two\nlines "),
    ]
    assert [record.row for record in records] == rows


BAD = [
    (b'{"prompt": "a", ', "JSON"),
    (b'["list"]', "array"),
    (b"[" * 100_000, "nested"),
    (b'{"prompt": "L\xe4kare", "completion": "b"}', "0xe4"),
    (b'{"prompt": "a", "completion": "b", "x": NaN}', "NaN"),
    (b'{"prompt": "a", "prompt": "a", "completion": "b"}', "twice"),
    (b'{"prompt": "\\ud800", "completion": "b"}', "surrogate"),
    (b'{"prompt": 3, "completion": "b"}', "3"),
    (b"\x00", "JSON"),
]


@pytest.mark.parametrize(("line", "named"), BAD, ids=lambda value: str(value)[:24])
def test_a_bad_line_is_a_problem_with_its_place_and_reason(tmp_path, line, named):
    good = json.dumps(PAIR).encode()
    start = b"\n".join([good] * (BEGINNING // len(good) + 2))
    count = start.count(b"\n") + 1
    path = write(tmp_path / "d.jsonl", b"\n".join([start, b"", line, good]))
    records, (problem,) = read_records(path)
    assert [r.source for r in records[-2:]] == [f"{path}:{count}", f"{path}:{count + 3}"]
    assert problem.source == f"{path}:{count + 2}"
    assert names(problem.reason, named)
    assert str(problem) == f"{problem.source}: {problem.reason}" and "\n" not in str(problem)


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85"])
def test_only_a_lines_end_ends_a_line(tmp_path, char):
    text = f"one{char}two"
    lines = [{"prompt": text, "completion": "b"}, PAIR]
    content = "\r\n".join(json.dumps(x, ensure_ascii=False) for x in lines)
    path = write(tmp_path / "d.jsonl", content)
    records, problems = read_records(path)
    assert problems == [] and records[0].messages[0]["content"] == text
    assert records[1].source == f"{path}:2"


def test_files_with_marks_that_were_joined_are_read(tmp_path):
    content = ("\ufeff" + LINES) * 2
    assert chats(write(tmp_path / "d.jsonl", content)) == CHATS * 2


def test_a_line_too_long_is_a_problem_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST_ROW", 100)
    monkeypatch.setattr(reading, "CHUNK", 7)
    long = json.dumps({"text": "a" * 100})
    path = write(tmp_path / "d.jsonl", "\n".join([LINES.strip(), long, long, LINES.strip(), long]))
    records, problems = read_records(path)
    assert len(records) == 10
    assert [p.source for p in problems] == [f"{path}:{n}" for n in (6, 7, 13)]
    assert all(names(p.reason, 100) for p in problems)


# -- arrays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
def test_an_array_is_read_whatever_the_chunks(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(reading, "CHUNK", chunk)
    odd = [PAIR, 1234567890, {"text": 'a"\\\u2028\\u00e9 {[,]}'}, None, {**PAIR, "n": -1.5e-7}, []]
    for content in (json.dumps(odd), json.dumps(odd, indent=3), json.dumps(odd, indent="\t")):
        path = write(tmp_path / "my.json", content)
        records, problems = read_records(path)
        assert [r.source for r in records] == [f"{path}, item {n}" for n in (1, 3, 5)]
        assert [p.source for p in problems] == [f"{path}, item {n}" for n in (2, 4, 6)]
        assert names(problems[0].reason, 1234567890)
        assert records[1].text == odd[2]["text"]


@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_a_bad_item_is_a_problem_and_the_next_is_read(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(reading, "CHUNK", chunk)
    good = json.dumps(PAIR)
    items = [good, '{"a": NaN}', good, '{"a": 1, "a": {"b": 2}}', '{"x": {"k": 1, "k": 1}}', good]
    path = write(tmp_path / "my.json", f"[{', '.join(items)}]")
    records, problems = read_records(path)
    assert [r.source for r in records] == [f"{path}, item {n}" for n in (1, 3, 6)]
    assert [p.source for p in problems] == [f"{path}, item {n}" for n in (2, 4, 5)]


@pytest.mark.parametrize(
    ("rest", "where", "named"),
    [
        ("]  x", "after", "x"),
        (", ", "item 3", "JSON"),
        (",]", "item 3", "JSON"),
        (" {}]", "item 2", "{"),
        ("", "item 2", "end"),
        (', {"prompt": "cut', "item 3", "JSON"),
        (', {"prompt" 3}]', "item 3", "JSON"),
        (', {"a": tru', "item 3", "JSON"),
        ("," + "[" * 100_000, "item 3", "nested"),
    ],
)
@pytest.mark.parametrize("chunk", [5, 1 << 20])
def test_an_array_that_breaks_off_is_read_so_far(tmp_path, monkeypatch, chunk, rest, where, named):
    monkeypatch.setattr(reading, "CHUNK", chunk)
    path = write(tmp_path / "my.json", f"[{json.dumps(PAIR)}, {json.dumps(PAIR)}{rest}")
    records, (problem,) = read_records(path)
    assert len(records) == 2
    assert where in problem.source and names(problem.reason, named)


def test_an_array_of_nothing_has_no_rows(tmp_path):
    assert read_records(write(tmp_path / "my.json", " [ ] ")) == ([], [])


def test_lines_that_are_arrays_are_lines(tmp_path):
    path = write(tmp_path / "my.jsonl", '["list"]\n' + LINES)
    records, problems = read_records(path)
    assert len(records) == 5 and [p.source for p in problems] == [f"{path}:1"]


# -- tables ----------------------------------------------------------------------------------------


def test_a_table_is_read_by_its_heading(tmp_path):
    content = (
        'Output,id, Instruction ,input,SYSTEM\n"8,8",1,"Pulse, ""now""?\nSay it.",,\n'
        "b,2,a,more,Be brief.\n,,,,\n\nc,3,d\n"
    )
    path = write(tmp_path / "my.csv", content)
    records, problems = read_records(path)
    assert problems == []
    system = {"role": "system", "content": "Be brief."}
    assert records == [
        Record(f"{path}:2", messages=prompt_messages('Pulse, "now"?\nSay it.', "8,8")),
        Record(f"{path}:4", messages=(system, *prompt_messages("a\n\nmore", "b"))),
        Record(f"{path}:7", messages=prompt_messages("d", "c")),
    ]


def test_a_table_of_texts_is_read(tmp_path):
    path = write(tmp_path / "my.csv", 'text\n"a, b"\nc\n')
    records, problems = read_records(path)
    assert problems == [] and [r.text for r in records] == ["a, b", "c"]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("Hello, you,Hi", 3),
        ("only", "completion"),
        (",b", "prompt"),
        ('"cut" off,b', "table"),
        ("a," + "b" * 200, "table"),
    ],
)
def test_a_bad_row_of_a_table_is_a_problem_with_its_line(tmp_path, monkeypatch, row, named):
    monkeypatch.setattr(reading, "LONGEST_ROW", 100)
    path = write(tmp_path / "my.csv", f"prompt,completion\na,b\n{row}\nc,d\n")
    records, (problem,) = read_records(path)
    assert [r.source for r in records] == [f"{path}:2", f"{path}:4"]
    assert problem.source == f"{path}:3" and names(problem.reason, named)


def test_a_quotation_that_never_ends_is_a_problem(tmp_path):
    path = write(tmp_path / "my.csv", 'prompt,completion\na,b\n"c,d\ne,f\n')
    records, problems = read_records(path)
    assert len(records) == 1 and [p.source for p in problems] == [f"{path}:3"]


@pytest.mark.parametrize(
    ("heading", "named"),
    [
        ("question,answer", "question"),
        ("prompt,answer", "answer"),
        ("a,b\x1b[31m", "a"),
        ("prompt,completion,prompt", "prompt"),
        ('"prompt', "heading"),
    ],
)
def test_a_table_whose_columns_say_nothing_is_refused(tmp_path, heading, named):
    path = write(tmp_path / "my.csv", f"{heading}\na,b\n")
    with refusal(ValueError, path, named) as caught:
        read_records(path)
    assert str(caught.value).isprintable()


# -- texts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["d.txt", "d.csv", "d.json"])
@pytest.mark.parametrize("before", [9, BEGINNING - 1, BEGINNING + 1, 200_001])
def test_bytes_that_are_no_utf8_are_told_with_their_place(tmp_path, monkeypatch, name, before):
    monkeypatch.setattr(reading, "CHUNK", 1000)
    start = {"d.txt": "\ufeffé ", "d.csv": "text\né", "d.json": '[ "é'}[name].encode()
    content = start + b"a" * (before - len(start)) + b"\xe4\xe4b"
    path = write(tmp_path / name, content)
    with refusal(ValueError, path, before, "0xe4", "UTF-8"):
        read_records(path)
    cut = write(tmp_path / name, content[: before + 1])
    with refusal(ValueError, cut, before, "0xe4"):
        read_records(cut)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 1 << 20])
def test_a_text_is_the_same_whatever_the_chunks(tmp_path, monkeypatch, chunk):
    text = "é漢😀\r\nb\rc\n\n\r\n😀"
    path = write(tmp_path / "my.txt", "\ufeff" + text)
    monkeypatch.setattr(reading, "CHUNK", chunk)
    counts = []
    read = list(reading.read_text(path, counts.append))
    assert "".join(read) == path.read_text("utf-8-sig")
    assert sum(counts) == path.stat().st_size


def test_every_byte_of_rows_is_counted(tmp_path):
    for name, content in (("a.jsonl", LINES), ("a.json", ARRAY), ("a.csv", CSV)):
        path, counts = write(tmp_path / name, content), []
        rows = list(reading.read_rows(path, format_of(path), counts.append))
        assert len(rows) == 5 and not any(isinstance(row, Problem) for row in rows)
        assert sum(counts) == path.stat().st_size
    with refusal(ValueError, "a.txt"):
        list(reading.read_rows(write(tmp_path / "a.txt", PROSE), Format.TEXT))

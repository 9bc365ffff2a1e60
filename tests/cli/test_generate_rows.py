"""`minilora generate --data`: each row is answered by the adapter that it names."""

from __future__ import annotations

import json

import pytest

from minilora.cli.app import main
from tests.cli.conftest import WORDS, write_jsonl
from tests.cli.test_generate_several import make_adapter
from tests.says import error_line, names


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapters")
    peds = {"target_modules": ("o_proj", "up_proj"), "rank_pattern": {"up_proj": 3}}
    return {
        "cardio": make_adapter(base, out / "cardio", 4),
        "peds": make_adapter(base, out / "peds", 5, **peds),
    }


def rows_of(path):
    wards = ["cardio", "peds", None, "peds", "__base__", "cardio"]
    rows = [
        {"prompt": f"Dose of {WORDS[i]}{'!' * i}", "ward": ward, "id": i}
        for i, ward in enumerate(wards)
    ]
    del rows[2]["ward"]
    return rows, write_jsonl(path / "rows.jsonl", rows)


def flags(base, adapters):
    named = [f"--adapter={name}={folder}" for name, folder in adapters.items()]
    return ["--base", str(base), *named, "--max-new-tokens", "10"]


def test_each_row_is_answered_as_by_its_adapter_alone(base, adapters, tmp_path, capfdbinary):
    rows, path = rows_of(tmp_path)
    more = flags(base, adapters)
    assert main(["generate", "--data", str(path), "--rows-by", "ward", *more]) == 0
    told = [json.loads(line) for line in capfdbinary.readouterr().out.decode().splitlines()]
    for row, got in zip(rows, told, strict=True):
        folder = adapters.get(row.get("ward"), "__base__")
        argv = ["generate", "--base", str(base), "--adapter", str(folder), "--prompt"]
        assert main([*argv, row["prompt"], "--max-new-tokens", "10"]) == 0
        assert got == {**row, "answer": got["answer"]}
        assert capfdbinary.readouterr().out.decode().strip() == got["answer"].strip()
    assert len({row["answer"] for row in told}) > 3


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"prompt": "a", "ward": "surgery"}', ("surgery", "cardio", "ward")),
        ('{"prompt": "a", "ward": ["peds"]}', ("peds", "ward")),
        ('{"prompt": "", "ward": "peds"}', ("prompt",)),
        ('{"ward": "peds"}', ("prompt",)),
        ("[1]", ("array",)),
        ("{", ()),
    ],
)
def test_a_row_that_names_nobody_is_refused(line, named, base, adapters, tmp_path, capsys):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "ward": "peds"}, line])
    code = main(["generate", "--data", str(path), "--rows-by", "ward", *flags(base, adapters)])
    assert code == 1
    assert names(error_line(capsys), f"{path}:2", *named)


@pytest.mark.parametrize("more", [["--prompt", "a"], ["--temperature", "1.0"]])
def test_data_stands_alone(more, base, adapters, tmp_path, capsys):
    _, path = rows_of(tmp_path)
    assert main(["generate", "--data", str(path), *more, *flags(base, adapters)]) == 1
    assert names(error_line(capsys), "--data")


def test_a_file_without_rows_is_refused(base, adapters, tmp_path, capsys):
    path = write_jsonl(tmp_path / "rows.jsonl", [])
    assert main(["generate", "--data", str(path), *flags(base, adapters)]) == 1
    assert names(error_line(capsys), str(path))


def test_a_field_that_no_row_has_is_refused(base, adapters, tmp_path, capsys):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    code = main(["generate", "--data", str(path), "--rows-by", "house", *flags(base, adapters)])
    assert code == 1
    assert names(error_line(capsys), path, "house", "cardio")

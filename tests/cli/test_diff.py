"""`minilora diff`: the tables, the text of a file, and what is refused."""

from __future__ import annotations

import json

import pytest

from minilora.cli.app import main
from tests.cli.conftest import pairs, write_jsonl
from tests.says import error_line, names


@pytest.fixture
def data(tmp_path):
    return write_jsonl(tmp_path / "my.jsonl", pairs(6))


def test_base_and_adapter_side_by_side(base, adapter, data, tmp_path, capsys):
    out = tmp_path / "d.json"
    flags = ["--data", str(data), "--base", str(base), "--json", str(out)]
    assert main(["diff", "__base__", str(adapter), *flags]) == 0
    shown, told = capsys.readouterr().out, json.loads(out.read_text("utf-8"))
    assert told["rows"] == 6 and told["a"] == "base"
    assert f"{len(told['changed'])} answers changed" in shown
    assert "layers.1.self_attn.v_proj" in shown and "training.steps" in shown
    assert f"{told['modules'][0]['change']:.3f}" in shown


def test_an_adapter_and_itself(adapter, data, base, capsys):
    flags = ["--data", str(data), "--base", str(base)]
    assert main(["diff", str(adapter), str(adapter), *flags]) == 0
    shown = capsys.readouterr().out
    assert "0 answers changed" in shown and "Settings that differ" not in shown


def test_a_file_as_text(adapter, capsys):
    path = str(adapter / "adapter_model.safetensors")
    assert main(["diff", "--text", path]) == 0
    text = capsys.readouterr().out
    assert text.startswith("8 tensors") and text.count("sha256:") == 8
    assert main(["diff", "--text", path]) == 0 and capsys.readouterr().out == text
    assert main(["diff", "--text", path, path]) == 0
    assert "layers.0.self_attn.q_proj" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["A"], ["A", "B"]),
        (["--text", "A", "--data", "x.jsonl"], ["--text", "--data"]),
        (["--text", "no-such-file"], ["no-such-file"]),
        (["__base__", "no-such-folder"], ["no-such-folder"]),
    ],
)
def test_refusals(arguments, named, capsys):
    assert main(["diff", *arguments]) == 1
    assert names(error_line(capsys), *named)

"""`minilora why`: the table of notes, and the file without the suspects."""

from __future__ import annotations

import json

from minilora.cli.app import main
from tests.cli.conftest import pairs, write_jsonl
from tests.says import error_line, names


def test_notes_are_shown_with_their_lines(base, adapter, capsys, tmp_path):
    data, out = adapter.parent / "my.jsonl", tmp_path / "why.json"
    flags = ["--adapter", str(adapter), "--data", str(data), "--base", str(base)]
    code = main(["why", *flags, "--prompt", "Dose of aspirin no 2?", "--top", "2",
                 "--json", str(out)])  # fmt: skip
    assert code == 0
    shown, told = capsys.readouterr().out, json.loads(out.read_text("utf-8"))
    assert len(told["notes"]) == 27 and told["checkpoints"] == []
    best = told["notes"][0]
    assert f" {best['source'].rpartition(':')[2]} " in shown and f"{best['score']:.3g}" in shown
    assert "--keep-checkpoints" in shown


def test_suspects_are_left_out_of_a_copy(base, adapter, capsys, tmp_path):
    data, clean = adapter.parent / "my.jsonl", tmp_path / "clean.jsonl"
    held = write_jsonl(tmp_path / "held.jsonl", pairs(4, 100))
    flags = ["--adapter", str(adapter), "--data", str(data), "--base", str(base)]
    more = ["--eval", str(held), "--suspects", "0.1", "--clean", str(clean)]
    assert main(["why", *flags, *more]) == 0
    assert "3 suspects among 27" in capsys.readouterr().out
    assert len(clean.read_text().splitlines()) == 27


def test_adapt_keeps_checkpoints_where_that_is_asked(base, tmp_path):
    data = write_jsonl(tmp_path / "my.jsonl", pairs(30))
    flags = ["--data", str(data), "--base", str(base), "--steps", "4", "--workers", "1", "--r", "2"]
    for name, more in (("kept", ["--keep-checkpoints"]), ("gone", [])):
        assert main(["adapt", *flags, "--out", str(tmp_path / name), *more]) == 0
    assert len(list((tmp_path / "kept.run/checkpoints").iterdir())) == 4
    assert not (tmp_path / "gone.run/checkpoints").exists()


def test_refusals(tmp_path, capsys):
    assert main(["why", "--adapter", "no-such", "--data", "x", "--prompt", "y"]) == 1
    assert names(error_line(capsys), "no-such")

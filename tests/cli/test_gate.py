"""`minilora gate`: verdicts as exit codes, what it writes, and that no failure looks like one."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from minilora.cli import gate as command
from minilora.cli.app import main
from minilora.hub import load_pretrained, save_pretrained
from minilora.lora import Adapter, LoRAConfig, attach
from minilora.text.answers import answers
from tests.cli.conftest import pairs, write_jsonl
from tests.says import error_line, names


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """A folder with an adapter, its merged model, and rows that the base answers rightly."""
    folder = tmp_path_factory.mktemp("gate")
    model, tokenizer = load_pretrained(base)
    asked = [row["prompt"] for row in pairs(120)]
    texts = answers(model, tokenizer, asked, 24)
    longer = answers(model, tokenizer, asked, 40)
    # An answer that has no end, or nothing in it, is nobody's completion.
    rows = [
        {"prompt": prompt, "completion": text.strip()}
        for prompt, text, more in zip(asked, texts, longer, strict=True)
        if text == more and text.strip()
    ]
    assert len(rows) >= 20
    write_jsonl(folder / "suite.jsonl", rows)
    rng = np.random.default_rng(0)
    attachment = attach(model, LoRAConfig(r=2), rng)
    quiet = attachment.adapter(base_name=str(base), tokenizer=tokenizer)
    quiet.write(folder / "quiet")
    for layer in attachment.layers.values():
        layer.lora_B.data[:] = rng.normal(0, 2, layer.lora_B.shape)
    attachment.adapter(base_name=str(base), tokenizer=tokenizer).write(folder / "loud")
    save_pretrained(folder / "merged", attachment.merge_and_unload(), tokenizer, "# merged\n")
    return folder


def run(made, *options, suite="suite.jsonl"):
    return main(["gate", "--suite", str(made / suite), *map(str, options)])


def test_the_verdict_is_the_exit_code(made, capsys, tmp_path):
    out, xml = tmp_path / "gate.json", tmp_path / "gate.xml"
    loose = tmp_path / "loose.toml"
    loose.write_text("drop = 0.3\n")
    assert run(made, "--adapter", made / "loud", "--json", out, "--junit", xml) == 1
    shown = capsys.readouterr().out
    assert "FAIL" in shown and "suite.jsonl:1" in shown
    evidence = json.loads(out.read_text())
    assert evidence["verdict"] == "fail" and evidence["candidate"]["kind"] == "adapter"
    assert evidence["candidate"]["fingerprint"] == Adapter.read(made / "loud").fingerprint
    assert evidence["rows_asked"] == evidence["rows_of"] == len(evidence["rows"]) >= 20
    assert all(row["right"][0] for row in evidence["rows"])
    assert ET.fromstring(xml.read_bytes()).get("failures") == "1"
    assert run(made, "--adapter", made / "quiet", "--rules", loose) == 0
    assert "PASS" in capsys.readouterr().out
    assert run(made, "--adapter", made / "quiet") == 2  # too few rows for a twentieth
    assert "CAN'T TELL" in capsys.readouterr().out


def test_merged_and_attached_answer_alike(made, base, tmp_path):
    found = []
    for name, options in (
        ("attached", ["--adapter", made / "loud"]),
        ("merging", ["--adapter", made / "loud", "--merge"]),
        ("model", ["--model", made / "merged", "--base", base]),
    ):
        out = tmp_path / f"{name}.json"
        assert run(made, *options, "--json", out) == 1
        evidence = json.loads(out.read_text())
        found.append([(row["before"], row["after"]) for row in evidence["rows"]])
        assert evidence["candidate"]["kind"] in ("adapter", "merged adapter", "model")
    assert found[0] == found[1] == found[2]


def test_a_baseline_takes_the_bases_place(made, tmp_path, capsys):
    out = tmp_path / "gate.json"
    loose = tmp_path / "loose.toml"
    loose.write_text("drop = 0.3\n")
    run(made, "--adapter", made / "loud", "--json", out)
    # The same adapter again lost nothing since; the base's own answers are better by now.
    again = tmp_path / "again.json"
    options = ["--baseline", out, "--rules", loose, "--json", again]
    assert run(made, "--adapter", made / "loud", *options) == 0
    assert [row["before"] for row in json.loads(again.read_text())["rows"]] == [
        row["after"] for row in json.loads(out.read_text())["rows"]
    ]
    capsys.readouterr()
    other = write_jsonl(tmp_path / "other.jsonl", pairs(4, start=100))
    assert (
        main(
            ["gate", "--suite", str(other), "--adapter", str(made / "loud"), "--baseline", str(out)]
        )
        == 3
    )
    assert names(error_line(capsys), str(out), 4, "other.jsonl:1")


def test_it_can_stop_early(made, tmp_path, capsys):
    rows = [json.loads(line) for line in (made / "suite.jsonl").read_text().splitlines()]
    many = [dict(row, patient=f"{i}.{turn}") for turn in range(6) for i, row in enumerate(rows)]
    suite = write_jsonl(tmp_path / "many.jsonl", many)
    out = tmp_path / "gate.json"
    code = main(
        ["gate", "--suite", str(suite), "--adapter", str(made / "loud"), "--sequential",
         "--json", str(out)]
    )  # fmt: skip
    assert code == 1
    evidence = json.loads(out.read_text())
    assert evidence["rows_asked"] < evidence["rows_of"] == len(many)
    assert f"{evidence['rows_asked']} of {len(many)}" in capsys.readouterr().out


def test_no_failure_has_the_exit_code_of_a_verdict(made, tmp_path, capsys, monkeypatch):
    loud, suite = str(made / "loud"), str(made / "suite.jsonl")
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "no answer here"}\n')
    bad = tmp_path / "bad.toml"
    bad.write_text("[metrics.'suite: nothing']\ndrop = 0.1\n")
    for options, *named in (
        (["--adapter", loud], "--suite", "--task"),
        (["--suite", suite], "--adapter", "--model"),
        (["--suite", suite, "--adapter", loud, "--model", loud], "--adapter", "--model"),
        (["--suite", suite, "--model", loud, "--merge"], "--merge", "--adapter"),
        (["--suite", suite, "--task", suite, "--adapter", loud], "suite, suite"),
        (["--suite", suite, "--adapter", loud, "--json", tmp_path / "no" / "x"], "--json", "no/x"),
        (["--suite", suite, "--adapter", loud, "--rules", bad], "suite: nothing", "suite: exact"),
        (["--suite", suite, "--adapter", loud, "--baseline", made / "loud" / "adapter_config.json"],
         "adapter_config.json"),
        (["--suite", text, "--adapter", loud], "text.jsonl"),
        (["--suite", tmp_path / "none.jsonl", "--adapter", loud], "none.jsonl"),
        (["--suite", suite, "--adapter", tmp_path / "none"], "none"),
        (["--suite", suite, "--adapter", loud, "--seed", "-1"], "--seed", -1),
        (["--suite", suite, "--adapter", loud, "--no-such"], "--no-such"),
    ):  # fmt: skip
        assert main(["gate", *map(str, options)]) == command.NOT_RUN == 3, options
        assert names(error_line(capsys), *named), options

    def broken(*_):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(command, "run_gate", broken)
    assert main(["gate", "--suite", suite, "--adapter", loud]) == 3
    assert "a mistake of ours" in capsys.readouterr().err

"""`minilora adapt`: what it writes and says, what it refuses, and how it stops and continues."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from minilora.cli.app import main
from minilora.cli.cost import duration
from minilora.hub import bases, load_pretrained
from minilora.lora import Adapter, attach, lora_layers
from minilora.runs import adapt as adapting
from minilora.runs import driver
from minilora.storage import sha256_file
from minilora.text.records import SHAPES
from minilora.training import DivergedError, fit
from minilora.ward import house_examples
from tests.cli.conftest import make_base, pairs, write_jsonl
from tests.says import names

FLAGS = ("--steps", "4", "--workers", "1", "--r", "2", "--batch-size", "4", "--lr", "0.02")


def adapt(base, data, out, *flags):
    """Exit code of the command with small settings; later flags win."""
    argv = ["adapt", "--data", str(data), "--base", str(base), "--out", str(out), *FLAGS, *flags]
    return main(argv)


@pytest.fixture
def loss_png():
    """Asks for the real plot, which is slow."""


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """No waiting for the disk, and no plot unless a test asks for it."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    if "loss_png" not in request.fixturenames:
        monkeypatch.setattr(adapting, "plot_loss", lambda history, path: None)


@pytest.fixture
def data(tmp_path):
    return write_jsonl(tmp_path / "my.jsonl", pairs(30))


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def only_error(capsys):
    """The one line on stderr that is left when progress bars are taken out."""
    lines = [line for line in capsys.readouterr().err.split("\n") if "error:" in line]
    assert len(lines) == 1
    return lines[0]


# -- what it writes --------------------------------------------------------------------------------


def test_writes_a_peft_folder_and_the_run_beside_it(base, data, tmp_path, capsys, loss_png):
    out = tmp_path / "deep" / "out"
    assert adapt(base, data, out) == 0
    assert entries(out) == ["adapter_config.json", "adapter_model.safetensors", "minilora.json"]
    assert entries(tmp_path / "deep") == ["out", "out.run"]
    assert entries(tmp_path / "deep" / "out.run") == ["history.jsonl", "loss.png", "run.json"]
    assert (tmp_path / "deep/out.run/loss.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 16)
    assert config["base_model_name_or_path"] == str(base)
    known = Adapter.read(out).provenance
    assert known["data"]["sha256"] == sha256_file(data)
    assert known["training"]["steps"] == 4 and known["training"]["batch_size"] == 4
    assert known["held_out"] == 3
    evaluation = known["evaluation"]
    assert evaluation["after"]["loss"] < evaluation["before"]["loss"]
    history = [json.loads(x) for x in (tmp_path / "deep/out.run/history.jsonl").open()]
    assert [record["step"] for record in history] == [1, 2, 3, 4]
    assert all("eval_loss" in record for record in history)
    said = capsys.readouterr().out
    assert f"{evaluation['before']['loss']:.4f}" in said
    assert f"{evaluation['after']['loss']:.4f}" in said


def test_says_what_it_does(base, data, tmp_path, capsys):
    assert adapt(base, data, tmp_path / "out", "--targets", "q_proj, gate_proj") == 0
    said = capsys.readouterr().out
    model, _ = load_pretrained(base)
    whole = sum(p.size for p in model.parameters())
    trained = 2 * 2 * ((12 + 12) + (12 + 20))  # layers * r * (in + out)
    assert f"{whole:,} parameters, {4 * whole / 1024:.1f} KiB" in said
    assert names(said, trained, f"{trained / whole:.2%}")  # the share of the base's parameters
    assert names(said, f"{4 * trained} B", f"{8 * trained / 1024:.1f} KiB")  # adapter, optimizer
    assert names(said, "r 2", "scaling 8", 27, 3, "my.jsonl", " mg.")


def test_the_saved_adapter_is_the_trained_one(base, data, tmp_path):
    """The loss that the sidecar reports is the loss of base + folder, computed from outside."""
    held = write_jsonl(tmp_path / "held.jsonl", pairs(5, 100))
    assert adapt(base, data, tmp_path / "out", "--eval", str(held)) == 0
    evaluation = Adapter.read(tmp_path / "out").provenance["evaluation"]
    model, tokenizer = load_pretrained(base)
    before = reference_loss(model, tokenizer, pairs(5, 100))
    attach(model, Adapter.read(tmp_path / "out"))
    after = reference_loss(model, tokenizer, pairs(5, 100))
    assert evaluation["before"]["loss"] == pytest.approx(before, rel=1e-5)
    assert evaluation["after"]["loss"] == pytest.approx(after, rel=1e-5)
    assert abs(before - after) > 1e-3


def reference_loss(model, tokenizer, records):
    """-log softmax at each answer token, in plain NumPy."""
    losses = []
    for record in records:
        prompt = tokenizer.encode_prompt(record["prompt"])
        answer = tokenizer.encode(record["completion"] + "<|end|>")
        z = model(np.array([prompt + answer])).data[0].astype(np.float64)
        log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
        losses += [-log_p[len(prompt) + i - 1, token] for i, token in enumerate(answer)]
    return np.mean(losses)


def test_the_same_command_gives_the_same_bytes(base, data, tmp_path):
    for out in ("a", "b"):
        assert adapt(base, data, tmp_path / out, "--dropout", "0.2") == 0
    for name in entries(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("flags", "layers", "scaling"),
    [
        (("--targets", "all-linear"), 14, 8.0),
        (("--rslora", "--alpha", "3"), 4, 3 / 2**0.5),
        (("--targets", "layers.1.self_attn.o_proj", "--alpha", "0.5"), 1, 0.25),
    ],
)
def test_settings_reach_the_adapter(base, data, tmp_path, flags, layers, scaling):
    assert adapt(base, data, tmp_path / "out", *flags) == 0
    found = Adapter.read(tmp_path / "out")
    assert len(found.modules) == layers
    assert found.config.scaling == pytest.approx(scaling)


@pytest.mark.processes
def test_two_workers_train_too(base, data, tmp_path):
    assert adapt(base, data, tmp_path / "out", "--workers", "2") == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_steps_and_rate_have_defaults_from_data_and_base(base, data, tmp_path, capsys):
    argv = ["adapt", "--data", str(data), "--base", str(base), "--out", str(tmp_path / "out")]
    assert main([*argv, "--r", "2", "--workers", "1"]) == 0
    known = Adapter.read(tmp_path / "out").provenance["training"]
    assert known["steps"] == 50  # 3 passes would be 6
    assert known["lr"] == 0.015  # 1.92 / 12 would be more


def test_only_the_first_rows_are_judged(tmp_path, capsys):
    base = make_base(tmp_path / "base", 0, limit=700)
    examples = [e.to_dict() for e in house_examples("cardiology", "heldout", 4, seed=3)]
    bad = "{not JSON"  # a line of the file, and no example
    held = write_jsonl(tmp_path / "eval.jsonl", [bad, *examples])
    three = write_jsonl(tmp_path / "three.jsonl", examples[:3])
    data = write_jsonl(tmp_path / "my.jsonl", pairs(8))
    assert adapt(base, data, tmp_path / "a", "--eval", str(held), "--eval-rows", "3") == 0
    assert names(capsys.readouterr().out, "3 of 4", "eval.jsonl")
    assert adapt(base, data, tmp_path / "b", "--eval", str(three)) == 0
    few, all_three = (Adapter.read(tmp_path / x).provenance for x in "ab")
    assert few["evaluation"]["after"] == all_three["evaluation"]["after"]
    assert few["evaluation"]["after"]["house"]["cardiology"]["count"] == few["judged"] == 3


def test_rows_to_judge_of_a_plain_text(base, tmp_path, capsys):
    text = tmp_path / "my.txt"
    text.write_text(
        "Notes are short. They say what was done, and by whom, and when. " * 30, "utf-8"
    )
    options = ("--eval", str(text), "--eval-rows", "2", "--max-length", "32", "--steps", "1")
    assert adapt(base, text, tmp_path / "out", *options) == 0
    assert Adapter.read(tmp_path / "out").provenance["judged"] == 2


def test_rows_to_judge_of_what_is_split_off(base, data, tmp_path, capsys):
    assert adapt(base, data, tmp_path / "out", "--eval-rows", "2") == 0
    assert names(capsys.readouterr().out, 27, "2 of 3", "my.jsonl")


@pytest.mark.processes
def test_time_and_memory_are_told(base, data, tmp_path, capsys):
    assert adapt(base, data, tmp_path / "out", "--workers", "2") == 0
    said = capsys.readouterr().out
    parts = (
        r"opening [\d.]+ s, judging before [\d.]+ s, training [\d.]+ s, judging after and saving"
    )
    assert re.search(rf"From start to adapter: [\d.]+ s \({parts} [\d.]+ s\)", said)
    assert re.search(r"Peak memory: [\d.]+ [MG]iB, and [\d.]+ [MG]iB in the largest child", said)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (187.2, "3 min 7 s")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


# -- shapes of data --------------------------------------------------------------------------------


def test_chats_are_taken(base, tmp_path, capsys):
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"a {i}"},
                {"role": "assistant", "content": "bb"},
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": f"answer {i}"},
            ]
        }
        for i in range(21)
    ]
    data = write_jsonl(tmp_path / "chat.jsonl", chats)
    assert adapt(base, data, tmp_path / "out") == 0
    assert names(capsys.readouterr().out, 19, "answer")  # the last answer is the sample's


def test_plain_text_is_cut_into_windows(base, tmp_path, capsys):
    data = tmp_path / "notes.txt"
    data.write_text("aspirin and ramipril were given. " * 60, "utf-8")
    assert adapt(base, data, tmp_path / "out", "--max-length", "16") == 0
    known = Adapter.read(tmp_path / "out").provenance
    assert known["data"]["examples"] > 20 and known["held_out"] > 0
    assert names(capsys.readouterr().out, known["held_out"], "aspirin")


def test_how_rows_are_read_is_said(base, tmp_path, capsys):
    rows = [{"instruction": p["prompt"], "output": p["completion"]} for p in pairs(7)]
    data = write_jsonl(tmp_path / "my.jsonl", [*rows, *pairs(14)])
    assert adapt(base, data, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert names(said, f"7 of {SHAPES['instruction']}", f"14 of {SHAPES['prompt']}")


def test_rows_under_another_name_are_a_text_only_where_it_is_wanted(base, tmp_path, capsys):
    data = write_jsonl(tmp_path / "my.data", pairs(30))
    assert adapt(base, data, tmp_path / "out") == 1
    assert names(only_error(capsys), "my.data", "--text") and entries(tmp_path) == ["my.data"]
    assert adapt(base, data, tmp_path / "out", "--text", "--max-length", "32") == 0
    assert names(capsys.readouterr().out, f"1 of {SHAPES['text']}")
    held = write_jsonl(tmp_path / "held.jsonl", pairs(12))
    assert adapt(base, data, tmp_path / "o", "--text", "--eval", str(held)) == 0
    assert Adapter.read(tmp_path / "o").provenance["eval"]["examples"] < 12


def test_a_small_set_is_not_split(base, tmp_path, capsys):
    data = write_jsonl(tmp_path / "few.jsonl", pairs(19))
    assert adapt(base, data, tmp_path / "out") == 0
    known = Adapter.read(tmp_path / "out").provenance
    assert known["held_out"] == 0 and known["evaluation"]["before"] == {}
    assert names(capsys.readouterr().out, 19, 20)


def test_bad_and_long_lines_are_named_and_left_out(base, tmp_path, capsys):
    bad = ["{no json", '{"prompt": 3}', '["list"]', '{"prompt": "a", "completion": " "}']
    long = {"prompt": "word " * 90, "completion": "x"}
    data = write_jsonl(tmp_path / "my.jsonl", [*pairs(20), *bad * 3, long])
    assert adapt(base, data, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert names(said, 13, 3)
    for line in range(21, 31):
        assert f"my.jsonl:{line}" in said
    assert "my.jsonl:31" not in said
    assert names(said, "JSON", "'completion'")
    assert Adapter.read(tmp_path / "out").provenance["data"]["bad"] == 13


def test_over_long_lines_are_named(base, tmp_path, capsys):
    long = {"prompt": "word " * 90, "completion": "x"}
    data = write_jsonl(tmp_path / "my.jsonl", [long, *pairs(3)])
    assert adapt(base, data, tmp_path / "out", "--max-length", "40") == 0
    said = capsys.readouterr().out
    assert names(said, "my.jsonl:1 ", 40)


def test_house_records_are_scored_before_and_after(tmp_path, capsys):
    base = make_base(tmp_path / "base", 0, limit=700)
    examples = [e.to_dict() for e in house_examples("cardiology", "heldout", 2, seed=3)]
    examples += [e.to_dict() for e in house_examples("pediatrics", "heldout", 1, seed=3)]
    other = {"task": "house/cardiology", "prompt": "p", "completion": "not the format", "facts": {}}
    held = write_jsonl(tmp_path / "eval.jsonl", [*examples, other])
    data = write_jsonl(tmp_path / "my.jsonl", pairs(8))
    assert adapt(base, data, tmp_path / "out", "--eval", str(held)) == 0
    evaluation = Adapter.read(tmp_path / "out").provenance["evaluation"]
    for when in ("before", "after"):
        counts = {ward: s["count"] for ward, s in evaluation[when]["house"].items()}
        assert counts == {"cardiology": 2, "pediatrics": 1}
    said = capsys.readouterr().out
    for words in ("cardiology: exact answers", "pediatrics: invented doses", "F1 of drugs"):
        assert words in said


# -- what it refuses, with nothing written ---------------------------------------------------------

REFUSED = [
    (
        ("--eval-rows", "0"),
        (
            "eval_rows",
            0,
        ),
    ),
    (("--r", "0"), (0,)),
    (("--r", "9"), (4,)),
    (("--alpha", "-1"), ("lora_alpha",)),
    (("--alpha", "inf"), ("lora_alpha",)),
    (("--dropout", "1"), ("lora_dropout",)),
    (("--targets", "q_prj"), ("q_proj",)),
    (("--targets", " , "), ("target_modules",)),
    (("--targets", "lm_head"), ("lm_head",)),
    (("--alpha", "1e308"), ("lora_alpha",)),
    (
        ("--alpha", "nan"),
        (
            "lora_alpha",
            float("nan"),
        ),
    ),
    (
        ("--dropout", "nan"),
        (
            "lora_dropout",
            float("nan"),
        ),
    ),
    (
        ("--dropout", "inf"),
        (
            "lora_dropout",
            float("inf"),
        ),
    ),
    (
        ("--steps", "0"),
        (
            "steps",
            0,
            1,
        ),
    ),
    (
        ("--steps", "-1"),
        (
            "steps",
            -1,
            1,
        ),
    ),
    (
        ("--lr", "inf"),
        (
            "lr",
            float("inf"),
            0,
        ),
    ),
    (
        ("--lr", "-1"),
        (
            "lr",
            -1.0,
            0,
        ),
    ),
    (
        ("--workers", "1000000"),
        (
            "workers",
            1000000,
            0,
            64,
        ),
    ),
    (
        ("--batch-size", "0"),
        (
            "batch_size",
            0,
        ),
    ),
    (
        ("--lr", "0"),
        (
            "lr",
            0,
        ),
    ),
    (
        ("--lr", "nan"),
        (
            "lr",
            float("nan"),
        ),
    ),
    (
        ("--workers", "-1"),
        (
            "workers",
            -1,
        ),
    ),
    (("--max-length", "65"), (64,)),
    (
        ("--max-length", "0"),
        (
            "max_length",
            0,
        ),
    ),
    (("--base", "no/such"), ("no/such",)),
    (("--data", "no.jsonl"), ("no.jsonl",)),
    (("--eval", "no.jsonl"), ("no.jsonl",)),
    (
        ("--out", "."),
        (
            "--out",
            ".",
        ),
    ),
    (("--resume",), ("out.run",)),
]


@pytest.mark.parametrize(("flags", "named"), REFUSED, ids=lambda x: " ".join(map(str, x))[:24])
def test_odd_settings_are_refused(base, data, tmp_path, capsys, flags, named):
    assert adapt(base, data, tmp_path / "out", *flags) == 1
    assert names(only_error(capsys), *named)
    assert entries(tmp_path) == ["my.jsonl"]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([], ("data",)),
        (["", "  "], ("data",)),
        (["{bad"] * 4 + pairs(3), ("4 of 7",)),
        (["[", '{"prompt": "a"}', "]"], ("item 1", "completion")),
        (["[", "]"], (0,)),
        ([{"prompt": "word " * 90, "completion": "x"}], (64,)),
    ],
)
def test_data_that_is_mostly_bad_is_refused(base, tmp_path, capsys, lines, named):
    data = write_jsonl(tmp_path / "my.jsonl", lines)
    assert adapt(base, data, tmp_path / "out") == 1
    assert names(only_error(capsys), "my.jsonl", *named)
    assert entries(tmp_path) == ["my.jsonl"]


def test_half_bad_is_still_taken(base, tmp_path):
    data = write_jsonl(tmp_path / "my.jsonl", ["{bad"] * 3 + pairs(3))
    assert adapt(base, data, tmp_path / "out") == 0


def test_text_that_is_not_utf8_is_refused(base, tmp_path, capsys):
    data = tmp_path / "my.jsonl"
    data.write_bytes(b'{"prompt": "\xff"}')
    assert adapt(base, data, tmp_path / "out") == 1
    assert names(only_error(capsys), data, "UTF-8")


@pytest.mark.parametrize("name", ["thesis.docx", "config.json", "adapter_model.safetensors"])
def test_a_folder_that_holds_something_else_is_refused_first(
    base, data, tmp_path, capsys, monkeypatch, name
):
    monkeypatch.setattr(adapting, "open_base", None)  # refused before anything is opened
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    assert adapt(base, data, out) == 1
    assert names(only_error(capsys), name)
    assert (out / name).read_text() == "mine" and entries(tmp_path) == ["my.jsonl", "out"]


def test_a_base_or_a_file_is_never_replaced(base, data, tmp_path, capsys):
    before = entries(base)
    assert adapt(base, data, base) == 1
    assert names(only_error(capsys), base)
    assert entries(base) == before
    assert adapt(base, data, data) == 1
    assert names(only_error(capsys), data)


def test_a_run_folder_that_holds_something_else_is_refused(base, data, tmp_path, capsys):
    (tmp_path / "out.run").mkdir()
    (tmp_path / "out.run" / "diary.txt").write_text("mine")
    assert adapt(base, data, tmp_path / "out") == 1
    assert names(only_error(capsys), tmp_path / "out.run")
    assert entries(tmp_path / "out.run") == ["diary.txt"]


def test_the_default_base_that_is_missing_is_named(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bases, "WARD_BASE", tmp_path / "data" / "ward-base")
    assert main(["adapt", "--data", str(data), "--out", str(tmp_path / "out")]) == 1
    message = only_error(capsys)
    assert names(message, tmp_path / "data" / "ward-base", "--base")


def test_the_default_base_is_ward_base(base, data, tmp_path, monkeypatch):
    monkeypatch.setattr(bases, "WARD_BASE", base)
    argv = ["adapt", "--data", str(data), "--out", str(tmp_path / "out"), *FLAGS]
    assert main(argv) == 0
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "ward-base"


# -- stopping and continuing -----------------------------------------------------------------------

LONGER = ("--steps", "20", "--dropout", "0.1")  # a checkpoint every 2 steps


def stop_after(monkeypatch, steps, error):
    """Make the run end with `error` when `steps` steps are done."""

    def stopping(model, batches, config, **options):
        take = batches.batch

        def batch(step):
            if step == steps:
                raise error
            return take(step)

        batches.batch = batch
        return fit(model, batches, config, **options)

    monkeypatch.setattr(driver, "fit", stopping)


def test_a_stopped_run_leaves_no_adapter_and_resumes_to_the_same_bytes(
    base, data, tmp_path, capsys, monkeypatch
):
    assert adapt(base, data, tmp_path / "whole", *LONGER) == 0
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 7, KeyboardInterrupt())
        assert adapt(base, data, out, *LONGER) == 130
    assert names(capsys.readouterr().err, "--resume")
    assert not out.exists() and entries(tmp_path) == ["my.jsonl", "out.run", "whole", "whole.run"]
    assert entries(tmp_path / "out.run" / "checkpoints") == ["step-000004", "step-000006"]

    assert adapt(base, data, out, *LONGER) == 1
    assert names(only_error(capsys), "step-000006", "--resume")
    assert adapt(base, data, out, *LONGER, "--resume", "--lr", "0.03") == 1
    assert names(only_error(capsys), "lr", 0.02, 0.03)

    assert adapt(base, data, out, *LONGER, "--resume") == 0
    for name in entries(out):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / "out.run/history.jsonl").open()]
    assert steps == list(range(1, 21))
    assert entries(tmp_path / "out.run") == ["history.jsonl", "run.json"]


def test_other_data_does_not_continue_a_run(base, data, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3, KeyboardInterrupt())
        assert adapt(base, data, tmp_path / "out", *LONGER) == 130
    capsys.readouterr()
    write_jsonl(data, pairs(30, 1))
    assert adapt(base, data, tmp_path / "out", *LONGER, "--resume") == 1
    assert "data_sha256" in only_error(capsys)


def test_a_run_stopped_before_a_checkpoint_is_begun_anew(base, data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1, KeyboardInterrupt())
        assert adapt(base, data, tmp_path / "out", *LONGER) == 130
    assert adapt(base, data, tmp_path / "out") == 0
    lines = (tmp_path / "out.run" / "history.jsonl").read_text().splitlines()
    assert len(lines) == 4


def test_a_finished_run_is_replaced_and_not_resumed(base, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert adapt(base, data, out) == 0
    first = (out / "adapter_model.safetensors").read_bytes()
    assert adapt(base, data, out, "--resume") == 1
    assert names(only_error(capsys), tmp_path / "out.run")
    assert adapt(base, data, out, "--seed", "1") == 0
    assert (out / "adapter_model.safetensors").read_bytes() != first


def test_an_earlier_adapter_stays_when_a_new_run_is_stopped(base, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert adapt(base, data, out) == 0
    first = (out / "adapter_model.safetensors").read_bytes()
    stop_after(monkeypatch, 2, KeyboardInterrupt())
    assert adapt(base, data, out, "--seed", "1") == 130
    assert (out / "adapter_model.safetensors").read_bytes() == first


def test_divergence_names_step_and_checkpoint_and_can_be_tried_again(
    base, data, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        explode_at(patch, 5)
        assert adapt(base, data, out, *LONGER) == 1
    message = only_error(capsys)
    assert "step 5" in message and "step-000004" in message and "Traceback" not in message
    assert not out.exists()
    assert adapt(base, data, out, *LONGER, "--resume") == 1
    assert names(only_error(capsys), tmp_path / "out.run")
    assert adapt(base, data, out) == 0


def test_a_rate_far_too_high_saves_no_number_that_is_not_finite(base, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert adapt(base, data, out, "--lr", "1e308") == 1
    err = capsys.readouterr().err
    assert "Warning" not in err and names(err, "model.layers.0.self_attn.q_proj.lora_A")
    assert not out.exists() and not (tmp_path / "out.run" / "checkpoints").exists()


def explode_at(monkeypatch, step):
    """Put NaN in the adapter before a step, as a rate far too high would."""

    def exploding(model, batches, config, **options):
        take = batches.batch

        def batch(i):
            if i == step:
                next(iter(lora_layers(model).values())).lora_B.data[:] = np.nan
            return take(i)

        batches.batch = batch
        return fit(model, batches, config, **options)

    monkeypatch.setattr(driver, "fit", exploding)


def test_a_loss_that_is_not_finite_at_the_end_is_refused(base, data, tmp_path, capsys, monkeypatch):
    def spoiled(model, *args, **options):
        history = fit(model, *args, **options)
        next(iter(lora_layers(model).values())).lora_B.data[:] = np.nan
        return history

    monkeypatch.setattr(driver, "fit", spoiled)
    assert adapt(base, data, tmp_path / "out") == 1
    assert names(only_error(capsys), float("nan"))
    assert not (tmp_path / "out").exists()
    assert issubclass(DivergedError, ValueError)


# -- as a process ----------------------------------------------------------------------------------


@pytest.mark.processes
def test_a_mistake_is_one_line_without_traceback(base, tmp_path):
    argv = ["adapt", "--data", "none.jsonl", "--base", str(base), "--out", str(tmp_path / "o")]
    done = run_process(argv)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: none.jsonl") and done.stderr.count("\n") == 1


def run_process(argv, **options):
    return subprocess.run(
        launcher(argv),
        capture_output=True, text=True, timeout=60, **options,
    )  # fmt: skip


def launcher(argv):
    code = "import sys; from minilora.cli.app import main; sys.exit(main())"
    return [sys.executable, "-c", code, *argv]


@pytest.mark.processes
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_stops_a_process_cleanly(base, data, tmp_path):
    flags = ("--steps", "100000", "--workers", "2", "--r", "2")
    argv = ["adapt", "--data", str(data), "--base", str(base), "--out", str(tmp_path / "o"), *flags]
    history = tmp_path / "o.run" / "history.jsonl"
    with subprocess.Popen(
        launcher(argv), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 40
        while not history.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors and errors.endswith("error: stopped by Ctrl-C\n")
    assert entries(tmp_path) == ["my.jsonl", "o.run"]


def test_a_run_ends_with_the_gates_verdict(base, data, tmp_path, capsys):
    assert adapt(base, data, tmp_path / "plain") == 0
    assert names(capsys.readouterr().out, "No verdict", "--suite")
    suite = write_jsonl(tmp_path / "old.jsonl", pairs(6, start=100))
    assert adapt(base, data, tmp_path / "out", "--suite", str(suite)) == 0
    assert names(capsys.readouterr().out, "old", "exact", "CAN'T TELL")  # six rows tell nothing
    told = Adapter.read(tmp_path / "out").provenance["evaluation"]["gate"]
    assert told["verdict"] == "can't tell"
    assert [(m["name"], m["rows"]) for m in told["metrics"]] == [("old: exact", 6)]
    assert adapt(base, data, tmp_path / "none", "--no-gate") == 0
    assert "No verdict" not in capsys.readouterr().out
    assert "gate" not in Adapter.read(tmp_path / "none").provenance["evaluation"]
    assert adapt(base, data, tmp_path / "both", "--no-gate", "--suite", str(suite)) == 1
    assert names(capsys.readouterr().err, "--suite", str(suite))
    assert not (tmp_path / "both").exists()


def test_a_big_suite_is_asked_in_part_and_from_all_over_it(base, data, tmp_path, monkeypatch):
    suite = write_jsonl(tmp_path / "old.jsonl", pairs(40, start=100))
    monkeypatch.setattr(adapting.defaults, "JUDGING_COST", 0)
    monkeypatch.setattr(adapting.defaults, "JUDGED", 10)
    result = driver.run(
        adapting.AdaptPlan(
            data=data, out=tmp_path / "out", base=str(base), steps=1, batch_size=2, workers=1,
            r=2, suite=suite, eval_rows=1,
        )
    )  # fmt: skip
    rows = [row.case.source for row in result.gate.rows()]
    assert rows == [f"{suite}:{i}" for i in range(1, 41, 4)]
